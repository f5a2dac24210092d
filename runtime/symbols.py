"""Latents and symbols: sizes, gains, table rows."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ugicm.runtime.tables import TOTAL, Tables


def padded_size(height: int, width: int, stride: int) -> tuple[int, int]:
    """The size that an image is coded at: multiples of the stride."""
    return height + -height % stride, width + -width % stride


def gains_of(gains: np.ndarray, byte: int) -> np.ndarray:
    """(1, M, 1, 1) float32: a row of `gains`, (qualities, M, 1, 1), or between two; see `ugicm.runtime.between`."""
    if byte <= len(gains):
        return gains[byte - 1 : byte]
    from ugicm.runtime.between import between

    return between(gains, byte)


def z_first(tables: Tables, channels: int, byte: int) -> int:
    """The first row of the tables of `z` at a quality: some codecs have rows for each whole one, which go up to it."""
    if byte * channels > tables.rows > channels:
        from ugicm.runtime.between import quality_of

        byte = int(quality_of(byte, tables.rows // channels))
    return (byte - 1) * channels if tables.rows > channels else 0


def z_rows(shape: tuple[int, ...], first: int = 0) -> np.ndarray:
    """The table row of each `z` symbol, of the shape of `z`, (n, Nz, h, w): `first` + its channel; uint8 or uint16."""
    rows = np.arange(first, first + shape[1], dtype=np.uint8 if first + shape[1] <= 256 else np.uint16)
    return np.ascontiguousarray(np.broadcast_to(rows[:, None, None], shape))


@lru_cache(16)
def least_bits(tables: Tables, first: int, channels: int) -> float:
    """The fewest bits that one symbol of each of so many rows take together: it bounds a size that a header claims."""
    bits, rows = 0.0, slice(first, first + channels)
    starts = np.cumsum(tables.lengths) - tables.lengths
    for start, length in zip(starts[rows], tables.lengths[rows], strict=True):
        if length > 1:
            bits -= math.log2(float(tables.frequencies[start : start + length].max()) / TOTAL)
    return bits


@lru_cache(8)
def checkerboard(height: int, width: int) -> np.ndarray:
    """(1, 1, height, width) float32, read-only: 1 at anchors, where row + column is even."""
    board = ((np.add.outer(np.arange(height), np.arange(width)) + 1) % 2).astype(np.float32)[None, None]
    board.setflags(write=False)
    return board
