"""The measures of calibration: `z` drawn without images, and the bits an imprecise `h_s` costs."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]

_ERF = np.vectorize(math.erf, otypes=[np.float64])


def default_scales(rows: int = 64) -> Float:
    """The hyperprior family's scale table: standard deviations log-spaced from 0.11 to 256."""
    return np.exp(np.linspace(math.log(0.11), math.log(256.0), rows))


def prior_samples(
    probabilities: Float, count: int = 64, size: tuple[int, int] = (4, 4), limit: int = 127, seed: int = 0
) -> NDArray[np.int32]:
    """Draws `z` from its learned prior, for calibration without images.

    The prior knows each channel's distribution but takes neighbours for independent, which real ones are not:
    sums over a 3×3 window then stay well below those of images. A Gaussian copula restores that: half of the
    samples correlate neighbours strongly (0.8), half weakly (0.2), and every channel keeps its distribution.

    Args:
        probabilities: (Nz, 2 * reach + 1), P(z = n) for n in -reach..reach.
        count: how many samples.
        size: height and width of a sample in `z`'s own resolution.
        limit: values are clipped to [-limit, limit].
        seed: of the random generator.

    Returns:
        int32 (count, Nz, height, width).
    """
    channels, reach = probabilities.shape[0], probabilities.shape[1] // 2
    rng = np.random.default_rng(seed)
    shared = np.where(np.arange(count) % 2, 0.2, 0.8)[:, None, None, None]
    field = np.sqrt(shared) * rng.standard_normal((count, channels, 1, 1))
    field = field + np.sqrt(1 - shared) * rng.standard_normal((count, channels, *size))
    uniform = 0.5 * (1 + _ERF(field / math.sqrt(2)))
    cumulative = np.cumsum(probabilities, 1)
    cumulative /= cumulative[:, -1:]
    z = [np.searchsorted(cumulative[c, :-1], uniform[:, c]) - reach for c in range(channels)]
    return np.clip(np.stack(z, 1), -limit, limit).astype(np.int32)


def excess_bits(log_scale: Float, mean: Float, coded_log_scale: Float, coded_mean: Float) -> Float:
    """The cost of coding with other parameters, in bits of each symbol: a Kullback-Leibler divergence.

    Both are taken for Gaussians whose variance has grown by 1/12, that of rounding; so a wrong scale costs
    little where scales are far below one, as it does in reality.

    Args:
        log_scale, mean: what the symbols are taken to follow, (N, M, H, W); natural logarithms of standard
            deviations. Means of no channels are all zero.
        coded_log_scale, coded_mean: what they are coded with.
    """
    variance, coded = (np.exp(2 * s) + 1 / 12 for s in (log_scale, coded_log_scale))
    distance = (mean - coded_mean) ** 2 if mean.size else 0.0
    nats = 0.5 * (np.log(coded / variance) + (variance + distance) / coded - 1)
    return np.asarray(nats / math.log(2))
