"""Entropy tables: rows of integer frequencies, and the models that constriction makes of them.

Rows of integer frequencies are what a stream means; constriction takes float probabilities and gives each of a row's
n entries 1 plus its share of 2**24 - n, cumulated in float64 and floored. Handed the values `frequency - 1`, which are
integers that sum to 2**24 - n, it scales by exactly 1, every partial sum is exact, and it lands on the integer
frequencies (tests/reference proves it).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.errors import BundleError

TOTAL = 1 << 24
MAX_ENTRIES = TOTAL - 2  # the longest row that constriction accepts
_SHORT, _LIKELY = 18, TOTAL * 2 // 3  # rows that decode faster from the left: at most so long, one entry so frequent

Rows = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Tables:
    """A set of rows of integer frequencies. Build it with `from_arrays`, which checks it.

    frequencies: uint32, all rows concatenated; those of a row are at least 1 and sum to 2**24.
    lengths: int32, entries of each row, the escape (its last entry) included. 0 marks a skipped row: its
    symbols are always 0 and not coded. 1 marks a row whose every symbol is escaped.
    offsets: int32, the value of each row's first entry; entry k stands for offset + k.
    """

    frequencies: NDArray[np.uint32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]

    @classmethod
    def from_arrays(
        cls, frequencies: NDArray[Any], lengths: NDArray[Any], offsets: NDArray[Any], *, name: str = "tables"
    ) -> Tables:
        """Check the arrays and keep read-only copies. Raises BundleError, which calls them `name`."""

        def require(condition: bool, what: str) -> None:
            if not condition:
                raise BundleError(f"{name}: {what}; export the bundle again")

        for array, dtype, field in (
            (frequencies, np.uint32, "frequencies"),
            (lengths, np.int32, "lengths"),
            (offsets, np.int32, "offsets"),
        ):
            require(array.dtype == dtype and array.ndim == 1, f"{field} must be a 1-D {np.dtype(dtype)} array")
        require(lengths.size == offsets.size, f"{lengths.size} lengths but {offsets.size} offsets")
        require(lengths.size <= 1 << 16, f"{lengths.size} rows, at most 65536 are allowed")
        wide = lengths.astype(np.int64)
        require(bool(np.all((wide >= 0) & (wide <= MAX_ENTRIES))), f"row lengths must be 0 to {MAX_ENTRIES}")
        require(
            int(wide.sum()) == frequencies.size,
            f"the rows need {wide.sum()} frequencies, not {frequencies.size}",
        )
        require(bool(np.all(frequencies >= 1)), "every frequency must be at least 1")
        ends = np.concatenate([[0], np.cumsum(frequencies, dtype=np.int64)])
        stops = np.cumsum(wide)
        sums = ends[stops] - ends[stops - wide]
        require(bool(np.all((sums == TOTAL) | (wide == 0))), "the frequencies of a row must sum to 2**24")
        last = offsets.astype(np.int64) + np.maximum(wide - 2, 0)
        require(bool(np.all(last < 1 << 31)), "a row reaches past the largest int32 symbol")
        copies = [np.array(a, dtype=a.dtype.newbyteorder("=")) for a in (frequencies, lengths, offsets)]
        for copy in copies:
            copy.setflags(write=False)
        return cls(*copies)

    @property
    def rows(self) -> int:
        """How many rows there are; a row index is less than this."""
        return self.lengths.size

    def encoder_model(self, row: int) -> Any:
        """constriction's model of a row of two or more entries, for encoding; built at its first use."""
        model = self._encoder_models[row]
        if model is None:
            model = self._encoder_models[row] = _categorical(self._row(row), lazy=False)
        return model

    def decoder_model(self, row: int) -> Any:
        """The same frequencies for decoding: searched from the left where the row is short and one entry likely.

        constriction's cumulated form halves the interval, three nanoseconds a step whatever the data; its lazy form
        adds up probabilities from the left, which a processor predicts where the outcome is nearly always the same.
        """
        model = self._decoder_models[row]
        if model is None:
            frequencies = self._row(row)
            lazy = frequencies.size <= _SHORT and int(frequencies.max()) >= _LIKELY
            model = _categorical(frequencies, lazy=True) if lazy else self.encoder_model(row)
            self._decoder_models[row] = model
        return model

    def coded(self, rows: Rows) -> NDArray[np.bool_] | None:
        """For each symbol whether its row is coded at all; None where every row of the tables is."""
        first, skipped = self.skipped
        if not skipped:
            return None
        # One comparison where the skipped rows come before all others, as those of small scales do.
        return rows >= first if first == skipped else np.take(self.lengths > 0, rows, mode="clip")

    def _row(self, row: int) -> NDArray[np.uint32]:
        stop = int(self._stops[row])
        return self.frequencies[stop - int(self.lengths[row]) : stop]

    @cached_property
    def skipped(self) -> tuple[int, int]:
        """How many rows are skipped before the first that is not, and in all."""
        skipped = self.lengths == 0
        return int(np.argmin(np.append(skipped, False))), int(np.count_nonzero(skipped))

    @cached_property
    def limits(self) -> NDArray[np.int32]:
        """int32 (rows,), the index of each row's escape; -1 for a skipped row."""
        return self.lengths - np.int32(1)

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        """int32 (rows,), the value of each row's first entry; 0 for a skipped row."""
        return np.where(self.lengths > 0, self.offsets, np.int32(0))

    @cached_property
    def _encoder_models(self) -> list[Any]:
        return [None] * self.rows

    @cached_property
    def _decoder_models(self) -> list[Any]:
        return [None] * self.rows

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64)


def _categorical(frequencies: NDArray[np.uint32], lazy: bool) -> Any:
    shares = frequencies.astype(np.float64)
    shares -= 1
    return constriction.stream.model.Categorical(shares, perfect=False, lazy=lazy)
