"""What training minimises."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from models.ugicm import Output


def lambdas(qualities: int, lowest: float = 0.0015, highest: float = 0.09) -> Tensor:
    """(qualities,) weights of the distortion, log-spaced: bits per pixel + lambda * 255² * MSE (CompressAI's scale)."""
    return torch.from_numpy(np.geomspace(lowest, highest, qualities).astype(np.float32))


def bits_per_pixel(output: Output, x: Tensor) -> Tensor:
    """(N,) estimated bits per pixel."""
    return output.bits.float() / (x.shape[2] * x.shape[3])


def distortion(x_hat: Tensor, x: Tensor) -> Tensor:
    """(N,) mean squared error on the scale of 8-bit grey levels."""
    return (x_hat.float().contiguous() - x).square().mean((1, 2, 3)) * 255.0**2


def rate_distortion(output: Output, x: Tensor, weight: Tensor) -> Tensor:
    """Mean over the batch of (bpp + weight * MSE) * (weight / 0.01)^-0.6.

    At the optimum bpp + weight * MSE grows about with weight^0.6 from one quality to the next; without the last factor
    the highest qualities would have nearly all of the gradient.
    """
    balance = (weight / 0.01) ** -0.6
    return ((bits_per_pixel(output, x) + weight * distortion(output.x_hat, x)) * balance).mean()


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB of 8-bit images."""
    rounded = torch.round(x_hat.float().clamp(0, 1) * 255) / 255
    return 10 * torch.log10(255.0**2 / distortion(rounded, x).clamp(min=1e-10))


def preference_objective(
    output: Output,
    x: Tensor,
    weight: Tensor,
    beta: Tensor,
    semantic: Tensor,
    semantic_weight: float,
    keep: float,
) -> Tensor:
    """Mean over the batch of what a view of preference beta should be: distortion at 0, semantics at 1.

    ((1 - beta) + keep * beta) * weight * MSE + beta * semantic_weight * semantic; no rate, as the bits are fixed.
    """
    pixels = ((1 - beta) + keep * beta) * weight * distortion(output.x_hat, x)
    return (pixels + beta * semantic_weight * semantic).mean()
