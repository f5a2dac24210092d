"""Latents and symbols: sizes, table rows, rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from ugicm.runtime.bitstream import MAX_PIXELS, MAX_SIDE
from ugicm.runtime.errors import BackendError, ImageError
from ugicm.runtime.tables import TOTAL, Tables

SYMBOLS_A_SUBSTREAM = 131072
LARGEST_SYMBOL = 2**31 - 1
_CACHED = 2**17  # numbers of an array that stay in a processor's cache, several such arrays beside each other


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The size that an image is coded at: multiples of the stride."""
    return height + -height % stride, width + -width % stride


def z_rows(shape: tuple[int, ...]) -> np.ndarray:
    """The table row of each `z` symbol, of the shape of `z`, (n, Nz, h, w): its channel; uint8 or uint16."""
    dtype = np.uint8 if shape[1] <= 256 else np.uint16
    return np.ascontiguousarray(np.broadcast_to(np.arange(shape[1], dtype=dtype)[:, None, None], shape))


@lru_cache(16)
def least_bits(tables: Tables) -> float:
    """The fewest bits that one symbol of every row can take together: what bounds a size that a header claims."""
    bits = 0.0
    starts = np.cumsum(tables.lengths) - tables.lengths
    for start, length in zip(starts, tables.lengths, strict=True):
        if length > 1:
            bits -= math.log2(float(tables.frequencies[start : start + length].max()) / TOTAL)
    return bits


@lru_cache(8)
def checkerboard(height: int, width: int) -> np.ndarray:
    """(1, 1, height, width) float32, read-only: 1 at anchors, where row + column is even."""
    board = ((np.add.outer(np.arange(height), np.arange(width)) + 1) % 2).astype(np.float32)[None, None]
    board.setflags(write=False)
    return board


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


def check_image(image: np.ndarray) -> tuple[int, int]:
    """The height and width of an image. Raises ImageError: not one that can be encoded."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ImageError(f"an image must be an (H, W, 3) uint8 array; this is {found}")
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image may have {MAX_PIXELS} pixels; this has {width}×{height}")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"an image's sides must be 1 to {MAX_SIDE} pixels; this has {width}×{height}")
    return height, width
