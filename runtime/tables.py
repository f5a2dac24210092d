"""Entropy tables: rows of integer frequencies, and the models that the coder makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.coders import coder
from ugicm.runtime.errors import BundleError

TOTAL = 1 << 24
MAX_ENTRIES = TOTAL - 2  # the longest row that constriction accepts

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
        need = int(wide.sum())
        require(need == frequencies.size, f"the rows need {need} frequencies, not {frequencies.size}")
        require(bool(np.all(frequencies >= 1)), "every frequency must be at least 1")
        ends, stops = np.append(0, np.cumsum(frequencies, dtype=np.int64)), np.cumsum(wide)
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
        """The coder's model of a row of two or more entries, for encoding; built at its first use."""
        return self._model(coder().encoder_model, row)

    def decoder_model(self, row: int) -> Any:
        """The same frequencies for decoding."""
        return self._model(coder().decoder_model, row) or self.encoder_model(row)

    @cached_property
    def _model(self) -> Callable[[Callable[..., Any], int], Any]:
        stops = np.cumsum(self.lengths, dtype=np.int64)
        return cache(lambda make, row: make(self.frequencies[stops[row] - self.lengths[row] : stops[row]]))

    def coded(self, rows: Rows) -> NDArray[np.bool_] | None:
        """For each symbol whether its row is coded at all; None where every row of the tables is."""
        first, skipped = self.skipped
        if not skipped:
            return None
        # One comparison where the skipped rows come before all others, as those of small scales do.
        return rows >= first if first == skipped else np.take(self.lengths > 0, rows, mode="clip")

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
