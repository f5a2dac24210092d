"""Small random models of CompressAI whose latents and scales are not all alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_zoo import class_of

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
    model = class_of(architecture)(n, m).eval()
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


STAGED_WIDTHS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "cheng2020-anchor-checkerboard": ((8,), (12,)),
    "elic2022-official": ((8, 12, [2, 4, 6]), (12, 14, [3, 3, 2, 6])),
    "elic2022-chandelier": ((8, 12, [4, 4, 4]), (12, 14, [3, 3, 2, 6])),
}
"""Architectures with a checkerboard → arguments of their class, two widths."""


@torch.no_grad()
def lively_staged(architecture: str, *widths: Any) -> Any:
    """A random model with a checkerboard context whose scales spread over the table and fit its latents."""
    torch.manual_seed(5)
    model = class_of(architecture)(*widths).eval()
    x = torch.from_numpy(photograph(256, 256)).permute(2, 0, 1)[None].float() / 255
    codec, hyper = model.latent_codec.y, model.latent_codec.hyper
    parts = [codec] if not hasattr(codec, "groups") else [codec.latent_codec[k] for k in codec.latent_codec]
    convolutions = [m for m in model.g_a if isinstance(m, nn.Conv2d)]
    y = made_by(convolutions[-1], lambda: model.g_a(x))
    spread = torch.logspace(-1.3, 1.6, y.shape[1])[torch.randperm(y.shape[1])]
    rescale(convolutions[-1], y, spread, 0)
    y = model.g_a(x)
    rescale(hyper.h_a[-1], hyper.h_a(y), 12.0, 0.5)
    hyper.entropy_bottleneck._update_quantiles()
    first = 0
    for part in parts:
        size = part.context_prediction.in_channels
        s = spread[first : first + size]
        std, mean = [0.15 * s, 0.3 * s], [1.2 * s, torch.zeros(size)]
        if part.latent_codec["y"].chunks == ("means", "scales"):
            std, mean = std[::-1], mean[::-1]
        last = part.entropy_parameters[-1]
        rescale(last, made_by(last, lambda: model.latent_codec(y)), torch.cat(std), torch.cat(mean))
        first += size
    last = [m for m in model.g_s.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)][-1]
    outputs = made_by(last, lambda: model(x))
    if outputs.shape[1] == 3:
        rescale(last, outputs, 0.2, 0.45)
    else:  # to four phases
        rescale(last, outputs, 0.2 * torch.ones(12), 0.45)
    return model


RASTER_WIDTHS: dict[str, tuple[tuple[int, ...], ...]] = {
    "mbt2018": ((6, 9), (8, 12)),
    "cheng2020-anchor": ((8,), (12,)),
    "cheng2020-attn": ((8,), (12,)),
}
"""Architectures with a raster-scan context → arguments of their class, two widths."""


@torch.no_grad()
def lively_raster(architecture: str, *widths: int) -> Any:
    """A random model with a raster-scan context whose scales spread over the table and fit its latents.

    Random contexts amplify rounding from position to position, which trained ones forget; so the latents' own counts
    for less here.
    """
    torch.manual_seed(5)
    model = class_of(architecture)(*widths).eval()
    x = torch.from_numpy(photograph(256, 256)).permute(2, 0, 1)[None].float() / 255
    last = [m for m in model.g_a if isinstance(m, nn.Conv2d)][-1]  # attention may follow
    y = made_by(last, lambda: model.g_a(x))
    spread = torch.logspace(-1.3, 1.6, y.shape[1])[torch.randperm(y.shape[1])]
    rescale(last, y, spread, 0)
    y = model.g_a(x)
    rescale(model.h_a[-1], model.h_a(y), 12.0, 0.5)
    model.entropy_bottleneck._update_quantiles()
    # Each channel of the latents counts the same, so that a loud one does not drown the others.
    model.context_prediction.weight.mul_(0.8 / spread[None, :, None, None])
    last = model.entropy_parameters[-1]
    std = torch.cat([0.15 * spread, 0.3 * spread])
    rescale(last, made_by(last, lambda: model(x)), std, torch.cat([1.2 * spread, torch.zeros_like(spread)]))
    convolutions = [m for m in model.g_s.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    outputs = made_by(convolutions[-1], lambda: model(x))
    rescale(convolutions[-1], outputs, 0.2 * torch.ones(outputs.shape[1]), 0.45)
    return model


VARIABLE_WIDTHS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "bmshj2018-hyperprior-vbr": ((6, 9, True), (8, 12, False)),
    "mbt2018-mean-vbr": ((6, 9, False), (8, 12, True)),
    "mbt2018-vbr": ((6, 9), (8, 12)),
}
"""Architectures of a variable rate → arguments of their class; the third says whether `z` has a step of its own."""


@torch.no_grad()
def lively_variable(architecture: str, *widths: Any) -> Any:
    """A random model of a variable rate whose scales spread over the table at its best level and fit its latents."""
    torch.manual_seed(5)
    model = class_of(architecture)(*widths).eval()
    best = dict(s=model.levels - 1)
    x = torch.from_numpy(photograph(128, 128)).permute(2, 0, 1)[None].float() / 255
    n, m = widths[:2]
    means = architecture != "bmshj2018-hyperprior-vbr"
    spread = torch.logspace(-0.8, 2.0, m)[torch.randperm(m)]
    rescale(model.g_a[-1], model.g_a(x), spread, 0)
    y = model.g_a(x)
    rescale(model.h_a[-1], model.h_a(y if means else y.abs()), 12.0, 0.5)
    z_hat = torch.round(model.h_a(y if means else y.abs()))
    if hasattr(model.entropy_bottleneck, "_update_quantiles"):  # not where `z` has a step
        model.entropy_bottleneck._update_quantiles()
    for layer in model.QuantABCD[:-1:2]:
        layer.weight.mul_(0.3)
    if hasattr(model, "context_prediction"):
        model.context_prediction.weight.mul_(0.5 / spread[None, :, None, None])
        last, heard = model.entropy_parameters[-1], torch.cat([model.h_s(z_hat), model.context_prediction(y)], 1)
        outputs = model.entropy_parameters(heard)
    else:
        last = [layer for layer in model.h_s if not isinstance(layer, nn.ReLU | nn.LeakyReLU)][-1]
        outputs = made_by(last, lambda: model.h_s(z_hat))
    std = torch.cat([0.15 * spread, 0.3 * spread]) if means else 0.15 * spread
    rescale(last, outputs, std, torch.cat([1.2 * spread, torch.zeros(m)]) if means else 1.2 * spread)
    rescale(model.g_s[-1], made_by(model.g_s[-1], lambda: model(x, **best)), 0.2, 0.45)
    return model


def made_by(layer: nn.Module, run: Callable[[], Any]) -> Tensor:
    """The last output of a layer while something runs."""
    outputs: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: outputs.append(output.clone()))
    run()
    handle.remove()
    return outputs[-1]
