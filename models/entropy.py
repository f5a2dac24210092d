"""Entropy models for training and for reading checkpoints: the one place that imports compressai."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

SCALE_ROWS = 64
SCALE_MIN = 0.11
SCALE_MAX = 256.0
LEAST_LIKELIHOOD = 1e-9
LEAST_WIDTH = 0.1
LOG_STEP = math.log(SCALE_MAX / SCALE_MIN) / (SCALE_ROWS - 1)


def _define_torchvision_schemas() -> None:
    """Lets a CUDA build of torchvision import beside a CPU build of torch.

    compressai imports torchvision, whose registered fakes look up two operators that only its compiled
    extension defines; where that extension cannot load, the import fails. Defining the schemas, and only
    where they are missing, is enough.
    """
    for name in ("nms", "qnms"):
        if hasattr(torch.ops.torchvision, name):
            continue
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _LIBRARIES.append(library)


_LIBRARIES: list[Any] = []  # a torch.library.Library undoes its definitions when collected


def compressai_module(name: str) -> Any:
    """Imports ``compressai`` or one of its submodules, e.g. ``compressai_module("zoo")``."""
    import importlib

    _define_torchvision_schemas()
    return importlib.import_module("compressai" if not name else f"compressai.{name}")


def entropy_bottleneck(channels: int) -> nn.Module:
    """The factorised prior of `z` (Balle et al. 2018, appendix 6.1), from compressai."""
    return cast(nn.Module, compressai_module("entropy_models").EntropyBottleneck(channels))


def gdn(channels: int, inverse: bool = False) -> nn.Module:
    """Generalised divisive normalisation (Balle et al. 2016), from compressai."""
    return cast(nn.Module, compressai_module("layers").GDN(channels, inverse=inverse))


def row_to_scale(row: Tensor) -> Tensor:
    """Standard deviation of a (fractional) scale index: rows are log-spaced from 0.11 to 256."""
    return torch.exp(row.clamp(max=SCALE_ROWS - 1) * LOG_STEP + math.log(SCALE_MIN))


class LatentModel(nn.Module):
    """The distribution of `y` around its mean: two Gaussians, one narrower and one wider than the row's scale.

    Real latents have heavier tails than a Gaussian of the right scale: a single one costs about 2 % more bits. The
    share of the wide one and the two widths, relative to the row's scale, are learned, three numbers for the whole
    codec. Training narrows both, as noisy latents cost less in rows narrower than the table's first, down to a
    tenth: the last row still reaches the widest latents. They fade in over the first two rows, so that row 0 is the
    plain Gaussian of scale 0.11, whose symbols are so surely 0 that they need not be coded.

    Outside of training each row has corrections, 0 until `ugicm.training.rows` fits them to rounded latents: training
    sees noisy ones, and rows differ.

    Attributes:
        corrections: (64, 5), added to the logit of the wide one's share and to the logarithms of the two widths; then
            the share of the wide one that a third, wider still, takes, and the logarithm of how much wider that is.
    """

    FADE = 2.0
    corrections: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.tensor(math.log(0.2 / 0.8)))
        self.log_widths = nn.Parameter(torch.log(torch.tensor([0.75, 1.7])))
        self.bound = compressai_module("ops").LowerBound(0.0)
        self.register_buffer("corrections", torch.zeros(SCALE_ROWS, 5))
        self.register_load_state_dict_pre_hook(_uncorrected)

    def components(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        """[(share, scale)] of the two (in evaluation three) Gaussians at scale indexes, each shaped like `rows`."""
        rows = self.bound(rows)
        faded, scale = (rows / self.FADE).clamp(max=1), row_to_scale(rows)
        least = math.log(LEAST_WIDTH)
        narrow, wide = self.log_widths.clamp(min=least)
        if self.training:
            share = torch.sigmoid(self.share) * faded
            return [(1 - share, torch.exp(narrow * faded) * scale), (share, torch.exp(wide * faded) * scale)]
        nearest = torch.round(rows).long().clamp(max=SCALE_ROWS - 1)
        d_share, d_narrow, d_wide, part, wider = self.corrections[nearest].unbind(-1)
        share, part = torch.sigmoid(self.share + d_share) * faded, part.clamp(0, 1)
        narrow, wide = (narrow + d_narrow).clamp(min=least), (wide + d_wide).clamp(min=least)
        shares = (1 - share, share * (1 - part), share * part)
        logs = (narrow, wide, wide + wider)
        return [(s, torch.exp(log * faded) * scale) for s, log in zip(shares, logs, strict=True)]

    def forward(self, values: Tensor, means: Tensor, rows: Tensor) -> Tensor:
        """Likelihoods of `values`, all three (N, M, h, w): the mass within half a unit, at least 1e-9."""
        distance = torch.abs(values - means)
        total = torch.zeros_like(distance)
        for share, scale in self.components(rows):
            near = torch.erfc((distance - 0.5) / (scale * math.sqrt(2)))
            far = torch.erfc((distance + 0.5) / (scale * math.sqrt(2)))
            total = total + share * 0.5 * (near - far)
        return total.clamp(min=LEAST_LIKELIHOOD)


def _uncorrected(module: LatentModel, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.setdefault(f"{prefix}corrections", torch.zeros_like(module.corrections))


def bottleneck_probabilities(
    bottleneck: nn.Module, reach: int, centres: Tensor | None = None, step: float = 1.0
) -> Tensor:
    """P(z = n) for n in -reach..reach, float64 in [0, 1].

    Args:
        bottleneck: the factorised prior.
        reach: the largest n.
        centres: (channels,) what a channel's values lie an integer away from, its medians say; None is 0.
        step: of the quantiser: n stands for the values from (n - 1/2)·step to (n + 1/2)·step.

    Returns:
        (channels, 2 * reach + 1) tensor; a channel's row sums to less than 1 by its tail mass.
    """
    model = cast(Any, bottleneck).double()
    with torch.no_grad():
        values = step * torch.arange(-reach, reach + 1, dtype=torch.float64)
        values = values.expand(model.channels, 1, -1).contiguous()
        if centres is not None:
            values = values + centres.double()[:, None, None]
        logits = model._logits_cumulative
        lower = logits(values - step / 2, stop_gradient=True)
        upper = logits(values + step / 2, stop_gradient=True)
        sign = -torch.sign(lower + upper)
        probabilities = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
    model.float()
    return probabilities[:, 0, :]
