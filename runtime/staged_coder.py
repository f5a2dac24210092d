"""The `y` substream of a staged codec: for each stage its shifts, then its symbols, through one range coder's state.

Shifts are numbers from 0 to 63 (`runtime/guard.py`), small ones far more often than large ones. Each stage has a new
table for them, made in integers from the shifts of the stages before it; `docs/bitstream.md` specifies it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.encoder.range_encoder import SubstreamEncoder
from ugicm.runtime.guard import SHIFTS
from ugicm.runtime.range_coder import SubstreamDecoder, damaged
from ugicm.runtime.tables import TOTAL, Rows, Tables


class StagedEncoder:
    """Call `shifts`, then `symbols`, for each stage in order, then `finish`."""

    def __init__(self, tables: Tables) -> None:
        self._substream = SubstreamEncoder(tables)
        self._model = ShiftModel()

    def shifts(self, numbers: NDArray[np.uint8]) -> None:
        """Code the numbers of a stage's shifts, one for each block."""
        self._substream.entries(numbers.astype(np.int32), self._model.tables().encoder_model(0))
        self._model.count(numbers)

    def symbols(self, symbols: NDArray[np.int32], rows: Rows) -> None:
        """Code a stage's symbols, 1-D int32 in scan order, each by its row.

        Raises:
            ValueError: a symbol of a skipped row that is not 0.
        """
        self._substream.symbols(symbols, rows)

    def finish(self) -> bytes:
        """The substream."""
        return self._substream.finish()


class StagedDecoder:
    """Reads what a StagedEncoder wrote, in the same steps.

    Memory and time are bounded by the counts asked for and the stream's size. Every method raises CorruptFileError,
    which calls the file `name`, for a stream that breaks a rule of docs/bitstream.md.
    """

    def __init__(self, stream: bytes, tables: Tables, name: str = "<bytes>") -> None:
        self._substream = SubstreamDecoder(stream, tables, damaged(name, 0, 1))
        self._model = ShiftModel()

    def shifts(self, count: int) -> NDArray[np.uint8]:
        """(count,) the numbers, 0 to 63, of a stage's shifts."""
        numbers = self._substream.entries(count, self._model.tables().decoder_model(0)).astype(np.uint8)
        self._model.count(numbers)
        return numbers

    def symbols(self, rows: Rows) -> NDArray[np.int32]:
        """The int32 symbols of a stage, as many as `rows`, 1-D in scan order."""
        out = np.zeros(rows.size, np.int32)
        self._substream.symbols(rows, out)
        return out

    def finish(self) -> None:
        """Refuse what is left of the stream."""
        self._substream.finish()


class ShiftModel:
    """A geometric distribution whose parameter follows the shifts of the stages so far."""

    def __init__(self) -> None:
        self._blocks, self._misses = 8, 1

    def count(self, numbers: NDArray[np.uint8]) -> None:
        """A number n means n shifts that did not fit before one that did."""
        self._blocks += numbers.size
        self._misses += int(numbers.sum(dtype=np.int64))

    def tables(self) -> Tables:
        """One row of 64 frequencies: of what is left, each entry takes the share of shifts that fit."""
        fit = (self._blocks << 16) // (self._blocks + self._misses)
        spare = TOTAL - SHIFTS
        row: list[int] = []
        for _ in range(SHIFTS - 1):
            row.append(1 + (spare * fit >> 16))
            spare -= row[-1] - 1
        return Tables(np.array([*row, 1 + spare], np.uint32), np.array([SHIFTS], np.int32), np.zeros(1, np.int32))
