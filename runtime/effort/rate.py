"""Bits of real-valued symbols: integer tables, interpolated between neighbouring symbols."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ugicm.runtime.tables import TOTAL, Tables

Bits = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Symbols, float32, to their bits and the slopes of these, float32."""


class Rate:
    """The ideal code length of symbols by their table rows, and its slope.

    Between two neighbouring symbols the bits are interpolated linearly; beyond a row's ends they go on as steeply as
    between its last two symbols. A skipped row costs nothing.
    """

    def __init__(self, tables: Tables) -> None:
        lengths = tables.lengths.astype(np.int64)
        self._bits = -np.log2(tables.frequencies / TOTAL)
        self._bits = np.append(self._bits, 0.0).astype(np.float32)  # what rows without entries read
        slopes = np.append(np.diff(self._bits), np.float32(0))
        self._slopes = slopes.astype(np.float32)
        starts = np.cumsum(lengths) - lengths
        # A row's last entry is its escape; a slope needs two symbols.
        flat = lengths < 3
        self._first = np.where(flat, self._bits.size - 1, starts).astype(np.int32)
        self._last = np.where(flat, 0, lengths - 3).astype(np.float32)
        self._offsets = tables.offsets.astype(np.float32)

    def __call__(self, symbols: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 bits and their slopes by the symbol, of the shape of the symbols (float32) and their rows."""
        return self.of(rows)(symbols)

    def of(self, rows: np.ndarray) -> Bits:
        """The same for many symbols of the same rows: what a row decides is looked up once."""
        first, last, offsets = self._first[rows], self._last[rows], self._offsets[rows]

        def bits(symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            at = symbols - offsets
            entry = np.clip(np.floor(at), 0, last)
            index = first + entry.astype(np.int32)
            slopes = self._slopes[index]
            return self._bits[index] + slopes * (at - entry), slopes

        return bits
