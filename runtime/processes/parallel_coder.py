"""The range coder over processes: one image's substreams are coded at once, in this process and in workers."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.errors import UgicError
from ugicm.runtime.processes.workers import DiedError, Shared, Slot, Worker, attach, processors
from ugicm.runtime.tables import Rows, Tables

log = logging.getLogger("ugicm")

LEAST_SUBSTREAMS = 4
"""An image of fewer is coded by this process alone: handing over takes what it saves."""
_AT_ONCE = 128  # substreams that are handed over at once: about 40 MB of shared memory
_LARGE = 31 << 20  # bytes

Job = TypeVar("Job")


class ParallelCoder:
    """`range_coder.encode` and `decode` of one set of tables, over this process and workers that it keeps.

    The bytes and the symbols are those of `range_coder`. Workers start at once and are used when they are ready; what
    one that died was asked is done here, and another takes its place, with one logged line.

    Args:
        tables: sent to each worker once.
        workers: at most; no more are started than there are CPUs beside this process's one.

    Raises:
        BackendError: processes cannot be started here.
    """

    def __init__(self, tables: Tables, workers: int) -> None:
        self._tables = tables
        self._start = _tables, tables.frequencies, tables.lengths, tables.offsets
        self._slot = Slot()
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._workers: list[Worker] = []
        self._closing = weakref.finalize(self, _close, self._workers, self._slot, self._process)
        for _ in range(min(workers, processors() - 1)):
            self._workers.append(Worker(*self._start))

    def encode(self, symbols: np.ndarray, rows: Rows, substreams: int) -> list[bytes]:
        """See `range_coder.encode`."""
        if not self._begin(substreams):
            return range_coder.encode(symbols, rows, self._tables, substreams)

        def here(parts: list[slice]) -> list[bytes]:
            return [range_coder.encode_substream(symbols[part], rows[part], self._tables) for part in parts]

        def ask(part: slice) -> tuple[Shared, Shared]:
            return self._slot.place(symbols[part]), self._slot.place(rows[part])

        def there(asked: list[tuple[Shared, Shared]], streams: list[bytes]) -> list[bytes]:
            return streams

        try:
            parts = range_coder.parts(rows, self._tables, substreams)
            sizes = [(part.stop - part.start) * (symbols.itemsize + rows.itemsize) for part in parts]
            return sum(self._share(parts, sizes, here, ask, _encode, there), [])
        finally:
            self._lock.release()

    def decode(self, streams: Sequence[bytes], rows: Rows, name: str = "<bytes>") -> np.ndarray:
        """See `range_coder.decode`."""
        if not self._begin(len(streams)):
            return range_coder.decode(streams, rows, self._tables, name)
        out = np.zeros(rows.size, np.int32)

        def here(jobs: list[tuple[int, slice]]) -> None:
            for i, part in jobs:
                where = range_coder.damaged(name, i, len(streams))
                range_coder.decode_substream(streams[i], rows[part], self._tables, out[part], where)

        def ask(job: tuple[int, slice]) -> tuple[slice, bytes, Shared, Shared, str]:
            i, part = job
            into = self._slot.empty((part.stop - part.start,), out.dtype)
            return part, streams[i], self._slot.place(rows[part]), into, range_coder.damaged(name, i, len(streams))

        def there(asked: list[tuple[slice, bytes, Shared, Shared, str]], _: object) -> None:
            for part, _stream, _rows, into, _where in asked:
                out[part] = self._slot.array(into)

        try:
            parts = range_coder.parts(rows, self._tables, len(streams), name)
            sizes = [(part.stop - part.start) * (out.itemsize + rows.itemsize) for part in parts]
            self._share(list(enumerate(parts)), sizes, here, ask, _decode, there)
            return out
        finally:
            self._lock.release()

    def __len__(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    def wait(self) -> None:
        """Returns when all workers have started. Raises BackendError: one cannot."""
        for worker in self._workers:
            worker.wait()

    def close(self) -> None:
        """Ends the workers; what is coded afterwards is coded by this process alone."""
        self._closing()

    def _begin(self, substreams: int) -> bool:
        """Whether to share these, and then the lock is taken: other threads and forks go on by themselves."""
        if substreams < LEAST_SUBSTREAMS or self._process != os.getpid() or not self._lock.acquire(blocking=False):
            return False
        try:
            # One that died while it started would die again: an error, not a replacement.
            if any([worker.ready for worker in self._workers]):
                return True
        except BaseException:
            self._lock.release()
            raise
        self._lock.release()
        return False

    def _share(
        self,
        jobs: list[Job],
        sizes: list[int],
        here: Callable[[list[Job]], Any],
        ask: Callable[[Job], Any],
        function: Callable[..., Any],
        there: Callable[[list[Any], Any], Any],
    ) -> list[Any]:
        """The results of consecutive shares of the jobs, in order; the first share is this process's.

        Args:
            sizes: bytes in shared memory of each job.
            here: does a share in this process.
            ask: a job as a worker is told it, its arrays placed.
            function: does that in a worker.
            there: what was asked and what the worker returned, to the share's result.
        """
        results: list[Any] = []
        for start in range(0, len(jobs), _AT_ONCE):
            group = jobs[start : start + _AT_ONCE]
            workers = [(i, worker) for i, worker in enumerate(self._workers) if worker.ready]
            cuts = [i * len(group) // (len(workers) + 1) for i in range(len(workers) + 2)]
            shares = [group[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
            handed = sizes[start + cuts[1] : start + cuts[-1]]
            self._slot.reserve(sum(handed), 2 * len(handed))
            owing: dict[int, tuple[Worker, list[Job], list[Any]]] = {}
            fault: UgicError | MemoryError | None = None
            try:
                for (i, worker), share in zip(workers, shares[1:], strict=True):
                    owing[i] = worker, share, [ask(job) for job in share]
                    with suppress(DiedError):  # `receive` says so again
                        worker.send(function, owing[i][2])
                try:
                    results.append(here(shares[0]))
                except (UgicError, MemoryError) as error:
                    fault = error
                for i, (worker, share, asked) in list(owing.items()):
                    try:
                        results.append(there(asked, worker.receive()))
                    except DiedError:
                        self._replace(i)
                        results.append(here(share))
                    except (UgicError, MemoryError) as error:
                        fault = fault or error
                    del owing[i]
            finally:
                for i in owing:  # after an interrupt: what they will answer nobody asked
                    self._replace(i)
            if fault is not None:
                raise fault
        return results

    def _replace(self, index: int) -> None:
        self._workers[index].stop()
        self._workers[index] = Worker(*self._start)
        log.warning("a worker process of the range coder died; another takes its place")


def _close(workers: list[Worker], slot: Slot, process: int) -> None:
    if process == os.getpid():  # not in a fork
        while workers:
            workers.pop().stop()
        slot.close()


# ---- what runs in workers, each with tables of its own


def _tables(frequencies: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> Tables:
    # Once a large block was freed, glibc keeps smaller ones instead of returning their pages after each substream.
    np.empty(_LARGE, np.uint8)
    return Tables.from_arrays(frequencies, lengths, offsets)


def _encode(tables: Tables, parts: list[tuple[Shared, Shared]]) -> list[bytes]:
    return [range_coder.encode_substream(attach(symbols), attach(rows), tables) for symbols, rows in parts]


def _decode(tables: Tables, parts: list[tuple[slice, bytes, Shared, Shared, str]]) -> None:
    for _, stream, rows, into, where in parts:
        symbols = attach(into)
        symbols[:] = 0
        range_coder.decode_substream(stream, attach(rows), tables, symbols, where)
