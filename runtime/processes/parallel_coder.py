"""The range coder over processes: one image's substreams are coded at once, in this process and in workers."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.errors import UgicError
from ugicm.runtime.processes.cpus import processors
from ugicm.runtime.processes.pool import Pool
from ugicm.runtime.processes.shared import Memory, Placed
from ugicm.runtime.processes.worker import DiedError, Worker, shared_memory
from ugicm.runtime.tables import Rows, Tables

log = logging.getLogger("ugicm")

LEAST_SUBSTREAMS = 4
"""An image of fewer is coded by this process alone: handing over takes what it saves."""
_AT_ONCE = 128  # substreams that are handed over at once: about 40 MB of shared memory
_LARGE = 31 << 20  # bytes


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
        with self._helpers(substreams) as workers:
            if not workers:
                return range_encoder.encode(symbols, rows, self._tables, substreams)
            parts = range_coder.parts(rows, self._tables, substreams)
            return _share(workers, self._tables, [_Job(symbols[part], rows[part]) for part in parts])

    def decode(self, streams: Sequence[bytes], rows: Rows, name: str = "<bytes>") -> np.ndarray:
        """See `range_coder.decode`."""
        count = len(streams)
        with self._helpers(count) as workers:
            if not workers:
                return range_coder.decode(streams, rows, self._tables, name)
            out = np.zeros(rows.size, np.int32)
            parts = enumerate(range_coder.parts(rows, self._tables, count, name))
            jobs = [_Job(out[p], rows[p], streams[i], range_coder.damaged(name, i, count)) for i, p in parts]
            _share(workers, self._tables, jobs)
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


@dataclass(frozen=True)
class _Job:
    """A substream that is written of symbols, or read into them; its arrays may lie in shared memory."""

    symbols: Placed | None  # None: new ones, to be sent back
    rows: Placed
    stream: bytes | None = None  # to be read
    where: str = ""

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in (self.symbols, self.rows) if isinstance(array, np.ndarray))

    def sent(self, memory: Memory) -> _Job:
        """What a worker is told; symbols that it reads need room alone."""
        assert isinstance(self.symbols, np.ndarray) and isinstance(self.rows, np.ndarray)
        read = self.stream is not None
        symbols = memory.room(self.symbols.shape, self.symbols.dtype) if read else memory.place(self.symbols)
        return replace(self, symbols=symbols, rows=memory.place(self.rows))

    def done(self, tables: Tables, memory: Memory) -> bytes | Placed:
        """The substream, or the symbols that were read."""
        rows = memory.get(self.rows)
        if self.stream is None:
            assert self.symbols is not None
            return range_encoder.encode_substream(memory.get(self.symbols), rows, tables)
        symbols = np.zeros(rows.shape, np.int32) if self.symbols is None else memory.get(self.symbols)
        symbols[:] = 0
        range_coder.decode_substream(self.stream, rows, tables, symbols, self.where)
        return symbols if self.symbols is None else self.symbols

    def received(self, result: bytes | Placed, memory: Memory) -> Any:
        """The result of a worker: symbols go where they belong."""
        if isinstance(result, bytes):
            return result
        assert isinstance(self.symbols, np.ndarray)
        self.symbols[:] = memory.get(result)
        return self.symbols


def _share(workers: list[Worker], tables: Tables, jobs: list[_Job]) -> list[Any]:
    """The results of jobs, in order: consecutive shares of them, the first of which is this process's."""

    def here(share: list[_Job]) -> list[Any]:
        return [job.done(tables, workers[0].memory) for job in share]  # any memory: it passes these arrays as they are

    results: list[Any] = []
    for start in range(0, len(jobs), _AT_ONCE):
        group = jobs[start : start + _AT_ONCE]
        helpers = [worker for worker in workers if worker.alive]
        cuts = [i * len(group) // (len(helpers) + 1) for i in range(len(helpers) + 2)]
        own, *shares = (group[a:b] for a, b in pairwise(cuts))
        for worker, share in zip(helpers, shares, strict=True):
            with suppress(DiedError):  # `receive` says so again
                worker.memory.reserve(sum(job.nbytes for job in share), 2 * len(share))
                worker.send(_code, [job.sent(worker.memory) for job in share])
        fault: UgicError | MemoryError | None = None
        try:
            results += here(own)
        except (UgicError, MemoryError) as error:
            fault = error
        for worker, share in zip(helpers, shares, strict=True):
            try:
                found = worker.receive()
                results += [job.received(result, worker.memory) for job, result in zip(share, found, strict=True)]
            except DiedError:
                log.warning("a worker process of the range coder died; another takes its place")
                results += here(share)
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


def _code(tables: Tables, jobs: list[_Job]) -> list[bytes | Placed]:
    memory = shared_memory()
    return [job.done(tables, memory) for job in jobs]
