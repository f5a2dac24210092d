"""Real latents to integer symbols."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ugicm.runtime.errors import BackendError

LARGEST_SYMBOL = 2**31 - 1
_CACHED = 2**17  # numbers of an array that stay in a processor's cache, several such arrays beside each other


def channels(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of the channels of an (n, C, h, w) array, each small enough to stay in a processor's cache."""
    n, count, height, width = shape
    step = max(1, _CACHED // max(1, n * height * width))
    for start in range(0, count, step):
        yield slice(start, start + step)


def quantise(residual: np.ndarray, coded: np.ndarray | None) -> np.ndarray:
    """int32 symbols of y - mean, which is overwritten; 0 where the row is not coded. None: all are.

    Raises:
        BackendError: no numbers, or beyond 32 bits.
    """
    np.rint(residual, out=residual)
    largest = np.maximum(-residual.min(), residual.max())  # no number where one of them is none
    if not largest < LARGEST_SYMBOL:
        what = "beyond 32 bits" if np.isfinite(largest) else "that are no numbers"
        raise BackendError(f"g_a gave values {what}; the bundle or the backend is broken")
    if coded is not None:
        residual *= coded
    return residual.astype(np.int32)


def round_z(z: np.ndarray, limit: int) -> np.ndarray:
    """int32 of real `z`, clipped to ±limit. Raises BackendError for values that are no numbers."""
    if not np.isfinite(z).all():
        raise BackendError("h_a gave values that are no numbers; the bundle or the backend is broken")
    return np.clip(np.rint(z), -limit, limit).astype(np.int32)
