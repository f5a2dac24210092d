"""Machines that give little: few open files, no second process or thread, no shared memory, no home."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.many.test_folders import BUNDLE, ENVIRONMENT, pictures

MANY = """
import sys
from ugicm import Codec
if __name__ == "__main__":
    for outcome in Codec.from_bundle(threads=1).decode_many(["a.ugic"] * 3, workers=0):
        print(outcome.error or outcome.value[0].shape)
"""


def run(folder: Path, limit: Callable[[], None], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ugicm", *arguments] if arguments else [sys.executable, "-c", MANY]
    environment = {**ENVIRONMENT, "HOME": "/nonexistent"}
    return subprocess.run(command, cwd=folder, env=environment, preexec_fn=limit, capture_output=True, text=True)


def all_work(folder: Path, limit: Callable[[], None]) -> None:
    pictures(folder / "in", ["0.png", "1.png"])
    bundle = ("--bundle", str(BUNDLE))
    for arguments in (
        ("encode", "in/0.png", "-o", "a.ugic"),
        ("decode", "a.ugic", "-o", "a.png"),
        ("encode", "in", "-o", "out", *bundle, "--jobs", "1"),
        ("decode", "out", "-o", "back", *bundle, "--jobs", "1"),
    ):
        done = run(folder, limit, *arguments)
        assert done.returncode == 0 and "error" not in done.stderr, done.stderr
    refused = run(folder, limit, "encode", "in", "-o", "out", *bundle, "--jobs", "2", "--force")
    errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert refused.returncode == 2 and len(errors) == 1 and "no worker process can be started here" in errors[0]
    assert "Traceback" not in refused.stderr and sorted(os.listdir(folder / "out")) == ["0.ugic", "1.ugic"]


def test_few_open_files(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))

    all_work(tmp_path, limit)
    done = run(tmp_path, partial(resource.setrlimit, resource.RLIMIT_NOFILE, (16, 16)))
    assert done.stdout == "(20, 30, 3)\n" * 3, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only the superuser becomes another user, whom limits of processes bind")
def test_one_process(tmp_path: Path) -> None:
    """Of a user who has no other, and who may read files as the superuser does."""
    libc = ctypes.CDLL(None, use_errno=True)

    def limit() -> None:
        libc.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
        os.setgroups([])
        os.setresgid(54321, 54321, 54321)
        os.setresuid(54321, 54321, 54321)
        files = 1 << 1 | 1 << 2  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(files, files, files, 0, 0, 0)
        libc.capset(header, data)
        for capability in (1, 2):
            libc.prctl(47, 2, capability, 0, 0)  # PR_CAP_AMBIENT, RAISE
        resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))

    all_work(tmp_path, limit)
    done = run(tmp_path, limit)
    assert done.stdout == "(20, 30, 3)\n" * 3, done.stderr


def test_no_shared_memory_file_system(tmp_path: Path) -> None:
    pictures(tmp_path / "in", ["0.png", "1.png"])
    command = f'"{sys.executable}" -m ugicm encode in -o out --bundle "{BUNDLE}" --jobs'
    mount = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c"]
    script = f"mount -t tmpfs -o ro,size=64k tmpfs /dev/shm || exit 77; {command} 1 && {command} 2 --force"
    try:
        done = subprocess.run([*mount, script], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    except OSError:
        pytest.skip("no unshare here")
    if done.returncode in (1, 77) and any(word in done.stderr for word in ("mount:", "unshare:")):
        pytest.skip("no file system can be mounted here (user namespaces are off)")
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.ugic"))) == 2
    assert np.all([path.stat().st_size > 100 for path in (tmp_path / "out").glob("*.ugic")])
