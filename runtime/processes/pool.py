"""The one pool of worker processes: of folders, pipelines, the entropy coder and the benchmark. The dead are replaced.

constriction and Pillow hold the interpreter's lock, so their work runs at once in processes only.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from ugicm.runtime.errors import UgicError, UsageError
from ugicm.runtime.processes.worker import DiedError, Worker

MOST = 1024

_END: Any = object()

Item = TypeVar("Item")


@dataclass(frozen=True)
class Answer(Generic[Item]):
    """The outcome of an item: a value, or the error of the function, a DiedError if the process died."""

    item: Item
    value: Any
    error: UgicError | MemoryError | None = None


class Pool:
    """Workers for the threads of this process.

    Args:
        count: of workers, which start at once; 0 is none.
        start, arguments: what each calls first; functions are called on what that returns. Picklable.

    Raises:
        UsageError: more than 1024.
        BackendError: processes cannot be started here.
    """

    def __init__(self, count: int, start: Callable[..., Any], *arguments: Any) -> None:
        if count > MOST:
            raise UsageError(f"{count} worker processes: give at most {MOST}")
        self._start = start, *arguments
        self._count = count
        self._lock = threading.Lock()
        self._workers: set[Worker] = set()
        self._free: SimpleQueue[Worker | None] = SimpleQueue()  # None: one is to be started
        try:
            for _ in range(count):
                self._free.put(self._new())
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """How many workers there are."""
        return self._count

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _new(self) -> Worker:
        worker = Worker(*self._start)
        with self._lock:
            self._workers.add(worker)
        return worker

    def _started(self, free: Worker | None) -> Worker:
        """A free worker, or one in the place of a dead one. Raises BackendError: no process can be started."""
        if free is not None:
            return free
        try:
            return self._new()
        except BaseException:
            self._free.put(None)
            raise

    def _drop(self, worker: Worker) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.stop()
        self._free.put(None)

    def give_back(self, worker: Worker) -> None:
        """Frees a worker that was taken. One that died after its start, or owes an answer, ends and is replaced."""
        # One that died while it started would die again: it stays, and is an error each time that it is asked.
        if not worker.started or (worker.alive and not worker.owing):
            self._free.put(worker)
        else:
            self._drop(worker)

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        """A worker for the time of the block, waiting for one that is free. Raises BackendError."""
        worker = self._started(self._free.get())
        try:
            yield worker
        finally:
            self.give_back(worker)

    def take_ready(self) -> list[Worker]:
        """The workers that are free and have started, without waiting; `give_back` each.

        Raises:
            what the start of one raised; BackendError: a dead one cannot be replaced.
        """
        ready: list[Worker] = []
        others: list[Worker] = []
        try:
            with suppress(Empty):
                while True:
                    others.append(self._started(self._free.get_nowait()))
                    if others[-1].ready:
                        ready.append(others.pop())
        except BaseException:
            others += ready
            raise
        finally:
            for worker in others:
                self._free.put(worker)
        return ready

    def wait(self) -> None:
        """Returns when all workers that are free have started. Raises what the start of one raised."""
        taken: list[Worker] = []
        try:
            with suppress(Empty):
                while True:
                    taken.append(self._started(self._free.get_nowait()))
            for worker in taken:
                worker.wait()
        finally:
            for worker in taken:
                self.give_back(worker)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(what start returned, *arguments)` in a worker, waiting for one that is free.

        Raises:
            what the function or the start raises; DiedError where the process died.
        """
        with self.lend() as worker:
            return worker.call(function, *arguments)

    def each(self, function: Callable[..., Any], items: Iterable[Item]) -> Iterator[Answer[Item]]:
        """`function(what start returned, item)` of all items, as they come; items are taken as workers are free.

        All workers are this call's until it ends. One that dies costs the item that it had, and is replaced; so is one
        that dies while it starts, as often as there are workers.

        Raises:
            what the start raises; BackendError: a dead one cannot be replaced.
        """
        coming = iter(items)
        following = next(coming, _END)
        starting: set[Worker] = set()
        busy: dict[Worker, Any] = {}
        spare = self._count

        def ask(worker: Worker) -> None:
            nonlocal following
            if following is _END:
                self.give_back(worker)
                return
            busy[worker], following = following, next(coming, _END)
            with suppress(DiedError):  # `receive` says so again
                worker.send(function, busy[worker])

        try:
            for _ in range(self._count):
                starting.add(self._started(self._free.get()))
            for worker in [worker for worker in starting if worker.started]:
                starting.discard(worker)
                ask(worker)
            while busy or (starting and following is not _END):
                for worker in _answered([*starting, *busy]):
                    if worker in busy:
                        answer = _answer_of(worker, busy[worker])
                        del busy[worker]
                        if worker.alive:
                            ask(worker)
                        else:
                            self._drop(worker)
                            starting.add(self._started(self._free.get()))
                        yield answer
                        continue
                    try:
                        worker.wait()
                    except DiedError:
                        if not spare:
                            raise
                        spare -= 1
                        starting.discard(worker)
                        self._drop(worker)
                        starting.add(self._started(self._free.get()))
                        continue
                    starting.discard(worker)
                    ask(worker)
        finally:
            for worker in [*starting, *busy]:
                self.give_back(worker)

    def close(self) -> None:
        """Ends all; nothing may be under way. Afterwards there are none."""
        self._count = 0
        with suppress(Empty):
            while True:
                self._free.get_nowait()
        while self._workers:
            self._workers.pop().stop()


def _answer_of(worker: Worker, item: Item) -> Answer[Item]:
    try:
        return Answer(item, worker.receive())
    except (UgicError, MemoryError) as error:
        return Answer(item, None, error)


def _answered(workers: Iterable[Worker]) -> list[Worker]:
    """The ones that have something to say, waiting for the first."""
    connections: dict[Connection, Worker] = {worker.connection: worker for worker in workers}
    return [connections[ready] for ready in wait(list(connections))]  # type: ignore[index]


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a process of its own. Raises what it raises; DiedError; BackendError."""
    with Pool(1, _nothing) as pool:
        return pool.call(_call, function, arguments)


def _nothing() -> None:
    return None


def _call(_: None, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)
