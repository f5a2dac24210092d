"""The range coder of `docs/bitstream.md`, compiled by numba; the interpreter's lock is free while it runs.

Its interface is constriction's, as far as it is used here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_WORD = (1 << 32) - 1
_BUCKET = np.uint64(14)  # bits of a quantile that share an entry of `Model.first`
_BUCKETS = 1 << 10
# numba makes a float of int64 and uint64 together: every constant of the state is uint64.
_32, _24, _TOTAL, _LOW = np.uint64(32), np.uint64(24), np.uint64(1 << 24), np.uint64(_WORD)


class Model(NamedTuple):
    """A row of n entries.

    cumulative: uint64 (n + 1,), the frequencies before each entry, then 2**24.
    first: int32 (1025,), the entry that holds the first quantile of each bucket of 2**14, and of the end.
    """

    cumulative: NDArray[np.uint64]
    first: NDArray[np.int32]


def encoder_model(frequencies: NDArray[np.uint32]) -> Model:
    """The model of a row of two or more entries."""
    cumulative = np.concatenate([[0], np.cumsum(frequencies, dtype=np.uint64)]).astype(np.uint64)
    quantiles = np.arange(_BUCKETS + 1, dtype=np.uint64) << _BUCKET
    first = np.searchsorted(cumulative, quantiles, side="right") - 1
    return Model(cumulative, np.minimum(first, frequencies.size - 1).astype(np.int32))


def decoder_model(frequencies: NDArray[np.uint32]) -> None:
    """None: the encoder's model serves."""


class RangeDecoder:
    """Reads the words of a substream, uint32."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = words
        point = (int(words[0]) << 32 if words.size else 0) | (int(words[1]) if words.size > 1 else 0)
        self._state = np.array([0, _MASK, point, 2], np.uint64)

    def decode(self, model: Model, count: int) -> NDArray[np.int32]:
        """The next int32 entries of a row. Raises AssertionError, as constriction does, where no encoder wrote them."""
        out = np.empty(count, np.int32)
        if not _decode(self._words, self._state, model.cumulative, model.first, out):
            raise AssertionError("a quantile of 2**24 or more")
        return out

    def maybe_exhausted(self) -> bool:
        """Whether an encoder may have ended here."""
        lower, _, point, taken = map(int, self._state)
        return taken >= self._words.size and (point - lower) & _MASK < (1 << 33) - 1


class RangeEncoder:
    """Writes the words of a substream."""

    def __init__(self) -> None:
        self._words = np.empty(64, np.uint32)
        self._state = np.array([0, _MASK, 0], np.uint64)

    def encode(self, entries: NDArray[np.int32], model: Model) -> None:
        """Codes entries of a row."""
        written = int(self._state[2])
        if written + entries.size > self._words.size:  # at most one word a symbol
            words = np.empty(2 * written + entries.size, np.uint32)
            words[:written] = self._words[:written]
            self._words = words
        _encode(self._words, self._state, model.cumulative, np.ascontiguousarray(entries))

    def get_compressed(self) -> NDArray[np.uint32]:
        """All words, sealed; none where nothing was coded."""
        lower, extent, written = map(int, self._state)
        if extent == _MASK:
            return np.zeros(0, np.uint32)
        words = self._words[:written].tolist()
        sealed = (lower + _WORD) >> 32
        zero = [0] if (lower + extent) >> 32 == sealed else []
        if sealed > _WORD:
            _carry(np_words := np.array(words, np.uint32), np.uint64(written))
            words = np_words.tolist()
        return np.array([*words, sealed & _WORD, *zero], np.uint32)


def _compiled(*types: str) -> Callable[[Any], Any]:
    """Compiled once a machine where a folder for that can be written, else at every start."""

    def compile_function(function: Any) -> Any:
        signature = f"({', '.join(types)})"
        try:
            return njit(signature, nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError:  # no folder for the cache
            return njit(signature, nogil=True, error_model="numpy")(function)

    return compile_function


@_compiled("uint32[::1]", "uint64[::1]", "uint64[::1]", "int32[::1]", "int32[::1]")
def _decode(words, state, cumulative, first, out):  # type: ignore[no-untyped-def]
    lower, extent, point, taken = state[0], state[1], state[2], state[3]
    for i in range(out.size):
        scale = extent >> _24
        quantile = (point - lower) // scale
        if quantile >= _TOTAL:
            return False
        bucket = quantile >> _BUCKET
        k, last = np.uint64(first[bucket]), np.uint64(first[bucket + np.uint64(1)])
        while k < last:
            middle = (k + last + np.uint64(1)) >> np.uint64(1)
            if cumulative[middle] <= quantile:
                k = middle
            else:
                last = middle - np.uint64(1)
        lower += scale * cumulative[k]
        extent = scale * (cumulative[k + np.uint64(1)] - cumulative[k])
        out[i] = k
        if extent <= _LOW:
            lower <<= _32
            extent <<= _32
            point <<= _32
            if taken < np.uint64(words.size):
                point |= np.uint64(words[taken])
            taken += np.uint64(1)
    state[0], state[1], state[2], state[3] = lower, extent, point, taken
    return True


@_compiled("uint32[::1]", "uint64")
def _carry(words, written):  # type: ignore[no-untyped-def]
    at = written - np.uint64(1)
    while words[at] == _LOW:
        words[at] = 0
        at -= np.uint64(1)
    words[at] += np.uint32(1)


@_compiled("uint32[::1]", "uint64[::1]", "uint64[::1]", "int32[::1]")
def _encode(words, state, cumulative, entries):  # type: ignore[no-untyped-def]
    lower, extent, written = state[0], state[1], state[2]
    for i in range(entries.size):
        k = np.uint64(entries[i])
        scale = extent >> _24
        before = lower
        lower += scale * cumulative[k]
        extent = scale * (cumulative[k + np.uint64(1)] - cumulative[k])
        if lower < before:
            _carry(words, written)
        if extent <= _LOW:
            words[written] = lower >> _32
            written += np.uint64(1)
            lower <<= _32
            extent <<= _32
    state[0], state[1], state[2] = lower, extent, written
