"""Places that cannot be written, are full, or are written by two at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.commands import BUNDLE, refusals, tree, ugicm
from ugicm.runtime.errors import OutputError
from ugicm.runtime.files.images import write_image
from ugicm.runtime.files.output import remove_stale, write_atomically


def noise(path: Path, side: int, seed: int = 0) -> Path:
    write_image(path, np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))
    return path


def test_a_file_larger_than_allowed_leaves_nothing(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 200)
    before = tree(tmp_path)
    done = ugicm(tmp_path, "encode", "a.png", "-o", "a.ugic", "--bundle", BUNDLE, prepare="ulimit -f 1; ")
    assert "a.ugic: cannot be written: File too large" in refusals(done)[0]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("place", ["/dev/full", "/proc/x.ugic", "/dev/null/x.ugic", "a.png/x.ugic"])
def test_places_that_hold_no_files(tmp_path: Path, place: str) -> None:
    noise(tmp_path / "a.png", 20)
    before = tree(tmp_path)
    done = ugicm(tmp_path, "encode", "a.png", "-o", place, "--bundle", BUNDLE)
    assert len(refusals(done)) == 1 and place in done.stderr and "cannot be written" in done.stderr
    assert tree(tmp_path) == before


def mounts_work(folder: Path) -> bool:
    """Whether this process may make a small file system of its own."""
    command = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def on_a_small_disk(folder: Path, script: str) -> str:
    """Runs a shell script with `disk`, 64 kB large, in the folder; its output."""
    (folder / "disk").mkdir()
    mount = f"mount -t tmpfs -o size=64k none disk; {script}"
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", mount],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "mount" not in done.stderr, done.stderr
    return done.stdout


def test_a_full_and_a_read_only_disk(tmp_path: Path) -> None:
    if not mounts_work(tmp_path):
        pytest.skip("no file system can be mounted here (user namespaces are off)")
    (tmp_path / "in").mkdir()
    for i in range(12):
        noise(tmp_path / "in" / f"{i}.png", 300, i)
    command = f'"{sys.executable}" -m ugicm encode in -o disk --bundle "{BUNDLE}" --jobs 1'
    output = on_a_small_disk(
        tmp_path,
        f"{command} 2>&1; echo status $?; ls -A disk | wc -l; ls -A disk | grep -v '[.]ugic$';"
        f"mount -o remount,ro disk; {command} --force 2>&1; echo status $?",
    )
    full, read_only = output.split("status 2\n")[:2]
    assert full.count("the disk is full; free some space") == 1 and "not tried; the same command goes on" in full
    assert "the file system is read-only" in read_only and ".part" not in output
    held = int(read_only.splitlines()[0])
    assert 0 < held < 12, "some fitted, each of them whole"


def test_two_writers_and_a_cleaner_never_show_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "out.ugic"
    contents = [bytes([i]) * (1000 + 70_000 * i) for i in range(3)]
    write_atomically(path, contents[0])
    stop = threading.Event()
    faults: list[str] = []

    def write(data: bytes) -> None:
        try:
            for _ in range(60):
                write_atomically(path, data)
        except OutputError as error:
            faults.append(str(error))

    def look() -> None:
        while not stop.is_set():
            remove_stale(tmp_path)
            if path.read_bytes() not in contents:
                faults.append("half a file")

    writers = [threading.Thread(target=write, args=(data,)) for data in contents]
    cleaner = threading.Thread(target=look)
    for thread in (cleaner, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    cleaner.join()
    assert not faults and tree(tmp_path).keys() == {"out.ugic"}


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    """Both succeed, at the same files at the same time."""
    (tmp_path / "in").mkdir()
    for i in range(8):
        noise(tmp_path / "in" / f"{i}.png", 40, i)
    runs = [
        threading.Thread(
            target=lambda: done.append(
                ugicm(tmp_path, "encode", "in", "-o", "out", "--bundle", BUNDLE, "--jobs", "1", "--force")
            )
        )
        for _ in range(2)
    ]
    done: list[subprocess.CompletedProcess[str]] = []
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.returncode for run in done] == [0, 0], [run.stderr for run in done]
    assert set(tree(tmp_path / "out")) == {f"{i}.ugic" for i in range(8)}


def test_names_that_are_no_utf_8_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    odd = os.fsdecode(b"caf\xe9\n\x1b[31m")
    try:
        noise(tmp_path / "a.png", 9).rename(tmp_path / "in" / f"{odd}.png")
    except OSError:
        pytest.skip("this file system does not take the name")
    (tmp_path / "in" / f"{odd}2.png").write_text("no picture")
    done = ugicm(tmp_path, "encode", "in", "-o", "out", "--bundle", BUNDLE, "--json")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error")] == [
        line for line in done.stderr.splitlines() if r"caf\udce9\n\x1b[31m2.png: not an image" in line
    ]
    assert "\x1b" not in done.stderr + done.stdout and os.listdir(tmp_path / "out") == [f"{odd}.ugic"]
