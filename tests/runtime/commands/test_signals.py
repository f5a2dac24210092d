"""Ctrl-C, SIGTERM and SIGHUP at any moment: one line, no traceback, no unfinished file, no process left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.many.test_folders import BUNDLE, ENVIRONMENT, children, pictures
from tests.runtime.processes.tasks import gone
from ugicm.runtime.commands.cli import for_each, main
from ugicm.runtime.errors import BackendError
from ugicm.runtime.files import output
from ugicm.runtime.files.images import write_image
from ugicm.runtime.processes import signals

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM", signal.SIGHUP: "ended by SIGHUP"}


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    def defaults() -> None:  # tests in the background ignore SIGINT
        for number in WORDS:
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "ugicm", *arguments], cwd=folder, env=ENVIRONMENT, preexec_fn=defaults, text=True,
        start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize("number", list(WORDS))
@pytest.mark.parametrize("delay", [0.15, 0.5, 0.9, 1.4, 2.0])
def test_a_folder_run_ends_in_order_while_it_starts_and_later(
    tmp_path: Path, number: signal.Signals, delay: float
) -> None:
    pictures(tmp_path / "in", [f"{i}.png" for i in range(20)])
    large = tmp_path / "in" / "large.png"
    write_image(large, np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8))
    for i in range(200):  # whatever the machine, the run is not over before the signal comes
        os.link(large, large.with_name(f"large{i}.png"))
    for longer in range(1, 6):
        process = start(tmp_path, "encode", "in", "-o", "out", "--bundle", str(BUNDLE), "--jobs", "2")
        time.sleep(longer * delay)
        workers = children(process.pid)
        os.killpg(process.pid, number)
        said, error = process.communicate(timeout=60)
        if "init_import_site" not in error:
            break  # else this machine is so slow that Python itself was still starting, and says so in its own way
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error + said and error.count("error:") <= 1
    assert not error or error.endswith(f"error: {WORDS[number]}\n"), "quiet only while Python itself starts"
    assert all(map(gone, workers))
    assert not [name for name in tmp_path.rglob("*.part")]


def test_only_the_parent_is_told(tmp_path: Path) -> None:
    pictures(tmp_path / "in", [f"{i}.png" for i in range(200)])
    process = start(tmp_path, "encode", "in", "-o", "out", "--bundle", str(BUNDLE), "--jobs", "2")
    deadline = time.monotonic() + 60
    while not list((tmp_path / "out").glob("*.ugic")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = children(process.pid)
    process.terminate()
    said, error = process.communicate(timeout=60)
    assert process.returncode == 143 and error.endswith("the same command goes on from here\nerror: ended by SIGTERM\n")
    assert "encoded" in said and all(map(gone, workers))


WRITER = """
import sys
from pathlib import Path
from ugicm.runtime.files.output import write_atomically
print("writing", flush=True)
while True:
    write_atomically(Path("big.png"), bytes(64 << 20))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="this system has no files without a name")
def test_a_program_of_others_that_is_ended_while_it_writes_leaves_nothing(tmp_path: Path, number: int) -> None:
    for i in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER], cwd=tmp_path, env=ENVIRONMENT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            time.sleep(0.05 + 0.03 * i)
            process.send_signal(number)
        assert set(os.listdir(tmp_path)) <= {"big.png"}


@pytest.mark.parametrize("existing", [False, True])
def test_a_system_without_unnamed_files_renames(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool
) -> None:
    path = tmp_path / "a.ugic"
    for way in (lambda *_: False, output._written_unnamed):
        path.unlink(missing_ok=True)
        if existing:
            path.write_bytes(b"old")
        monkeypatch.setattr(output, "_written_unnamed", way)
        output.write_atomically(path, b"new")
        assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.ugic"]
        mask = os.umask(0)
        os.umask(mask)
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask or existing


def test_a_signal_that_a_library_makes_another_error_of_is_still_one(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[int] = []

    def swallow(index: int, _: Path) -> None:
        done.append(index)
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            raise BackendError("ONNX Runtime is not installed") from None

    with signals.unwinding(), pytest.raises(KeyboardInterrupt):
        for_each([Path("a"), Path("b")], swallow)
    assert done == [0] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert capsys.readouterr().err == ""


def test_signals_wait_while_they_are_held() -> None:
    after: list[str] = []
    with signals.unwinding(), pytest.raises(signals.StoppedError):  # noqa: PT012
        with signals.held():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            after.append("whole")
        after.append("never")
    assert after == ["whole"]


def test_what_is_ignored_stays_so_and_other_threads_touch_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.unwinding():
            signal.raise_signal(signal.SIGHUP)  # as under nohup
    finally:
        signal.signal(signal.SIGHUP, before)
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(main(["help"])))
    thread.start()
    thread.join()
    assert found == [0]
