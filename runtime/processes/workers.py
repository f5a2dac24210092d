"""Worker processes: each is told once what it needs, then asked one thing at a time; arrays pass in shared memory.

constriction holds the interpreter's lock, so range coders run at once in processes only. Workers are spawned, since
what a fork copies of an inference library's threads is unusable. They end with their parent, however that ends, and one
that dies is an error of what it worked on, not of the rest.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from queue import SimpleQueue
from typing import Any

import numpy as np

from ugicm.runtime.errors import BackendError, UgicError
from ugicm.runtime.processes.memory import keep_freed

START = "a worker process did not start; a script opens codecs below: if __name__ == '__main__':"
DIED = "a worker process died; is there enough memory? use fewer workers"
_ATTACHED = 64  # blocks of shared memory that a process keeps open
_ALIGNED = 64  # bytes
_LOOK_AFTER = 2.0  # seconds between looks at whether the parent is there


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ---- arrays in shared memory


@dataclass(frozen=True)
class Shared:
    """Where an array lies in shared memory; small, to be sent."""

    memory: str
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def within(self, memory: SharedMemory) -> np.ndarray:
        return np.ndarray(self.shape, self.dtype, memory.buf, self.offset)


class Slot:
    """Shared memory of the process that owns it; it grows to the largest that was reserved."""

    def __init__(self) -> None:
        self._memory: SharedMemory | None = None
        self._used = 0

    def reserve(self, nbytes: int, arrays: int) -> None:
        """Forgets what was placed and makes room for so many arrays of so many bytes in all."""
        self._used = 0
        needed = nbytes + _ALIGNED * max(1, arrays)
        if self._memory is None or self._memory.size < needed:
            self.close()
            self._memory = SharedMemory(create=True, size=needed)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> Shared:
        assert self._memory is not None
        shared = Shared(self._memory.name, self._used, shape, dtype)
        self._used += -(-int(np.prod(shape)) * dtype.itemsize // _ALIGNED) * _ALIGNED
        return shared

    def place(self, array: np.ndarray) -> Shared:
        shared = self.empty(array.shape, array.dtype)
        self.array(shared)[...] = array
        return shared

    def array(self, shared: Shared) -> np.ndarray:
        assert self._memory is not None
        return shared.within(self._memory)

    def close(self) -> None:
        if self._memory is not None:
            with _still_viewed():
                self._memory.close()
            self._memory.unlink()
            self._memory = None


class _still_viewed:
    """A view that an error's traceback holds keeps the mapping open until it goes; the name is free all the same."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, BufferError)


_attached: dict[str, SharedMemory] = {}


def attach(shared: Shared) -> np.ndarray:
    """An array of another process; in the owner's own process too. Keep no view of it for longer than one task."""
    if shared.memory not in _attached:
        while len(_attached) >= _ATTACHED:
            _attached.pop(next(iter(_attached))).close()
        _attached[shared.memory] = SharedMemory(shared.memory)
    return shared.within(_attached[shared.memory])


def detach() -> None:
    """Closes what this process has attached."""
    for name in list(_attached):
        _attached.pop(name).close()


# ---- processes


class DiedError(BackendError):
    """The process that was asked is gone."""


class Worker:
    """A process that calls `start(*arguments)` once, and then functions on what that returned.

    Raises:
        BackendError: no process can be started here.
    """

    def __init__(self, start: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid(), start, arguments), daemon=True)
        try:
            self._process.start()
        except (AssertionError, OSError) as error:  # processes of a multiprocessing.Pool may have none of their own
            raise BackendError(f"no worker process can be started here ({error}); use 0 workers") from error
        finally:
            theirs.close()
        self.started = False
        self._fault: Exception | None = None  # of its start

    @property
    def ready(self) -> bool:
        """Whether it can be asked without waiting for its start. Raises what its start raised, or DiedError."""
        if not self.started and self._connection.poll():
            self.wait()
        return self.started

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Asks for `function(what start returned, *arguments)`; `receive` before the next. Raises as `ready`."""
        self.wait()
        try:
            self._connection.send((function, arguments))
        except OSError as error:
            raise DiedError(DIED) from error

    def receive(self) -> Any:
        """What the function returned. Raises what it raised, or DiedError."""
        result, error = self._receive()
        if error is not None:
            raise error
        return result

    def wait(self) -> None:
        """Returns when it has started. Raises as `ready`."""
        if self.started:
            return
        if self._fault is None:
            try:
                self._fault = self._receive()[1]
            except DiedError:
                self._fault = DiedError(START)
        if self._fault is not None:
            raise self._fault
        self.started = True

    def _receive(self) -> tuple[Any, Exception | None]:
        try:
            answer: tuple[Any, Exception | None] = self._connection.recv()
        except (EOFError, OSError) as error:
            raise DiedError(DIED) from error
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, parent: int, start: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    """What a worker runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    keep_freed()
    try:
        state, error = _attempt(start, arguments)
        connection.send((None, error))
        while error is None:
            # The end of the parent closes the connection, unless a fork of the parent holds it open.
            while not connection.poll(_LOOK_AFTER):
                if os.getppid() != parent:
                    return
            function, asked = connection.recv()
            connection.send(_attempt(function, (state, *asked)))
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)  # without a word about views of shared memory that are still open


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return function(*arguments), None
    except (UgicError, MemoryError) as error:
        return None, error
    except Exception as error:
        return None, BackendError(f"a worker process failed: {type(error).__name__}: {error}")


class Pool:
    """Workers for the threads of this process; a dead one is replaced."""

    def __init__(self, count: int, start: Callable[..., Any], *arguments: Any) -> None:
        self._start = start, *arguments
        self._free: SimpleQueue[Worker] = SimpleQueue()
        self._workers: set[Worker] = set()
        try:
            for _ in range(count):
                self._add()
        except BackendError:
            self.close()
            raise

    def _add(self) -> None:
        worker = Worker(*self._start)
        self._workers.add(worker)
        self._free.put(worker)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(what start returned, *arguments)` in a worker, waiting for one that is free.

        Raises:
            what the function or the start raises; DiedError where the process died.
        """
        worker = self._free.get()
        try:
            worker.send(function, *arguments)
            result = worker.receive()
        except DiedError:
            if worker.started:
                self._workers.discard(worker)
                worker.stop()
                self._add()
            else:  # as another would
                self._free.put(worker)
            raise
        except BaseException:
            self._free.put(worker)
            raise
        self._free.put(worker)
        return result

    def close(self) -> None:
        """Ends all; nothing may be under way."""
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
