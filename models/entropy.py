"""Entropy models for training and for reading checkpoints: the one place that imports compressai."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

SCALE_ROWS = 64
SCALE_MIN = 0.11
SCALE_MAX = 256.0
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


def gaussian_conditional() -> nn.Module:
    """The Gaussian model of `y`, likelihoods only, from compressai."""
    return cast(nn.Module, compressai_module("entropy_models").GaussianConditional(None))


def gdn(channels: int, inverse: bool = False) -> nn.Module:
    """Generalised divisive normalisation (Balle et al. 2016), from compressai."""
    return cast(nn.Module, compressai_module("layers").GDN(channels, inverse=inverse))


def row_to_scale(row: Tensor) -> Tensor:
    """Standard deviation of a (fractional) scale index: rows are log-spaced from 0.11 to 256.

    Indexes below 0 give less than 0.11: the Gaussian model bounds the scale itself, with a gradient that leads back.
    """
    return torch.exp(row.clamp(max=SCALE_ROWS - 1) * LOG_STEP + math.log(SCALE_MIN))


def bottleneck_probabilities(bottleneck: nn.Module, reach: int, centres: Tensor | None = None) -> Tensor:
    """P(z = n) for n in -reach..reach, float64 in [0, 1].

    Args:
        bottleneck: the factorised prior.
        reach: the largest n.
        centres: (channels,) what a channel's values lie an integer away from, its medians say; None is 0.

    Returns:
        (channels, 2 * reach + 1) tensor; a channel's row sums to less than 1 by its tail mass.
    """
    model = cast(Any, bottleneck).double()
    with torch.no_grad():
        values = torch.arange(-reach, reach + 1, dtype=torch.float64)
        values = values.expand(model.channels, 1, -1).contiguous()
        if centres is not None:
            values = values + centres.double()[:, None, None]
        logits = model._logits_cumulative
        lower = logits(values - 0.5, stop_gradient=True)
        upper = logits(values + 0.5, stop_gradient=True)
        sign = -torch.sign(lower + upper)
        probabilities = torch.abs(torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower))
    model.float()
    return probabilities[:, 0, :]
