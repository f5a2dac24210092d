"""How far scale indexes of single precision stray from those of double precision, and how far they may.

What floats get wrong is the scale, by an amount that hardly depends on it. The same error moves the index of a small
scale the farther, in inverse proportion: where a channel's scales seldom come down to the foot of the table, few
samples show the distances that come to pass there. They follow from the errors of all its scales and the smallest one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Straying(NamedTuple):
    """Distances between indexes, in rows.

    Attributes:
        largest: that was met.
        possible: of a channel's largest error at its smallest scale, both as met, wherever they were.
        channel, scale, error: of the latents, where the largest was met; what was right there, and how wrong it was.
    """

    largest: float
    possible: float
    channel: int = 0
    scale: float = 1.0
    error: float = 0.0

    @property
    def where(self) -> str:
        """The largest as part of a sentence."""
        at = f"a scale of {self.scale:.2g} in latent channel {self.channel}"
        return f"single precision gets {at} wrong by {self.error:.1g}"


class Strays:
    """Collects distances of indexes.

    Args:
        table: float64 (rows,) ascending scales, as of `ScaleIndex`.
        channels: of the latents.
    """

    def __init__(self, table: np.ndarray, channels: int) -> None:
        self._logs = np.log(np.asarray(table, np.float64))
        self._largest = Straying(0.0, 0.0)
        self._errors, self._least = np.zeros(channels), np.full(channels, np.inf)

    def add(self, expected: np.ndarray, found: np.ndarray) -> None:
        """Indexes (n, M, H, W) in double precision and as some machine has them."""
        distances, right = np.abs(found - expected), self._scales(expected)
        errors = np.abs(self._scales(found) - right)
        if distances.max() > self._largest.largest:
            at = np.unravel_index(distances.argmax(), distances.shape)
            self._largest = Straying(float(distances[at]), 0.0, int(at[1]), float(right[at]), float(errors[at]))
        self._errors = np.maximum(self._errors, errors.max((0, 2, 3)))
        self._least = np.minimum(self._least, expected.min((0, 2, 3)))

    def straying(self) -> Straying:
        """Of all that was added."""
        least = np.clip(self._least, -0.5, len(self._logs) + 64)
        steps = np.diff(self._logs[:-1])
        step = steps[np.clip(np.floor(least - 0.5), 0, len(steps) - 1).astype(int)]
        possible = float((self._errors / (self._scales(least) * step)).max())
        return Straying(self._largest.largest, possible, *self._largest[2:])

    def _scales(self, index: np.ndarray) -> np.ndarray:
        """The scales that `ScaleIndex` gives such indexes; the smallest that it tells apart for lower ones."""
        edges, index = self._logs[:-1], np.clip(np.asarray(index, np.float64), -0.5, len(self._logs) + 64)
        at, steps = np.arange(len(edges)) + 0.5, np.diff(edges)
        beyond = np.minimum(index - at[0], 0) * steps[0] + np.maximum(index - at[-1], 0) * steps[-1]
        return np.asarray(np.exp(np.interp(index, at, edges) + beyond))
