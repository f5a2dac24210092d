"""Small random models of CompressAI whose latents and scales are not all alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_zoo import SERVED
from ugicm.models.entropy import compressai_module

WIDTHS = ((8, 12), (12, 16))


def photograph(height: int, width: int) -> np.ndarray:
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[:height, 100 : 100 + width])


def rescale(layer: nn.Module, outputs: Tensor, std: Tensor | float, mean: Tensor | float) -> None:
    """Gives the channels of `outputs`, which `layer` made, another standard deviation and mean."""
    factor = std / outputs.std((0, 2, 3))
    shape = (1, -1, 1, 1) if isinstance(layer, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    layer.weight.mul_(factor.reshape(shape))  # type: ignore[operator, union-attr]
    layer.bias.copy_((layer.bias - outputs.mean((0, 2, 3))) * factor + mean)  # type: ignore[operator, union-attr]


@torch.no_grad()
def lively(architecture: str, n: int, m: int) -> Any:
    """A random model whose scales spread over the table and fit its latents; its tables are not updated."""
    torch.manual_seed(5)
    model = getattr(compressai_module("models.google"), SERVED[architecture])(n, m).eval()
    hyperprior, means = hasattr(model, "h_s"), architecture == "mbt2018-mean"
    x = torch.from_numpy(photograph(256, 256)).permute(2, 0, 1)[None].float() / 255
    spread = torch.logspace(-1.3, 1.6, m) if hyperprior else torch.logspace(-0.5, 0.8, m)
    rescale(model.g_a[6], model.g_a(x), spread, 0)
    model.entropy_bottleneck._update_quantiles()
    if hyperprior:
        y = model.g_a(x)
        rescale(model.h_a[4], model.h_a(y if means else y.abs()), 12.0, 0.5)
        z_hat = model.entropy_bottleneck(model.h_a(y if means else y.abs()))[0]
        std = torch.cat([0.15 * spread, 0.3 * spread]) if means else 0.15 * spread
        mean = torch.cat([1.2 * spread, torch.zeros(m)]) if means else 1.2 * spread
        rescale(model.h_s[4], model.h_s[:5](z_hat), std, mean)
    rescale(model.g_s[6], model(x)["x_hat"], 0.2, 0.45)
    return model
