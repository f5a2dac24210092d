"""Workers answer or say why not; they are never waited for in vain, and nothing of them is left behind."""

from __future__ import annotations

import gc
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.processes.tasks import begin, count, double, gone, named_memory, open_files, refuse, unsendable
from ugicm.runtime.errors import BackendError, CorruptFileError
from ugicm.runtime.processes import shared
from ugicm.runtime.processes.worker import Worker

ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker(begin, 4)
    yield worker
    worker.stop()


def test_keeps_what_start_returned_and_passes_errors_on(worker: Worker) -> None:
    first, process = worker.call(count)
    with pytest.raises(CorruptFileError, match=r"a\.ugic is damaged"):
        worker.call(refuse, "damaged")
    with pytest.raises(BackendError, match="a worker process failed: ValueError: no such thing"):
        worker.call(refuse, "no such thing")
    with pytest.raises(BackendError, match="a worker process cannot answer"):
        worker.call(unsendable)
    assert worker.call(count) == (first + 1, process)
    assert process != os.getpid()


def doubled(worker: Worker, values: np.ndarray) -> np.ndarray:
    worker.memory.reserve(2 * values.nbytes + 5, 3)
    worker.memory.place(np.zeros(5, np.uint8))
    placed = worker.memory.place(values)
    return np.array(worker.memory.get(worker.call(double, placed, worker.memory.room(values.shape, values.dtype))))


def test_arrays_pass_in_shared_memory_that_grows(worker: Worker) -> None:
    _, pid = worker.call(count)
    for size in (3, 5000, 7, 400_000):
        values = np.arange(size, dtype=np.int32)
        assert np.array_equal(doubled(worker, values), 2 * values)
        worker.memory.reserve(values.nbytes)
        assert isinstance(worker.memory.place(values), shared.Shared)
        assert not named_memory(os.getpid(), pid), "it has a name, which somebody must remove"


def test_arrays_pass_through_the_pipe_where_no_memory_can_be_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    worker = Worker(begin, 0)
    try:
        values = np.arange(100_000, dtype=np.int32).reshape(100, -1)
        assert np.array_equal(doubled(worker, values), 2 * values)
        assert isinstance(worker.memory.place(values), np.ndarray)
    finally:
        worker.stop()


def test_memory_that_is_not_there_is_an_error_when_it_is_reserved(worker: Worker) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8 << 20, limits[1]))
    try:
        with pytest.raises(BackendError, match=r"no memory to share .*16 MB: File too large.*; use 0 workers") as error:
            worker.memory.reserve(16_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert np.array_equal(doubled(worker, np.arange(9)), 2 * np.arange(9))


def test_too_few_open_files_are_an_error_and_nothing_stays_open() -> None:
    gc.collect()  # files that tests before this one dropped in circles would be closed at any moment
    limits, before = resource.getrlimit(resource.RLIMIT_NOFILE), open_files()
    third = [n for n in range(len(before) + 3) if n not in before][2]
    resource.setrlimit(resource.RLIMIT_NOFILE, (third + 1, limits[1]))  # of numbers: open files may leave gaps
    try:
        with pytest.raises(BackendError, match="no worker process can be started here .*Too many open files"):
            Worker(begin, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert open_files().items() <= before.items()


SCRIPT = """
import sys, time
from ugicm.runtime.processes.worker import Worker
from tests.runtime.processes.tasks import begin, count, nap
if __name__ == "__main__":
    worker = Worker(begin, 0)
    worker.memory.reserve(100_000)
    print(worker.call(count)[1], flush=True)
    if sys.argv[1] == "busy":
        worker.send(nap)
    time.sleep(60)
"""


@pytest.mark.parametrize("state", ["idle", "busy"])
def test_they_end_when_their_parent_is_killed(tmp_path: Path, state: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT)
    with subprocess.Popen(
        [sys.executable, script, state],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ENVIRONMENT, start_new_session=True,
    ) as parent:  # fmt: skip
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not named_memory(parent.pid, pid), "it would outlive them"
        parent.kill()
        assert gone(pid)


def test_interrupts_are_the_parents() -> None:
    worker = Worker(begin, 0)
    try:
        _, pid = worker.call(count)
        os.kill(pid, signal.SIGINT)
        assert worker.call(count) == (2, pid)
    finally:
        worker.stop()


def test_a_script_that_opens_them_when_it_is_imported_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from ugicm.runtime.processes.pool import Pool\n"
        "from tests.runtime.processes.tasks import begin, count\n"
        "pool = Pool(1, begin, 0)\n"
        "try:\n    pool.call(count)\n"
        "except Exception as error:\n    print('error:', error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.stdout.splitlines() == ["error: a worker process did not start; a script opens codecs below: "
                                        "if __name__ == '__main__':"]  # fmt: skip
