"""`python -m tests.machines.emulate aarch64 haswell westmere --work DIR`: other processors, emulated by qemu-user.

On each: `ugicm verify` of the golden bundles, `ugicm conformance tests/golden`, then every golden codec encodes there
what is decoded here and the reverse. A decoder compares the checksum of the symbols, so exit status 0 says they are
the encoder's.

Run by hand, as root of a Debian machine: qemu-user and, for aarch64, Debian's Python and the wheels of the index are
fetched into DIR and nowhere else. haswell has AVX2 and no VNNI, westmere no AVX2; both run this Python. ONNX Runtime is
1.23.2 on aarch64, since 1.32.0 ends at import in that emulator.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from tests.golden.make import picture
from tests.machines.requirements import TAGS, requirements

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
BUNDLES = tuple(sorted(GOLDEN.glob("v*/bundle")))
CPUS = {"aarch64": "cortex-a72", "haswell": "Haswell", "westmere": "Westmere"}
DEBIAN = ("python3.11-minimal", "libpython3.11-stdlib", "libstdc++6", "libgomp1")
ONNX_RUNTIME = "onnxruntime==1.23.2"


def prepare(work: Path) -> None:
    """Debian's arm64 Python in `root`, wheels in `site`, once."""
    root, lists, cache, debs = (work / name for name in ("root", "lists", "cache", "debs"))
    if (work / "site").is_dir():
        return
    for folder in (root, lists / "partial", cache / "archives" / "partial", debs):
        folder.mkdir(parents=True, exist_ok=True)
    set_to = {
        "APT::Architecture": "arm64",
        "Dir::State::lists": lists,
        "Dir::Cache": cache,
        "Dir::State::status": "/dev/null",
    }
    apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in set_to.items())]
    subprocess.run([*apt, "update"], check=True)
    listed = [*apt, "--print-uris", "install", "-y", "--no-install-recommends", *DEBIAN]
    lines = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.splitlines()
    names = sorted({line.split()[1].split("_")[0] for line in lines if line.startswith("'")})
    subprocess.run([*apt, "download", *names], cwd=debs, check=True)
    for deb in debs.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    options = ["--only-binary=:all:", "--implementation=cp", "--python-version=3.11", "--quiet"]
    options += [f"--platform={tag}" for tag in TAGS]
    wanted = [*requirements("linux", "aarch64"), ONNX_RUNTIME]
    into = ["--target", work / "fetching", *options, *wanted]
    subprocess.run([sys.executable, "-m", "pip", "install", *into], check=True)
    (work / "fetching").rename(work / "site")


def python_of(machine: str, work: Path) -> list[str | Path]:
    """The command that starts a Python there."""
    if machine != "aarch64":
        return ["qemu-x86_64", "-cpu", CPUS[machine], sys.executable]
    return ["qemu-aarch64", "-cpu", CPUS[machine], "-L", work / "root", work / "root/usr/bin/python3.11"]


def ugicm(python: list[str | Path], work: Path, *arguments: str | Path, site: Path | None = None) -> str:
    """A command's output; it ends this run where its status is not 0."""
    paths = [str(ROOT), *([str(site)] if site else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"OMP_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(work / f"numba-{python[0]}")}
    command = [*python, "-m", "ugicm", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stdout[-3000:]}{done.stderr[-2000:]}")
    return done.stdout


def exchange(python: list[str | Path], work: Path, site: Path | None) -> int:
    """Files that one side encoded and the other decoded."""
    here: list[str | Path] = [sys.executable]
    count = 0
    for bundle in BUNDLES:
        for size in ((40, 56), (130, 100)):
            source = work / "picture.png"
            Image.fromarray(picture(*size)).save(source)
            for encoder, decoder in ((here, python), (python, here)):
                options = [["--bundle", bundle, "--threads", "1"]] * 2
                sites = [site if side is python else None for side in (encoder, decoder)]
                ugicm(encoder, work, "encode", source, "-o", work / "a.ugic", *options[0], site=sites[0])
                ugicm(decoder, work, "decode", work / "a.ugic", "-o", work / "a.png", *options[1], site=sites[1])
                count += 1
    return count


def main() -> int:
    """Prints what each machine says. Anything that is not exact ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.machines.emulate", description=__doc__)
    parser.add_argument("machines", nargs="+", choices=list(CPUS))
    parser.add_argument("--work", type=Path, required=True, help="folder for all that is fetched")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if shutil.which("qemu-aarch64") is None:
        subprocess.run(["apt-get", "-qq", "install", "-y", "qemu-user"], check=True)
    for machine in options.machines:
        if machine == "aarch64":
            prepare(work)
        python, site = python_of(machine, work), work / "site" if machine == "aarch64" else None
        print(f"== {machine} (emulated)", flush=True)
        for bundle in BUNDLES:
            admitted = ugicm(python, work, "verify", bundle, site=site).splitlines()[-1]
            print(f"verify {bundle.relative_to(ROOT)}: {admitted.split(';')[0]}", flush=True)
        print(ugicm(python, work, "conformance", GOLDEN, site=site), flush=True)
        print(f"encoded here, decoded there and the reverse: {exchange(python, work, site)} files", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
