"""Gradient steps on the latents of one picture, with symbols relaxed and `z` kept.

A symbol is relaxed to floor + sigmoid((fraction − ½) / temperature), which tends to rounding as the temperature falls.
Adam's second moment is averaged over the symbols of each table row: symbols of one scale have gradients of one size,
and those whose gradient is rarely large are not thrown about.
Rate and rounding are numpy's, the distortion and the context run as graphs. Compare Yang, Bamler and Mandt,
"Improving inference for neural image compression", NeurIPS 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ugicm.runtime.effort.contexts import Soften

COLD = 0.06
LONGEST = 2.5  # of a step, in root mean squares of a row: few large gradients among zeros would throw symbols far


@dataclass(frozen=True)
class Schedule:
    """How many steps, the length of the first in symbols, and the momentum.

    Attributes:
        random: whether symbols are drawn between their two neighbours, by stochastic Gumbel annealing, rather than
            relaxed; the same draws at every run.
        hot: the temperature of the first step; it falls evenly to `COLD`, by equal factors where symbols are drawn.
        second: how much of Adam's second moment a step keeps.
        cooling: how far the length falls from the first step to the last.
        haste: what a bit counts for in the gradient. Steps are few and rounding comes after them: with more than 1
            they end at a lower cost.
        settling: steps of `ugicm.runtime.effort.field` before these.
    """

    steps: int
    length: float
    momentum: float
    random: bool = False
    hot: float = 0.2
    second: float = 0.9
    cooling: float = 10.0
    haste: float = 1.0
    settling: int = 0


def draw(residual: np.ndarray, temperature: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of y − mean drawn from their two neighbours by a Gumbel softmax, and their slope."""
    low = np.floor(residual)
    above = np.clip(residual - low, 1e-4, 1 - 1e-4)
    # Odds of the upper over the lower neighbour: farther is less likely, by the inverse hyperbolic tangent.
    odds = (np.arctanh(above) - np.arctanh(1 - above)) / np.float32(temperature)
    slope = (1 / (1 - np.square(above)) + 1 / (1 - np.square(1 - above))) / np.float32(temperature)
    noise = rng.logistic(size=residual.shape).astype(np.float32)  # the difference of two Gumbel variables
    share = 1 / (1 + np.exp(np.clip(-(odds + noise) / np.float32(temperature), -60, 60)))
    return low + share, share * (1 - share) * slope / np.float32(temperature)


Gradient = Callable[[np.ndarray, Soften], tuple[np.ndarray, float]]
"""`y`, and how symbols are softened, to the gradient of the loss by `y` and the loss in bits."""


def relax(residual: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Relaxed symbols of y − mean and their slope."""
    low = np.floor(residual)
    soft = 1 / (1 + np.exp((0.5 + low - residual) / np.float32(temperature)))
    return low + soft, soft * (1 - soft) / np.float32(temperature)


def descend(
    y: np.ndarray,
    rows: np.ndarray,
    gradient: Gradient,
    schedule: Schedule,
    watch: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """`y`, float32 (1, M, h, w), after the steps of a schedule.

    Args:
        y: latents, after the gain.
        rows: table rows, of that shape: symbols of one row move by steps of one size.
        gradient: of the loss.
        watch: hears of each step and its loss in bits.
    """
    y = y.copy()
    first = np.zeros_like(y)
    rows = rows.ravel().astype(np.intp)
    members = np.maximum(np.bincount(rows), 1)
    second = np.zeros(members.size)
    n, rng = schedule.steps, np.random.default_rng(0)
    for step in range(n):
        part = step / max(1, n - 1)
        if schedule.random:
            temperature = schedule.hot * (COLD / schedule.hot) ** part
        else:
            temperature = schedule.hot + (COLD - schedule.hot) * part
        soften = partial(draw, rng=rng) if schedule.random else relax
        by_y, loss = gradient(y, partial(soften, temperature=temperature))
        first = schedule.momentum * first + (1 - schedule.momentum) * by_y
        power = np.bincount(rows, np.square(by_y).ravel()) / members
        second = schedule.second * second + (1 - schedule.second) * power
        scale = np.sqrt(second / (1 - schedule.second ** (step + 1))) * (1 - schedule.momentum ** (step + 1))
        scales = (scale + 1e-12).astype(np.float32)[rows].reshape(y.shape)
        last = 1 / schedule.cooling
        length = schedule.length * (last + (1 - last) * (1 + math.cos(math.pi * part)) / 2)
        y -= np.float32(length) * np.clip(first / scales, -LONGEST, LONGEST)
        if watch is not None:
            watch(step, loss)
    return y
