"""Guarded rounding: continuous scale indexes to table rows, the same on every machine whose floats differ a little.

A codec with context computes its scales in float networks, so two machines disagree in the last digits, and where an
index lies near the edge between two rows they round it differently. The encoder therefore takes the indexes of a stage
in blocks of consecutive positions and moves each block by the first of 64 shifts that leaves no index near an edge;
the shifts travel in the file. `docs/bitstream.md` specifies it with an example.

Why it is exact. Let e = 2**-band_bits and v = floor(s / e), computed without error: scaling by a power of two is exact
in float32 and float64, and so is floor. If |s - t| <= e, then v(s) and v(t) differ by at most 1. A shift of k adds 2k
to v. The edge between rows r and r + 1 lies at v = E = (2r + 1) / 2e, an integer, and an index is above it exactly if
v + 2k >= E. An index whose v + 2k is neither E - 1 nor E is therefore on the same side for the encoder and for every
decoder within e. So each edge forbids an index one shift, k = floor((E - v) / 2); the encoder takes one that is free.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.additions import MIN_BLOCK, Guard
from ugicm.runtime.errors import BackendError, CorruptFileError
from ugicm.runtime.tables import Rows

SHIFTS = 64
_LEAST = 1 - SHIFTS // 2  # the smallest k; the largest is SHIFTS // 2
# Shift number 0, 1, 2, 3, 4, … moves by k = 0, 1, -1, 2, -2, … and back.
_MOVES = np.array([(j + 1) // 2 if j % 2 else -(j // 2) for j in range(SHIFTS)])
_NUMBERS = np.argsort(_MOVES)


class CrowdedError(Exception):
    """Every shift brings some index of a block near an edge.

    An index forbids at most one of the 64 shifts, so blocks of less than 64 positions always have one left.
    """


def halved(guard: Guard) -> Guard:
    """Blocks of half as many positions, to encode with after a CrowdedError; never below 32, which cannot crowd."""
    return Guard(guard.band_bits, max(guard.block // 2, MIN_BLOCK))


class Rounding:
    """The rows of a file's stages. `skipped` (rows,) bool: the rows of the tables whose symbols are not coded.

    Indexes s are float32 or float64 of any shape whose C order is the scan order of the stage; block number i holds
    those from i * block up to (i + 1) * block, the last one what is left. The row of an index is floor(s + 2k e + 1/2),
    clipped to the table. An edge between two skipped rows does not matter: whichever a decoder takes, nothing is coded.
    """

    def __init__(self, guard: Guard, skipped: NDArray[np.bool_]) -> None:
        self.guard = guard
        self._rows = skipped.size
        # Whether the edge above row r matters, at r + 1: rows below 0 and above the last are clipped.
        self._matters = np.zeros(skipped.size + 2, bool)
        self._matters[1:-2] = ~(skipped[:-1] & skipped[1:])
        self._integer = np.int32 if skipped.size << guard.band_bits < 1 << 30 else np.int64

    def shifts(self, s: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
        """The encoder's choice: for each block the number, 0 to 63, of the first shift that no index forbids.

        Raises:
            CrowdedError: a block without one; `halved` blocks may have one.
            BackendError: indexes that are no numbers.
        """
        forbidden = self._forbidden(self._cells(s, "a stage"))
        if forbidden.all(1).any():
            raise CrowdedError
        return np.argmin(forbidden, 1).astype(np.uint8)

    def rows(self, s: NDArray[np.floating[Any]], shifts: NDArray[np.uint8], name: str = "<bytes>") -> Rows:
        """(s.size,) uint8, or uint16 for tables of more than 256 rows: the row of each index, for both sides.

        Raises:
            BackendError: indexes that are no numbers.
            CorruptFileError: a shift that no encoder chooses; `name` is what it calls the file.
        """
        v = self._cells(s, f"{name}: a stage")
        moved = np.flatnonzero(shifts)
        if moved.size and not self._plausible(v[moved], shifts[moved]):
            raise CorruptFileError(
                f"{name} is damaged: a shift is not the first that is free; copy or download it again, "
                "or check this machine with ugicm verify"
            )
        bits = self.guard.band_bits
        v += (2 * _MOVES[shifts] + (1 << bits - 1)).astype(v.dtype)[:, None]
        v >>= bits
        np.clip(v, 0, self._rows - 1, out=v)
        flat = v.reshape(-1)[: s.size]
        return flat.astype(np.uint8) if self._rows <= 256 else flat.astype(np.uint16)

    def _plausible(self, v: NDArray[Any], shifts: NDArray[np.uint8]) -> bool:
        """Whether an encoder whose v differ by at most 1 had to reject every shift before the one it chose."""
        possible = self._forbidden(v - 1) | self._forbidden(v + 1)
        return not np.any(~possible & (np.arange(SHIFTS) < shifts[:, None]))

    def _cells(self, s: NDArray[np.floating[Any]], where: str) -> NDArray[Any]:
        """v of each index, (blocks, block); the last block is filled up far from every edge that matters."""
        if not np.isfinite(s).all():
            raise BackendError(f"{where} gave scale indexes that are no numbers; the bundle or the backend is broken")
        block = max(1, min(self.guard.block, s.size))
        out = np.full((-(-s.size // block), block), -1 << self.guard.band_bits, self._integer)
        # Clipping keeps two indexes as near as they are, and beyond the outermost edges by more than any shift.
        scaled = np.clip(s.reshape(-1), -1, self._rows)
        scaled *= 1 << self.guard.band_bits
        out.reshape(-1)[: s.size] = np.floor(scaled, out=scaled)
        return out

    def _forbidden(self, v: NDArray[Any]) -> NDArray[np.bool_]:
        """(blocks, 64): whether the shift of this number brings v + 2k of any index of the block to E - 1 or E."""
        bits = self.guard.band_bits
        forbidden = np.zeros((len(v), SHIFTS), bool)
        pair = (v.reshape(-1) + 1) >> 1  # numbers E - 1 and E alike, E / 2 = r * 2**(bits - 1) + 2**(bits - 2)
        move = ((1 << bits - 2) - _LEAST - pair) & ((1 << bits - 1) - 1)  # to the edge, counted from the smallest k
        near = np.flatnonzero(move < SHIFTS)
        near = near[self._matters[(pair[near] >> bits - 1) + 1]]
        forbidden[near // v.shape[1], _NUMBERS[move[near]]] = True
        return forbidden
