"""Latents of one picture by mean-field annealing, `z` kept: symbols that are not decided yet stand at their means.

A symbol may be any of the three integers nearest to where the distortion alone would have it, each as likely as
exp(−cost / temperature). Its cost is its bits, and a parabola of the distortion with the slope of the gradient and the
curvature of its channel. All symbols move at once, each a part of the way to its mean. As the temperature falls, they
settle. At high qualities this goes further in few steps than a descent, which knows slopes only; a few steps of descent
(`ugicm.runtime.effort.steps`) then decide what is left between two integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ugicm.runtime.effort.contexts import Distort, Known
from ugicm.runtime.effort.rate import Bits

HOT, COLD = 0.5, 0.1  # bits
SHARE, MOMENTUM = 0.25, 0.5
STIFFNESS = 0.85  # of the parabola beside bits: steps are few, and what saves bits shall come about in them
LONGEST = 1.5  # symbols from a mean to where the distortion alone would have it
Curvature = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""`y_hat` and the gradient there to the second derivative of the distortion in bits, (1, M, 1, 1)."""


def settle(
    y: np.ndarray,
    known: Callable[[np.ndarray], Known],
    distort: Distort,
    curvature: Curvature,
    steps: int,
    watch: Callable[[int, float], None] | None = None,
) -> np.ndarray:
    """`y`, float32 (1, M, h, w), after so many steps; `watch` hears of each and of the distortion in bits before it."""
    y = y.copy()
    move = np.zeros_like(y)
    curve = np.ones(1, np.float32)
    for step in range(steps):
        temperature = HOT * (COLD / HOT) ** (step / max(1, steps - 1))
        mean, bits, coded, y_hat = known(y)
        y = np.where(coded > 0, y, mean)
        gradient, distortion = distort(y_hat)
        if step == 0:
            curve = curvature(y_hat, gradient)
        wanted = y - np.clip(gradient / curve, -LONGEST, LONGEST) - mean
        goal = mean + coded * expected(wanted, curve * np.float32(STIFFNESS), bits, temperature)
        move = np.float32(MOMENTUM) * move + np.float32(SHARE) * (goal - y)
        y += move
        if watch is not None:
            watch(step, distortion)
    return y


def expected(wanted: np.ndarray, curvature: np.ndarray, bits: Bits, temperature: float) -> np.ndarray:
    """Mean symbols, float32, where `wanted` is best for the distortion, of a curvature that broadcasts."""
    middle = np.rint(wanted)
    cost = np.empty((3, *wanted.shape), np.float32)
    for each, aside in zip(cost, (-1, 0, 1), strict=True):
        symbols = middle + np.float32(aside)
        np.add(bits(symbols)[0], curvature / 2 * np.square(symbols - wanted), out=each)
    cost -= cost.min(0)
    cost /= np.float32(-temperature)
    below, same, above = np.exp(cost, out=cost)
    found: np.ndarray = middle + (above - below) / (below + same + above)
    return found
