"""Tasks through several processes, or through this one: an outcome for each, whatever becomes of a process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ugicm.runtime.errors import BackendError, DiskError, UgicError
from ugicm.runtime.files.tree import Task
from ugicm.runtime.processes import signals


@dataclass(frozen=True)
class Figures:
    """The costs and the result of one file.

    Attributes:
        bytes_in, bytes_out: of the input and of all outputs.
        pixels: of the image.
        carried: bytes of `bytes_out` that hold transparency and metadata.
    """

    bytes_in: int
    bytes_out: int
    pixels: int
    carried: int = 0


Work = Callable[[Path, tuple[Path, ...]], Figures]
Convert = Callable[[bytes, str, Sequence[str]], tuple[list[bytes], Figures]]


class Recipe(Protocol):
    """The settings that each process is told once; picklable."""

    def open(self) -> Work:
        """Opens the codec. The function that it returns works on one file and raises UgicError."""
        ...

    def convert(self) -> Convert:
        """Opens the codec. The function that it returns makes of a file's bytes, its name and its outputs' names the
        bytes of the outputs, and raises UgicError."""
        ...


@dataclass(frozen=True)
class Outcome:
    """The outcome of one task.

    Attributes:
        figures: None after an error.
        error: why there are none.
        fatal: whether no other task can succeed.
        warnings: what was logged meanwhile.
    """

    figures: Figures | None
    error: str = ""
    fatal: bool = False
    warnings: tuple[str, ...] = ()


def work(tasks: Sequence[Task], recipe: Recipe, jobs: int) -> Iterator[tuple[Task, Outcome]]:
    """The outcome of each task, as they come. One job is done in this process, more in so many others.

    A task whose process dies is tried again when the others have ended, in a process of its own; one that dies again
    has failed.

    Raises:
        BackendError: as many processes cannot be started here.
    """
    if jobs == 1:
        here = _Place(recipe)
        yield from ((task, here.do(task)) for task in tasks)
        return
    from ugicm.runtime.processes.pool import Pool
    from ugicm.runtime.processes.worker import DiedError

    suspects: list[Task] = []
    with Pool(jobs, _Place, recipe) as pool:
        try:
            for answer in pool.each(_Place.do, tasks):
                if isinstance(answer.error, DiedError):
                    suspects.append(answer.item)
                else:
                    yield answer.item, answer.value or failed(answer.item.source, answer.error)
        except DiedError as error:
            raise BackendError(
                "worker processes end while they start; is there enough memory? use fewer --jobs"
            ) from error
    for task in suspects:
        try:
            with Pool(1, _Place, recipe) as pool:
                yield task, pool.call(_Place.do, task)
        except DiedError:
            words = "the process that worked on it was killed; it may need more memory than there is"
            yield task, Outcome(None, f"{task.source}: {words}")


class _Place:
    """A process's codec, opened for its first task."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._opened: Work | None = None

    def do(self, task: Task) -> Outcome:
        with collected() as messages:
            try:
                if self._opened is None:
                    self._opened = self._recipe.open()
                return Outcome(self._opened(task.source, task.outputs), warnings=tuple(messages))
            except (UgicError, MemoryError, OSError) as error:
                signals.check()
                return failed(task.source, error, messages)


def failed(source: Path, error: Exception | None, messages: Sequence[str] = ()) -> Outcome:
    """The outcome of a file that raised an error."""
    if isinstance(error, MemoryError):
        reason = f"{source}: not enough memory; use fewer --jobs or a smaller image"
    elif isinstance(error, OSError):  # a source that was moved away in the middle, for one
        reason = f"{source}: cannot be worked on: {error.strerror or error}"
    else:
        reason = str(error)
    if str(source) not in reason:
        reason = f"{source}: {reason}"
    return Outcome(None, reason, isinstance(error, DiskError), tuple(messages))


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def collected() -> Iterator[list[str]]:
    """Collects lines that are logged meanwhile: they belong to files."""
    logger, collector = logging.getLogger("ugicm"), _Collector()
    before = logger.handlers[:], logger.propagate
    logger.handlers[:], logger.propagate = [collector], False
    try:
        yield collector.messages
    finally:
        logger.handlers[:], logger.propagate = before
