"""The gains that a quality byte of a file names."""

from __future__ import annotations

import numpy as np


def gains_of(gains: np.ndarray, byte: int) -> np.ndarray:
    """(1, M, 1, 1) float32: a row of `gains`, (qualities, M, 1, 1), or between two; see `ugicm.runtime.between`."""
    if byte <= len(gains):
        return gains[byte - 1 : byte]
    from ugicm.runtime.between import between

    return between(gains, byte)
