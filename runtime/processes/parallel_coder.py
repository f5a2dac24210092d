"""The range coder over processes: one image's substreams are coded at once, in this process and in workers."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.errors import UgicError
from ugicm.runtime.processes.cpus import processors
from ugicm.runtime.processes.pool import Pool
from ugicm.runtime.processes.shared import Memory, Placed, Shared
from ugicm.runtime.processes.worker import DiedError, Worker, shared_memory
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
        self._lock = threading.Lock()
        self._process = os.getpid()
        count = min(workers, processors() - 1)
        self._pool = Pool(count, _tables, tables.frequencies, tables.lengths, tables.offsets)
        self._closing = weakref.finalize(self, _close, self._pool, self._process)

    def encode(self, symbols: np.ndarray, rows: Rows, substreams: int) -> list[bytes]:
        """See `range_coder.encode`."""

        def here(parts: list[slice]) -> list[bytes]:
            return [range_encoder.encode_substream(symbols[part], rows[part], self._tables) for part in parts]

        def ask(part: slice, memory: Memory) -> tuple[Placed, Placed]:
            return memory.place(symbols[part]), memory.place(rows[part])

        def there(share: list[slice], streams: list[bytes], memory: Memory) -> list[bytes]:
            return streams

        with self._helpers(substreams) as workers:
            if not workers:
                return range_encoder.encode(symbols, rows, self._tables, substreams)
            parts = range_coder.parts(rows, self._tables, substreams)
            sizes = [(part.stop - part.start) * (symbols.itemsize + rows.itemsize) for part in parts]
            return sum(_share(workers, parts, sizes, here, ask, _encode, there), [])

    def decode(self, streams: Sequence[bytes], rows: Rows, name: str = "<bytes>") -> np.ndarray:
        """See `range_coder.decode`."""

        def here(jobs: list[tuple[int, slice]]) -> None:
            for i, part in jobs:
                where = range_coder.damaged(name, i, len(streams))
                range_coder.decode_substream(streams[i], rows[part], self._tables, out[part], where)

        def ask(job: tuple[int, slice], memory: Memory) -> tuple[bytes, Placed, Shared | None, str]:
            i, part = job
            room = memory.room((part.stop - part.start,), np.dtype(np.int32))
            return streams[i], memory.place(rows[part]), room, range_coder.damaged(name, i, len(streams))

        def there(share: list[tuple[int, slice]], found: list[Placed], memory: Memory) -> None:
            for (_, part), symbols in zip(share, found, strict=True):
                out[part] = memory.get(symbols)

        with self._helpers(len(streams)) as workers:
            if not workers:
                return range_coder.decode(streams, rows, self._tables, name)
            out = np.zeros(rows.size, np.int32)
            parts = range_coder.parts(rows, self._tables, len(streams), name)
            sizes = [(part.stop - part.start) * (out.itemsize + rows.itemsize) for part in parts]
            _share(workers, list(enumerate(parts)), sizes, here, ask, _decode, there)
            return out

    def __len__(self) -> int:
        """How many workers there are."""
        return len(self._pool)

    def wait(self) -> None:
        """Returns when all workers have started. Raises BackendError: one cannot."""
        self._pool.wait()

    def close(self) -> None:
        """Ends the workers; what is coded afterwards is coded by this process alone."""
        self._closing()

    @contextmanager
    def _helpers(self, substreams: int) -> Iterator[list[Worker]]:
        """The workers that are ready to share these; none for few, for other threads, and for forks."""
        if substreams < LEAST_SUBSTREAMS or self._process != os.getpid() or not self._lock.acquire(blocking=False):
            yield []
            return
        try:
            workers = self._pool.take_ready()
            try:
                yield workers
            finally:
                for worker in workers:
                    self._pool.give_back(worker)
        finally:
            self._lock.release()


def _share(
    workers: list[Worker],
    jobs: list[Job],
    sizes: list[int],
    here: Callable[[list[Job]], Any],
    ask: Callable[[Job, Memory], Any],
    function: Callable[..., Any],
    there: Callable[[list[Job], Any, Memory], Any],
) -> list[Any]:
    """The results of consecutive shares of the jobs, in order; the first share is this process's.

    Args:
        sizes: bytes in shared memory of each job.
        here: does a share in this process.
        ask: a job as a worker is told it, its arrays placed.
        function: does a share in a worker, as that is told it.
        there: a share and what the worker returned, to the share's result.
    """
    results: list[Any] = []
    for start in range(0, len(jobs), _AT_ONCE):
        group = jobs[start : start + _AT_ONCE]
        helpers = [worker for worker in workers if worker.alive]
        cuts = [i * len(group) // (len(helpers) + 1) for i in range(len(helpers) + 2)]
        shares = [group[a:b] for a, b in pairwise(cuts)]
        for worker, a, b in zip(helpers, cuts[1:], cuts[2:], strict=False):
            with suppress(DiedError):  # `receive` says so again
                worker.memory.reserve(sum(sizes[start + a : start + b]), 2 * (b - a))
                worker.send(function, [ask(job, worker.memory) for job in group[a:b]])
        fault: UgicError | MemoryError | None = None
        try:
            results.append(here(shares[0]))
        except (UgicError, MemoryError) as error:
            fault = error
        for worker, share in zip(helpers, shares[1:], strict=True):
            try:
                results.append(there(share, worker.receive(), worker.memory))
            except DiedError:
                log.warning("a worker process of the range coder died; another takes its place")
                results.append(here(share))
            except (UgicError, MemoryError) as error:
                fault = fault or error
        if fault is not None:
            raise fault
    return results


def _close(pool: Pool, process: int) -> None:
    if process == os.getpid():  # not in a fork
        pool.close()


# ---- what runs in workers, each with tables of its own


def _tables(frequencies: np.ndarray, lengths: np.ndarray, offsets: np.ndarray) -> Tables:
    # Once a large block was freed, glibc keeps smaller ones instead of returning their pages after each substream.
    np.empty(_LARGE, np.uint8)
    return Tables.from_arrays(frequencies, lengths, offsets)


def _encode(tables: Tables, parts: list[tuple[Placed, Placed]]) -> list[bytes]:
    memory = shared_memory()
    return [range_encoder.encode_substream(memory.get(symbols), memory.get(rows), tables) for symbols, rows in parts]


def _decode(tables: Tables, parts: list[tuple[bytes, Placed, Shared | None, str]]) -> list[Placed]:
    memory = shared_memory()
    found = []
    for stream, placed, room, where in parts:
        rows = memory.get(placed)
        symbols = np.zeros(rows.shape, np.int32) if room is None else memory.get(room)
        symbols[:] = 0
        range_coder.decode_substream(stream, rows, tables, symbols, where)
        found.append(symbols if room is None else room)
    return found
