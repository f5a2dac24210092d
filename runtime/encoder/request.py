"""What an encoding flow asks of the range coder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.tables import Tables

if TYPE_CHECKING:
    from ugicm.runtime.processes.parallel_coder import ParallelCoder


@dataclass(frozen=True, slots=True, eq=False)
class Write:
    """Asks the range coder for `count` substreams that hold int32 symbols by their table rows; `table` as of `Read`."""

    table: str
    symbols: np.ndarray
    rows: np.ndarray
    count: int

    def coded(self, tables: Tables, helpers: ParallelCoder | None = None) -> list[bytes]:
        """The substreams, written by the tables that are asked for; helpers, if there are any, have the same."""
        symbols, rows = self.symbols.ravel(), self.rows.ravel()
        if helpers is not None:
            return helpers.encode(symbols, rows, self.count)
        return range_encoder.encode(symbols, rows, tables, self.count)
