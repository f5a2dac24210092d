"""Command lines under attack: in a process of their own, with bounds, and nothing written but the output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "tests" / "golden" / "v1" / "bundle"
FILES = sorted((ROOT / "tests" / "golden" / "v1").glob("*.ugic"))


def tree(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its bytes, every link with its target, every folder."""
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = path.read_bytes() if path.is_file() else "folder"
    return found


def ugicm(
    folder: Path, *arguments: object, memory_mb: int | None = None, prepare: str = ""
) -> subprocess.CompletedProcess[str]:
    """Runs `ugicm …` in a folder; hanging for minutes is a failure.

    Args:
        memory_mb: limit of address space.
        prepare: shell commands to run before, in the same process.
    """
    limit = f"ulimit -v {memory_mb * 1024}; " if memory_mb else ""
    script = f'{prepare}{limit}exec "$0" -m ugicm "$@"'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, *map(os.fspath, map(str, arguments))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        check=False,
    )


def refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The error lines of a command that failed as it should: status 2, a line an error, no other word."""
    assert done.returncode == 2, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    lines = [line for line in done.stderr.splitlines() if not line.startswith("warning: ")]
    assert lines and all(line.startswith("error: ") for line in lines), done.stderr
    return lines
