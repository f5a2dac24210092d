"""UG-ICM: analysis, hyper-analysis, hyper-synthesis and a conditioned synthesis, behind one class and one config.

UG-ICM is unified and generalised image coding for machines: one bitstream, and a decoder conditioned on the preference
beta between a picture for people (0) and one for vision models (1).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ugicm.models import bmshj2018, fast
from ugicm.models.conditioning import Preference
from ugicm.models.entropy import LatentModel, entropy_bottleneck

Widths = fast.FastConfig | bmshj2018.Bmshj2018Config
STRIDE = 64
LATENT_STRIDE = 16


@dataclass(frozen=True)
class UGICMConfig:
    """The settings from which a checkpoint's model is rebuilt.

    Attributes:
        backbone: "fast" or "bmshj2018".
        qualities: how many qualities the per-channel gains serve, 1 to 255.
        widths: the backbone's own configuration.
    """

    backbone: str
    qualities: int
    widths: Widths

    @classmethod
    def named(cls, backbone: str, qualities: int | None = None, **widths: int) -> UGICMConfig:
        """The default configuration of a backbone, with any width replaced.

        Raises:
            ValueError: an unknown backbone.
        """
        if backbone == "fast":
            return cls(backbone, qualities or 8, fast.FastConfig(**widths))
        if backbone == "bmshj2018":
            return cls(backbone, qualities or 1, bmshj2018.Bmshj2018Config(**widths))
        raise ValueError(f"unknown backbone {backbone!r}; there are 'fast' and 'bmshj2018'")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint stores them."""
        return {"backbone": self.backbone, "qualities": self.qualities, "widths": asdict(self.widths)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> UGICMConfig:
        """The inverse of `to_dict`."""
        return cls.named(values["backbone"], int(values["qualities"]), **values["widths"])


class Output(NamedTuple):
    """The results of a pass that training needs.

    Attributes:
        x_hat: (N, 3, H, W) reconstruction, not clamped.
        bits: (N,) estimated bits of each image, `y` and `z` together.
        y_hat: (N, M, H/16, W/16) quantised latents, in the gained domain.
    """

    x_hat: Tensor
    bits: Tensor
    y_hat: Tensor


def checkerboard(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """(1, 1, height, width) float mask: 1 at anchors, where row + column is even."""
    rows = torch.arange(height, device=device)[:, None]
    columns = torch.arange(width, device=device)[None, :]
    return ((rows + columns + 1) % 2).float()[None, None]


def round_through(x: Tensor) -> Tensor:
    """Rounds, with the gradient of the identity."""
    return x + (torch.round(x) - x).detach()


class UGICM(nn.Module):
    """The codec's networks. Images are float RGB in [0, 1], NCHW, height and width multiples of 64."""

    def __init__(self, config: UGICMConfig) -> None:
        super().__init__()
        self.config = config
        c = config.widths
        if isinstance(c, fast.FastConfig):
            self.g_a: nn.Module = fast.Analysis(c)
            self.h_a: nn.Module = fast.HyperAnalysis(c)
            self.h_s: nn.Module = fast.HyperSynthesis(c)
            self.g_s: fast.Synthesis | bmshj2018.Synthesis = fast.Synthesis(c)
            self.context: nn.Module | None = fast.Context(c)
        else:
            self.g_a, self.h_a = bmshj2018.Analysis(c), bmshj2018.HyperAnalysis(c)
            self.h_s, self.g_s = bmshj2018.HyperSynthesis(c), bmshj2018.Synthesis(c)
            self.context = None
        self.has_means = self.context is not None
        self.preference = Preference(self.g_s.widths, c.preference_hidden, self.g_s.starts)
        self.bottleneck = entropy_bottleneck(c.hyper)
        self.latent_model = LatentModel()
        # Qualities start a factor 2^0.4 of step size apart (the shipped lambdas are a factor 2^0.85 apart, and
        # the best step goes with lambda^-0.5).
        start = torch.linspace(-1.0, 1.0, config.qualities) if config.qualities > 1 else torch.zeros(1)
        start = start[:, None].expand(-1, c.latent)
        self.log_gain = nn.Parameter(start + 1.0)
        self.log_inverse_gain = nn.Parameter(-start - 1.0)

    def analyse(self, x: Tensor, quality: Tensor) -> Tensor:
        """`y` in the gained domain, (N, M, H/16, W/16). `quality`: (N,) int64, 0-based."""
        return self.g_a(x) * torch.exp(self.log_gain[quality])[:, :, None, None]

    def scales_and_means(self, z_hat: Tensor) -> tuple[Tensor, Tensor]:
        """(rows, means), each (N, M, H/16, W/16); rows are fractional scale indexes, not clamped."""
        out = self.h_s(z_hat)
        if not self.has_means:
            return out, torch.zeros_like(out)
        rows, means = out.chunk(2, 1)
        return rows, means

    def quantise(self, y: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
        """(y_hat, refined means) by the checkerboard order where the model has a context."""
        if self.context is None:
            return round_through(y - means) + means, means
        anchor = checkerboard(y.shape[2], y.shape[3], y.device)
        estimate = means + round_through(y - means) * anchor
        means = anchor * means + (1 - anchor) * self.context(estimate)
        return round_through(y - means) + means, means

    def human_views_learn(self) -> bool:
        """Whether anything trains that human views use: all but the conditioning."""
        conditioning = {id(p) for p in self.preference.parameters()}
        conditioning |= {id(p) for m in self.modules() if isinstance(m, fast.Conditioned) for p in m.parameters()}
        return any(p.requires_grad and id(p) not in conditioning for p in self.parameters())

    def synthesise(self, y_hat: Tensor, quality: Tensor, beta: Tensor) -> Tensor:
        """(N, 3, H, W), about [0, 1], not clamped. `beta`: (N,) in [0, 1]."""
        # Nothing but human views: nothing to add, and a fifth of a step's time saved.
        plain = self.training and not beta.any() and self.human_views_learn()
        vectors = () if plain else self.preference.split(self.preference(beta))
        return self.g_s(y_hat * torch.exp(self.log_inverse_gain[quality])[:, :, None, None], vectors)

    def forward(self, x: Tensor, quality: Tensor, beta: Tensor) -> Output:
        """One pass: estimated bits from noisy latents while training, and the reconstruction from rounded ones."""
        y = self.analyse(x, quality)
        z = self.h_a(y)
        z_likelihood = self.bottleneck(z)[1]
        rows, means = self.scales_and_means(round_through(z))
        y_hat, means = self.quantise(y, means)
        noisy = y + torch.rand_like(y) - 0.5 if self.training else y_hat
        likelihood = self.latent_model(noisy.float(), means.float(), rows.float())
        bits = -(torch.log2(likelihood).sum((1, 2, 3)) + torch.log2(z_likelihood).sum((1, 2, 3)))
        return Output(self.synthesise(y_hat, quality, beta), bits, y_hat)
