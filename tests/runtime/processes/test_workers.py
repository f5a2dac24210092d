"""Workers answer or say why not; they are never waited for in vain, and nothing of them is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ugicm.runtime.errors import BackendError, CorruptFileError
from ugicm.runtime.processes.workers import DiedError, Pool, Shared, Slot, Worker, attach

ROOT = Path(__file__).parents[3]


def begin(start: int) -> dict[str, int]:
    return {"count": start}


def fail(_: int) -> None:
    raise CorruptFileError("cannot begin")


def count(state: dict[str, int]) -> tuple[int, int]:
    state["count"] += 1
    return state["count"], os.getpid()


def refuse(state: dict[str, int], error: str) -> None:
    if error == "damaged":
        raise CorruptFileError("a.ugic is damaged")
    raise ValueError(error)


def die(state: dict[str, int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def double(state: dict[str, int], array: Shared) -> None:
    attach(array)[:] *= 2


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has too."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def worker() -> Any:
    worker = Worker(begin, 4)
    yield worker
    worker.stop()


def test_keeps_what_start_returned_and_passes_errors_on(worker: Worker) -> None:
    worker.send(count)
    first, process = worker.receive()
    worker.send(refuse, "damaged")
    with pytest.raises(CorruptFileError, match=r"a\.ugic is damaged"):
        worker.receive()
    worker.send(refuse, "no such thing")
    with pytest.raises(BackendError, match="a worker process failed: ValueError: no such thing"):
        worker.receive()
    worker.send(count)
    assert worker.receive() == (first + 1, process)
    assert process != os.getpid()


def test_arrays_pass_in_shared_memory_that_grows(worker: Worker) -> None:
    slot = Slot()
    try:
        for size in (3, 5000, 7):
            values = np.arange(size, dtype=np.int32)
            slot.reserve(values.nbytes + 5, 2)
            slot.place(np.zeros(5, np.uint8))
            shared = slot.place(values)
            worker.send(double, shared)
            worker.receive()
            assert np.array_equal(slot.array(shared), 2 * values)
    finally:
        slot.close()


def test_a_pool_replaces_the_dead_and_goes_on() -> None:
    pool = Pool(1, begin, 0)
    try:
        _, first = pool.call(count)
        with pytest.raises(DiedError, match="a worker process died"):
            pool.call(die)
        again, second = pool.call(count)
        assert again == 1 and second != first
        os.kill(second, signal.SIGKILL)  # while it has nothing to do
        assert gone(second)
        with pytest.raises(DiedError):
            pool.call(count)
        _, third = pool.call(count)
    finally:
        pool.close()
    assert gone(third)


def test_a_start_that_fails_is_an_error_each_time() -> None:
    pool = Pool(1, fail, 0)
    try:
        for _ in range(2):
            with pytest.raises(CorruptFileError, match="cannot begin"):
                pool.call(count)
    finally:
        pool.close()


SCRIPT = """
import sys, time
sys.path.insert(0, {root!r})
from ugicm.runtime.processes.workers import Slot, Worker
from tests.runtime.processes.test_workers import begin, count, double
import numpy as np
if __name__ == "__main__":
    worker, slot = Worker(begin, 0), Slot()
    slot.reserve(400, 1)
    shared = slot.place(np.zeros(100, np.int32))
    worker.send(double, shared)
    worker.receive()
    worker.send(count)
    print(worker.receive()[1], shared.memory, flush=True)
    time.sleep(60)
"""


def test_they_end_when_their_parent_is_killed_and_leave_no_memory(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        pid, memory = parent.stdout.readline().split()
        parent.kill()
        assert gone(int(pid))
    deadline = time.monotonic() + 20
    while Path("/dev/shm", memory).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path("/dev/shm", memory).exists()


def test_a_script_that_opens_them_when_it_is_imported_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from ugicm.runtime.processes.workers import Pool\n"
        "from tests.runtime.processes.test_workers import begin, count\n"
        "pool = Pool(1, begin, 0)\n"
        "try:\n    pool.call(count)\n"
        "except Exception as error:\n    print('error:', error)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["error: a worker process did not start; a script opens codecs below: "
                                        "if __name__ == '__main__':"]  # fmt: skip
