"""The networks of variable-rate hyperpriors (Kamisli et al. 2024, arXiv 2402.18930), as a decoder runs them.

One gain a quality, the inverse of the quantiser's step, multiplies latents, means and scales. Some models have a step
for `z` too, which a small network computes from the gain. What is restored is not the symbol plus its mean: an offset,
from a small network of the scale and the gain, moves each symbol that is not zero. Everywhere here `y` has its gain in
it, and "gain" is (1, M, 1, 1), the same in all channels.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ugicm.models.wavefront_stages import Step


def scalar(gain: Tensor) -> Tensor:
    """(1,) of the gain of all channels."""
    return gain.flatten()[:1]


class HyperStep(nn.Module):
    """The gain to the step of `z`, (1,); 1 for a model whose `z` has none.

    Args:
        network: 1 / gain, (1,), to the step; None for none.
        least: the smallest step.
    """

    def __init__(self, network: nn.Module | None, least: float) -> None:
        super().__init__()
        self.network, self.least = network, least

    def forward(self, gain: Tensor) -> Tensor:
        g = scalar(gain)
        return torch.ones_like(g) if self.network is None else self.network(1 / g).clamp(min=self.least)


class HyperAnalysis(nn.Module):
    """`y` to `z`, centred at its medians, in its steps.

    Args:
        h_a: the network, which reads |y| where `magnitudes` is true.
        medians: (Nz, 1, 1) of `z`.
    """

    medians: Tensor

    def __init__(self, h_a: nn.Module, medians: Tensor, magnitudes: bool, step: HyperStep) -> None:
        super().__init__()
        self.h_a, self.magnitudes, self.step = h_a, magnitudes, step
        self.register_buffer("medians", medians.detach().clone())

    def forward(self, y: Tensor, gain: Tensor) -> Tensor:
        plain = y / scalar(gain)
        return (self.h_a(torch.abs(plain) if self.magnitudes else plain) - self.medians) / self.step(gain)


class HyperSynthesis(nn.Module):
    """Integers `z` and the gain to what stages read, (N, K, H, W)."""

    medians: Tensor

    def __init__(self, h_s: nn.Module, medians: Tensor, step: HyperStep) -> None:
        super().__init__()
        self.h_s, self.step = h_s, step
        self.register_buffer("medians", medians.detach().clone())

    def forward(self, z: Tensor, gain: Tensor) -> Tensor:
        return self.h_s(z * self.step(gain) + self.medians)


class Scaled(nn.Module):
    """Scales and means, without a gain, to index, mean and deviation, the scale that offsets are computed from.

    Args:
        index: scales to continuous indexes.
        least: the smallest deviation.
    """

    def __init__(self, index: nn.Module, least: float) -> None:
        super().__init__()
        self.index, self.least = index, least

    def forward(self, scales: Tensor, means: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = scalar(gain)
        return self.index(scales * g), means * g, (scales * g).clamp(min=self.least)


class AllAtOnce(nn.Module):
    """What `HyperSynthesis` gives, (N, M or 2M, H, W), to index, mean and deviation of all latents, (N, M, H, W)."""

    def __init__(self, scaled: Scaled, latent: int) -> None:
        super().__init__()
        self.scaled, self.latent = scaled, latent

    def forward(self, hyper: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scales = hyper[:, : self.latent]
        means = hyper[:, self.latent :] if hyper.shape[1] > self.latent else torch.zeros_like(scales)
        return self.scaled(scales, means, gain)


class VariableStep(nn.Module):
    """The step of a raster-scan context whose latents have a gain, to what `AllAtOnce` gives, (n, M).

    Args:
        step: the same without a gain.
        scaled: as of `AllAtOnce`.
        from_gain: the gain, (1,), to what is added to the context.
    """

    def __init__(self, step: Step, scaled: Scaled, from_gain: nn.Linear) -> None:
        super().__init__()
        self.context, self.first, self.rest = step.context, step.first, step.rest
        self.scaled, self.from_gain = scaled, copy.deepcopy(from_gain)

    def forward(self, neighbours: Tensor, hyper: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = scalar(gain)
        said = self.context(neighbours / g) + self.from_gain(g)
        scales, means = self.rest(self.first(said) + hyper).chunk(2, 1)
        return self.scaled(scales, means, gain)


class Offsets(nn.Module):
    """Decoded latents, their means and deviations, of any shape, to what restoring adds to them.

    Args:
        network: (…, 2), the deviation and the gain, to (…, 1).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)

    def forward(self, y_hat: Tensor, mean: Tensor, deviation: Tensor, gain: Tensor) -> Tensor:
        pairs = torch.stack([deviation, scalar(gain).expand_as(deviation)], -1)
        return -torch.sign(torch.round(y_hat - mean)) * self.network(pairs).squeeze(-1)
