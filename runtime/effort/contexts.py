"""What the symbols of one picture depend on while they move, `z` kept: their table rows and means.

`ExactContext` is of codecs whose rows come from `z` alone; `ugicm.runtime.effort.staged` has that of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np

from ugicm.runtime.effort.distortion import context_graph
from ugicm.runtime.effort.rate import Bits, Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.encoder.analysis import symbols_of
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.symbols import checkerboard

Soften = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""y - mean to symbols that have a slope, and that slope."""
Distort = Callable[[np.ndarray], tuple[np.ndarray, float]]
"""`y_hat` to the gradient of the weighted distortion, in bits, and the distortion."""


class Known(NamedTuple):
    """What holds for real latents, (1, M, h, w) float32 each.

    Attributes:
        mean: what symbols are counted from.
        bits: of symbols.
        coded: 0 where the row is skipped, else 1.
        y_hat: the latents that the synthesis gets: where nothing is coded the mean, and with what is predicted of the
            residual.
    """

    mean: np.ndarray
    bits: Bits
    coded: np.ndarray
    y_hat: np.ndarray


class Written(NamedTuple):
    """What stands in the file of real latents, (1, M, h, w) each.

    Attributes:
        symbols: int32.
        rows: of the tables.
        y_hat: float32.
    """

    symbols: np.ndarray
    rows: np.ndarray
    y_hat: np.ndarray


class Context(Protocol):
    """Of the latents of one picture."""

    def known(self, y: np.ndarray) -> Known:
        """With symbols that are not rounded."""

    def written(self, y: np.ndarray) -> Written:
        """With symbols as the encoder rounds them."""

    def gradient(self, y: np.ndarray, soften: Soften, distort: Distort, haste: float) -> tuple[np.ndarray, float]:
        """The gradient of bits * `haste` + distortion by `y`, through softened symbols, and the loss in bits."""


class ExactContext:
    """Of a codec whose rows and means `z` decides, but for what a checkerboard refines.

    Args:
        networks: of the codec.
        rate: of its tables.
        z: int32 hyper-latents.
    """

    def __init__(self, networks: Networks, rate: Rate, z: np.ndarray) -> None:
        self._networks, tables = networks, networks.bundle.y_tables
        self._rows, mean = networks.scales_and_means(z)
        self._mean = np.zeros(self._rows.shape, np.float32) if mean is None else mean
        coded = tables.coded(self._rows)
        self._coded = np.ones(self._rows.shape, np.float32) if coded is None else coded.astype(np.float32)
        self._bits = rate.of(self._rows)
        self._anchor = checkerboard(*self._rows.shape[2:]) if networks.bundle.manifest.context else None

    def known(self, y: np.ndarray) -> Known:
        """See `Context`."""
        mean = self._refined((y - self._mean) * self._coded)
        return Known(mean, self._bits, self._coded, np.where(self._coded > 0, y, mean))

    def written(self, y: np.ndarray) -> Written:
        """See `Context`."""
        symbols = symbols_of(self._networks, y, self._rows, self._mean)
        return Written(symbols, self._rows, np.asarray(self._networks.latents(symbols, self._mean)))

    def gradient(self, y: np.ndarray, soften: Soften, distort: Distort, haste: float) -> tuple[np.ndarray, float]:
        """See `Context`."""
        anchor, means = self._anchor, self._mean
        symbols, slope = soften(y - self._mean)
        if anchor is not None:
            anchors = symbols * (self._coded * anchor)
            means = self._refined(anchors)
            others, others_slope = soften(y - means)
            symbols = np.where(anchor > 0, symbols, others)
            slope = np.where(anchor > 0, slope, others_slope)
        symbols *= self._coded
        slope *= self._coded
        rate, rate_slope = self._bits(symbols)
        by_y_hat, distortion = distort(means + symbols)
        by_symbols = by_y_hat + np.float32(haste) * rate_slope
        if anchor is not None:
            by_means = (by_y_hat - slope * by_symbols) * (1 - anchor)
            by_symbols = by_symbols + self._pulled(anchors, by_means) * anchor
        return by_symbols * slope, float(rate.sum()) + distortion

    def _refined(self, symbols: np.ndarray) -> np.ndarray:
        """The means, those of the others by the symbols of anchors; what other symbols are does not matter."""
        if self._anchor is None:
            return self._mean
        found = self._networks.run("context", symbols=symbols * self._anchor, mean=self._mean, anchor=self._anchor)
        return np.where(self._anchor > 0, self._mean, found)

    def _pulled(self, anchors: np.ndarray, by_means: np.ndarray) -> np.ndarray:
        """The gradient by the symbols of anchors from that by the refined means."""
        assert self._anchor is not None
        graph = derived(self._networks, "context", partial(context_graph, self._networks.bundle))
        return graph({"symbols": anchors, "mean": self._mean, "anchor": self._anchor, "seed": by_means})[0]
