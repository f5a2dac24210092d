"""Pictures to measure on, made from a number."""

from __future__ import annotations

import numpy as np


def generated_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: noise whose amplitude falls with frequency as a photograph's does, and edges."""
    rng = np.random.default_rng(seed)
    side = 512
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = 1
    shared, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**1.2, (side, side)) for _ in range(4)
    )
    planes = np.stack([shared / shared.std() + 0.3 * c / c.std() for c in colours], -1)
    planes += np.where(planes[::-1, ::-1] > 0.5, 0.7, -0.3)
    tile = np.clip(128 + 48 * planes, 0, 255).astype(np.uint8)
    repeats = -(-height // side), -(-width // side), 1
    return np.ascontiguousarray(np.tile(tile, repeats)[:height, :width])


def squares_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: squares of 16 pixels in the eight colours that have each channel at 0 or 255."""
    side = 16
    rng = np.random.default_rng(seed)
    squares = 255 * rng.integers(0, 2, (-(-height // side), -(-width // side), 3), np.uint8)
    return np.ascontiguousarray(squares.repeat(side, 0).repeat(side, 1)[:height, :width])
