"""The range coder of a pipeline, in processes: symbols and table rows pass in shared memory."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.flow import Read, Write
from ugicm.runtime.processes.workers import Pool, Shared, Slot, attach, detach
from ugicm.runtime.tables import Tables

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Coders:
    """Answers what flows ask of the range coder, in so many processes; with none, in the thread that asks."""

    def __init__(self, bundle: Bundle, workers: int) -> None:
        self._tables = {"y": bundle.y_tables, "z": bundle.z_tables}
        arrays = {name: (t.frequencies, t.lengths, t.offsets) for name, t in self._tables.items()}
        self._workers = workers
        self._pool = Pool(workers, _open, arrays)
        self._slots = [Slot() for _ in range(workers)]
        self._free: SimpleQueue[Slot] = SimpleQueue()
        for slot in self._slots:
            self._free.put(slot)

    def answer(self, request: Read | Write) -> Any:
        """Symbols of the shape of the rows, or the substreams. Raises what `range_coder` raises; BackendError."""
        if not self._workers:
            if isinstance(request, Read):
                return read(self._tables[request.table], request.streams, request.rows, request.name)
            return write(self._tables[request.table], request.symbols, request.rows, request.count)
        slot = self._free.get()
        try:
            slot.reserve(request.rows.nbytes + 4 * request.rows.size, 2)
            rows = slot.place(request.rows)
            if isinstance(request, Write):
                symbols = slot.place(request.symbols)
                return self._pool.call(_write, request.table, symbols, rows, request.count)
            symbols = slot.empty(request.rows.shape, np.dtype(np.int32))
            self._pool.call(_read, request.table, request.streams, rows, symbols, request.name)
            return np.array(slot.array(symbols))
        finally:
            self._free.put(slot)

    def close(self) -> None:
        """Ends the processes; nothing may be under way."""
        self._pool.close()
        for slot in self._slots:
            slot.close()
        detach()


def read(tables: Tables, streams: Any, rows: np.ndarray, name: str) -> np.ndarray:
    """Symbols of the shape of the rows."""
    return range_coder.decode(streams, rows.ravel(), tables, name).reshape(rows.shape)


def write(tables: Tables, symbols: np.ndarray, rows: np.ndarray, count: int) -> list[bytes]:
    """Substreams."""
    return range_coder.encode(symbols.ravel(), rows.ravel(), tables, count)


# ---- what runs in workers


def _open(arrays: dict[str, Arrays]) -> dict[str, Tables]:
    return {name: Tables.from_arrays(*three) for name, three in arrays.items()}


def _read(tables: dict[str, Tables], table: str, streams: Any, rows: Shared, symbols: Shared, name: str) -> None:
    attach(symbols)[...] = read(tables[table], streams, attach(rows), name)


def _write(tables: dict[str, Tables], table: str, symbols: Shared, rows: Shared, count: int) -> list[bytes]:
    return write(tables[table], attach(symbols), attach(rows), count)
