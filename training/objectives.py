"""The terms that training minimises: named parts of a batch, which `ugicm.training.balance` adds up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ugicm.models.conditioning import HUMAN, MACHINE
from ugicm.models.ugicm import UGICM, Output
from ugicm.training.config import Betas, Instances, Objective
from ugicm.training.instances import Instance, views
from ugicm.training.supervision import SemanticDistance

REFERENCE_LAMBDA = 0.01
EXPONENT = 0.6


class Batch(NamedTuple):
    """N crops.

    Attributes:
        x: (N, 3, H, W) in [0, 1].
        quality: (N,) int64, 0-based.
        beta: (N,) in [0, 1].
        instances: of each crop.
    """

    x: Tensor
    quality: Tensor
    beta: Tensor
    instances: list[list[Instance]]


def lambdas(qualities: int, lowest: float = 0.0015, highest: float = 0.09) -> Tensor:
    """(qualities,) weights of the distortion, log-spaced: bits per pixel + lambda * 255² * MSE (CompressAI's scale)."""
    return torch.from_numpy(np.geomspace(lowest, highest, qualities).astype(np.float32))


def bits_per_pixel(output: Output, x: Tensor) -> Tensor:
    """(N,) estimated bits per pixel."""
    return output.bits.float() / (x.shape[2] * x.shape[3])


def distortion(x_hat: Tensor, x: Tensor) -> Tensor:
    """(N,) mean squared error on the scale of 8-bit grey levels."""
    return (x_hat.float().contiguous() - x).square().mean((1, 2, 3)) * 255.0**2


def psnr(x_hat: Tensor, x: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratio in dB of 8-bit images."""
    rounded = torch.round(x_hat.float().clamp(0, 1) * 255) / 255
    return 10 * torch.log10(255.0**2 / distortion(rounded, x).clamp(min=1e-10))


def draw_betas(count: int, shares: Betas, generator: torch.Generator) -> Tensor:
    """(count,) betas: 0, 1 or evenly between, in those shares of the batch, rounded at random."""
    total = shares.human + shares.machine + shares.between
    place = (torch.arange(count) + torch.rand(1, generator=generator)) / count * total
    inside = torch.rand(count, generator=generator)
    middle = torch.where(place < shares.human + shares.machine, torch.full((count,), MACHINE), inside)
    return torch.where(place < shares.human, torch.full((count,), HUMAN), middle)


def draw_qualities(count: int, shares: list[float], qualities: int, generator: torch.Generator) -> Tensor:
    """(count,) 0-based qualities, in proportion to the shares; all alike where none are given."""
    weights = torch.tensor(shares or [1.0] * qualities, dtype=torch.float64)
    return torch.multinomial(weights, count, replacement=True, generator=generator)


def reconstruct(model: UGICM, batch: Batch) -> Output:
    """A pass that counts no bits (they are 0): for training behind a frozen encoder."""
    with torch.no_grad():
        y = model.analyse(batch.x, batch.quality)
        means = model.scales_and_means(torch.round(model.h_a(y)))[1]
        y_hat = model.quantise(y, means)[0]
    return Output(model.synthesise(y_hat, batch.quality, batch.beta), torch.zeros_like(batch.beta), y_hat)


class Terms:
    """The terms of an objective.

    With w = lambda^(1 - 0.6), up to a constant (at the optimum bits and lambda * MSE grow about with lambda^0.6 from
    one quality to the next; undivided, the highest qualities would have nearly all of the gradient), each a mean over
    the whole batch:

    - `rate`: bpp * w / lambda
    - `distortion`: ((1 - beta) * human_weight + beta * keep_distortion) * w * MSE
    - `global`: beta * semantic distance of the whole crops
    - `instance`: beta * mean semantic distance of a crop's instances

    Betas between 0 and 1 are thus trained towards the interpolated objective. A term that no sample of a batch has a
    share in is left out.

    Args:
        settings: weights and shares.
        instances: how instances are looked at.
        qualities: of the model.
        distance: the semantic distance; None without one.
    """

    def __init__(
        self, settings: Objective, instances: Instances, qualities: int, distance: SemanticDistance | None
    ) -> None:
        self.settings = settings
        self.instances = instances
        self.distance = distance
        self.lambdas = lambdas(qualities, *settings.lambdas)

    def weights(self) -> dict[str, float]:
        """The fixed weight of each term."""
        s = self.settings
        return {"rate": 1.0, "distortion": 1.0, "global": s.global_weight, "instance": s.instance_weight}

    def __call__(self, output: Output, batch: Batch) -> dict[str, Tensor]:
        """Name → term. `output.x_hat` may be a leaf whose gradient is wanted."""
        s, beta, count = self.settings, batch.beta, len(batch.x)
        weight = self.lambdas.to(beta.device)[batch.quality]
        balance = (weight / REFERENCE_LAMBDA) ** -EXPONENT
        terms = {}
        if s.rate:
            terms["rate"] = (bits_per_pixel(output, batch.x) * balance).mean()
        share = (1 - beta) * s.human_weight + beta * s.keep_distortion
        if share.any():
            terms["distortion"] = (share * weight * balance * distortion(output.x_hat, batch.x)).mean()
        seen = torch.nonzero(beta > 0)[:, 0]
        if self.distance is None or not len(seen):
            return terms
        # Clamped for each term anew: a weighting may walk their graphs one by one, and each is freed by its walk.
        if s.global_weight:
            x_hat = output.x_hat.float().clamp(0, 1)
            terms["global"] = (beta[seen] * self.distance(x_hat[seen], batch.x[seen])).sum() / count
        if s.instance_weight:
            owners = [int(i) for i in seen for _ in batch.instances[int(i)]]
            if owners:
                x_hat = output.x_hat.float().clamp(0, 1)
                decoded, original = (
                    torch.cat([views(v[i], batch.instances[i], self.instances) for i in map(int, seen)])
                    for v in (x_hat, batch.x)
                )
                per_crop = torch.tensor([beta[i] / len(batch.instances[i]) for i in owners], device=beta.device)
                terms["instance"] = (per_crop * self.distance(decoded, original)).sum() / count
        return terms
