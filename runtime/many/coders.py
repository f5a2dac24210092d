"""The range coder of a pipeline, in processes: symbols and table rows pass in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder.request import Write
from ugicm.runtime.flow import Read
from ugicm.runtime.processes.pool import Pool
from ugicm.runtime.processes.shared import Placed, Shared
from ugicm.runtime.processes.worker import shared_memory
from ugicm.runtime.tables import Tables

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]


class Coders:
    """Answers what flows ask of the range coder, in so many processes; with none, in the thread that asks."""

    def __init__(self, bundle: Bundle, workers: int) -> None:
        self._tables = {"y": bundle.y_tables, "z": bundle.z_tables}
        arrays = {name: (t.frequencies, t.lengths, t.offsets) for name, t in self._tables.items()}
        self._pool = Pool(workers, _open, arrays)

    def answer(self, request: Read | Write) -> Any:
        """Symbols of the shape of the rows, or the substreams. Raises what `range_coder` raises; BackendError."""
        if not len(self._pool):
            return request.coded(self._tables[request.table])
        with self._pool.lend() as worker:
            memory = worker.memory
            memory.reserve(request.rows.nbytes + 4 * request.rows.size, 2)
            rows = memory.place(request.rows)
            if isinstance(request, Write):
                return worker.call(_write, request.table, memory.place(request.symbols), rows, request.count)
            room = memory.room(request.rows.shape, np.dtype(np.int32))
            symbols = worker.call(_read, request.table, request.streams, rows, room, request.name)
            return np.array(memory.get(symbols))

    def close(self) -> None:
        """Ends the processes; nothing may be under way."""
        self._pool.close()


# ---- what runs in workers


def _open(arrays: dict[str, Arrays]) -> dict[str, Tables]:
    return {name: Tables.from_arrays(*three) for name, three in arrays.items()}


def _read(tables: dict[str, Tables], table: str, streams: Any, rows: Placed, room: Shared | None, name: str) -> Placed:
    memory = shared_memory()
    return memory.put(room, Read(table, streams, memory.get(rows), name).coded(tables[table]))


def _write(tables: dict[str, Tables], table: str, symbols: Placed, rows: Placed, count: int) -> list[bytes]:
    memory = shared_memory()
    return Write(table, memory.get(symbols), memory.get(rows), count).coded(tables[table])
