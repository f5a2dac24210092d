"""`python -m tests.machines.requirements`: the runtime's requirements on Linux for ARM, asked of the index.

For each Python of 3.11 to 3.13, `pip install --dry-run` for wheels of the platform's tags and the requirements of
setup.py whose markers hold there. Outside pytest: it asks the network. tests/test_requirements.py has the markers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
TAGS = [f"manylinux_2_{minor}_aarch64" for minor in (17, 27, 28)] + ["manylinux2014_aarch64"]
PYTHONS = ("3.11", "3.12", "3.13")


def requirements(system: str, machine: str, python: str = "3.11", *extras: str) -> list[str]:
    """What `pip install .[extras]` asks for on a machine, without the markers."""
    with mock.patch("setuptools.setup") as setup:
        code = compile((ROOT / "setup.py").read_text(encoding="utf-8"), str(ROOT / "setup.py"), "exec")
        exec(code, {"__file__": str(ROOT / "setup.py"), "__name__": "__main__"})
    said = setup.call_args.kwargs
    texts = [*said["install_requires"], *(text for extra in extras for text in said["extras_require"][extra])]
    where = {"sys_platform": system, "platform_machine": machine, "python_version": python}
    parsed = map(Requirement, texts)
    return [f"{r.name}{r.specifier}" for r in parsed if r.marker is None or r.marker.evaluate(where)]


def resolved(python: str) -> list[str]:
    """Names and versions that pip would install for Linux on ARM. Raises CalledProcessError where it finds none."""
    options = ["--dry-run", "--ignore-installed", "--only-binary=:all:", "--implementation=cp", "--quiet", "--report=-"]
    options += [f"--platform={tag}" for tag in TAGS] + [f"--python-version={python}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "install", "--target", folder, *options]
        command += requirements("linux", "aarch64", python, "cpu")
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [entry["metadata"] for entry in json.loads(done.stdout)["install"]]
    return sorted(f"{one['name']} {one['version']}" for one in found)


def main() -> int:
    """Prints what each Python gets. Returns 1 if one gets nothing."""
    status = 0
    for python in PYTHONS:
        try:
            print(f"Python {python}, Linux aarch64: {', '.join(resolved(python))}")
        except subprocess.CalledProcessError as error:
            print(f"Python {python}, Linux aarch64: {error.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
