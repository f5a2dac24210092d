"""A worker process: it is told once what it needs, then asked one thing at a time.

Workers are spawned, since what a fork copies of an inference library's threads is unusable. They end with their parent,
however that ends, and leave Ctrl-C to it. If a worker dies, only its current task fails.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from ugicm.runtime.errors import BackendError, UgicError
from ugicm.runtime.processes import signals
from ugicm.runtime.processes.memory import keep_freed
from ugicm.runtime.processes.shared import Memory

START = "a worker process did not start; a script opens codecs below: if __name__ == '__main__':"
DIED = "a worker process died; is there enough memory? use fewer workers"
_LOOK_AFTER = 2.0  # seconds between looks at whether the parent is there


class DiedError(BackendError):
    """The process that was asked is gone."""


class Worker:
    """A process that calls `start(*arguments)` once, and then functions on what that returned.

    Attributes:
        memory: shared with it; a function in it reads and writes `shared_memory()`.
        connection: has something to read when the process has started, answered, or died.
        started: whether it has.
        alive: False once it was found dead.
        owing: whether it was asked and has not answered.

    Raises:
        BackendError: no process can be started here.
    """

    def __init__(self, start: Callable[..., Any], *arguments: Any) -> None:
        self.started = self.owing = False
        self.alive = True
        self._fault: Exception | None = None  # of its start
        context = multiprocessing.get_context("spawn")
        opened: list[Any] = []
        try:
            self.memory = Memory()
            opened.append(self.memory)
            self.connection, theirs = context.Pipe()
            opened += [self.connection, theirs]
            asked = theirs, self.memory, os.getpid(), start, arguments
            self._process = context.Process(target=_serve, args=asked, daemon=True)
            try:
                _start_tracker()
                with signals.held():
                    self._process.start()
            except KeyboardInterrupt:
                if self._process.pid is not None:
                    self._process.kill()
                    self._process.join()
                raise
        # Processes of a multiprocessing.Pool may have none of their own: an AssertionError.
        except (AssertionError, OSError, MemoryError) as error:
            while opened:
                opened.pop().close()
            reason = getattr(error, "strerror", None) or str(error) or "no memory"
            raise BackendError(f"no worker process can be started here ({reason}); use 0 workers or fewer") from error
        theirs.close()

    @property
    def ready(self) -> bool:
        """Whether it can be asked without waiting for its start. Raises what its start raised, or DiedError."""
        if not self.started and (self._fault is not None or self.connection.poll()):
            self.wait()
        return self.started

    def send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Asks for `function(what start returned, *arguments)`; `receive` before the next. Raises as `ready`."""
        self.wait()
        self.owing = True
        try:
            self.connection.send((function, arguments))
        except OSError as error:
            self.alive = False
            raise DiedError(DIED) from error

    def receive(self) -> Any:
        """The function's result. Raises what it raised, or DiedError."""
        result, error = self._receive()
        self.owing = False
        if error is not None:
            raise error
        return result

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`send` and `receive`."""
        self.send(function, *arguments)
        return self.receive()

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
            answer: tuple[Any, Exception | None] = self.connection.recv()
        except (EOFError, OSError) as error:
            self.alive = False
            raise DiedError(DIED) from error
        return answer

    def stop(self) -> None:
        """Ends the process, whatever it does."""
        self.alive = False
        self.connection.close()
        self._process.kill()
        self._process.join()
        self.memory.close()


def _start_tracker() -> None:
    """Starts what `multiprocessing` starts with the first process: done there, it would let SIGINT through again."""
    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()


# ---- what runs in the process

_memory: Memory | None = None


def shared_memory() -> Memory:
    """In a worker: the memory that it shares with its parent."""
    assert _memory is not None
    return _memory


def _serve(
    connection: Connection, memory: Memory, parent: int, start: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """Answers until the parent has gone."""
    global _memory
    _memory = memory
    signals.leave_to_parent()
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    keep_freed()
    with suppress(EOFError, OSError):
        state, error = _attempt(start, arguments)
        _answer(connection, None, error)
        while error is None:
            function, asked = connection.recv()
            _answer(connection, *_attempt(function, (state, *asked)))
    os._exit(0)  # without a word about views of shared memory that are still open


def _die_with(parent: int) -> None:
    """Ends this process in the middle of its work when the parent has ended."""
    sentinel = multiprocessing.parent_process()
    while os.getppid() == parent:  # a fork of the parent may hold the sentinel open
        if sentinel is not None and wait([sentinel.sentinel], _LOOK_AFTER):
            break
    os._exit(1)


def _attempt(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    try:
        return function(*arguments), None
    except (UgicError, MemoryError) as error:
        return None, error
    except Exception as error:
        return None, BackendError(f"a worker process failed: {type(error).__name__}: {error}")


def _answer(connection: Connection, result: Any, error: Exception | None) -> None:
    try:
        connection.send((result, error))
    except OSError:
        raise
    except Exception as fault:  # an answer that cannot be sent, or not with the memory that is left
        connection.send((None, BackendError(f"a worker process cannot answer: {type(fault).__name__}: {fault}")))
