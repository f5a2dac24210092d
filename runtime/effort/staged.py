"""What symbols depend on in a codec with context: the stages run with symbols that move as a decoder runs them.

Each look at the latents is a pass through all stages, in their order, so that rows and means are those of the symbols
of that moment. A gradient takes them as given: that a symbol also moves what later stages know is left to the next
look. Shifts of the guard move no row but those that lie on an edge, and cost what they cost in the plain file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ugicm.runtime import staged
from ugicm.runtime.additions import Guard
from ugicm.runtime.effort.contexts import Distort, Known, Soften, Written
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.encoder.rounding import quantise
from ugicm.runtime.flow import Flow, asking
from ugicm.runtime.graphs import stages
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.guard import Rounding
from ugicm.runtime.schedule import Stage

Choose = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""y - mean, float32 (n,), which may be overwritten, and where its row is coded, bool (n,), to symbols."""


class StagedContext:
    """Of a codec with a schedule.

    Args:
        networks: of the codec.
        answer: to a flow, as `Codec.answer`.
        rate: of the codec's tables.
        z: int32 hyper-latents.
        quality: of the file.
        size: height and width of the padded picture.
    """

    def __init__(
        self,
        networks: Networks,
        answer: Callable[[Flow[Any]], Any],
        rate: Rate,
        z: np.ndarray,
        quality: int,
        size: tuple[int, int],
    ) -> None:
        self._bundle, self._answer, self._rate = networks.bundle, answer, rate
        self._z, self._quality, self._run = z, quality, stages.asking(asking(size, quality))
        schedule, skipped = networks.bundle.manifest.schedule, networks.bundle.y_tables.lengths == 0
        assert schedule is not None
        self._coded, self._block = ~skipped, schedule.block
        self._rounding = Rounding(Guard(schedule.band_bits, schedule.block), skipped)

    def known(self, y: np.ndarray) -> Known:
        """See `ugicm.runtime.effort.contexts.Context`."""
        _, rows, mean, y_hat = self._look(y, lambda residual, coded: residual * coded)
        return Known(mean, self._rate.of(rows), self._coded[rows].astype(np.float32), y_hat)

    def written(self, y: np.ndarray) -> Written:
        """See `ugicm.runtime.effort.contexts.Context`."""
        symbols, rows, _, y_hat = self._look(y, quantise)
        return Written(symbols.astype(np.int32), rows, y_hat)

    def gradient(self, y: np.ndarray, soften: Soften, distort: Distort, haste: float) -> tuple[np.ndarray, float]:
        """See `ugicm.runtime.effort.contexts.Context`."""
        slopes = []

        def choose(residual: np.ndarray, coded: np.ndarray) -> np.ndarray:
            symbols, slope = soften(residual)
            slopes.append(slope * coded)
            return symbols * coded

        order: list[np.ndarray] = []
        symbols, rows, _, y_hat = self._look(y, choose, order)
        slope = np.empty(y.shape, np.float32)
        slope.reshape(-1)[np.concatenate(order)] = np.concatenate(slopes)
        bits, by_symbols = self._rate(symbols, rows)
        by_y_hat, distortion = distort(y_hat)
        return (by_y_hat + np.float32(haste) * by_symbols) * slope, float(bits.sum()) + distortion

    def _look(
        self, y: np.ndarray, choose: Choose, order: list[np.ndarray] | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Symbols, rows, means and `y_hat`, (1, M, h, w) each; `order` is given where each stage's symbols stand."""
        latents = staged.Latents(self._bundle, self._z, self._quality)
        places = np.arange(y.size).reshape(y.shape)
        found = np.empty((2, y.size), np.float32)
        rows = np.empty(y.size, np.int32)

        def coded(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
            at = latents.of(stage, places)
            rows[at] = of = self._rounding.rows(index, np.zeros(-(-index.size // self._block), np.uint8))
            symbols = choose(latents.of(stage, y) - mean, self._coded[of])
            found[:, at] = symbols, mean
            if order is not None:
                order.append(at)
            return symbols

        self._answer(latents.decode(coded, self._run))
        symbols, mean = found.reshape(2, *y.shape)
        return symbols, rows.reshape(y.shape), mean, latents.y_hat
