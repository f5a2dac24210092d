"""Symbols and table rows to measure the entropy coder on: of a picture, or made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime.measures.held import held

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec


def latents(codec: Codec, image: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """(int32 symbols, rows) of `y` of a (H, W, 3) uint8 image, channel after channel."""
    found = held(codec, codec.encode(image, quality))
    return found.y.ravel(), found.y_rows.ravel()


def sparse_symbols(count: int = 491_520, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(int32 symbols, uint8 rows): of few bits, as a low rate's; scales from 0.11 to 256, mostly near the least."""
    rng = np.random.default_rng(0)
    row = np.minimum(rng.exponential(6, count), rows - 1).astype(np.uint8)
    scale = 0.11 * (256 / 0.11) ** (row / (rows - 1))
    return np.rint(rng.normal(size=count) * scale).astype(np.int32), row
