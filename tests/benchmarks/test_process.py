"""Both processes decode the same image from files of their own; how long they take is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.process import OURS, PYTHON, THEIRS, measure, write_files
from benchmarks.spending import spend
from ugicm import Codec
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.pictures import generated_image

ROOT = Path(__file__).parents[2]
MEMORY = """
import resource, sys
from benchmarks.spending import spend
more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 100_000_000
print(spend([sys.executable, "-c", f"b'x' * {more}"]).peak_mb / (more / 1e6))
"""


def test_each_process_writes_its_picture(tmp_path: Path) -> None:
    image = generated_image(50, 70)
    commands = write_files(image, 4, tmp_path)
    assert list(commands) == [THEIRS, OURS, PYTHON]
    for command in commands.values():
        assert spend(command).cpu_s > 0
    ours, theirs = (read_image(tmp_path / f"{name}.png") for name in ("ours", "theirs"))
    expected = Codec.from_bundle(threads=1).decode((tmp_path / "ours.ugic").read_bytes())
    assert np.abs(ours.astype(int) - expected).max() <= 1
    assert theirs.shape == ours.shape == image.shape


def test_medians_are_of_each_command_beside_theirs() -> None:
    commands = {THEIRS: [sys.executable, "-c", "sum(range(10**6))"], OURS: [sys.executable, "-c", "pass"]}
    found = measure(commands, 1)
    assert found.keys() == commands.keys() and found[THEIRS]["times_faster"] == 1
    assert all(row["wall_s"] > 0 and row["cpu_s"] > 0 for row in found.values())


def test_a_process_that_fails_is_no_figure() -> None:
    with pytest.raises(SystemExit, match="exit status 3"):
        spend([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_process_tells_its_memory() -> None:
    """More than its parent held, which is a small process here."""
    assert float(subprocess.run([sys.executable, "-c", MEMORY], cwd=ROOT, check=True, capture_output=True).stdout) > 1
