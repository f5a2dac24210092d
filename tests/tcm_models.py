"""Small TCM networks with random weights whose latents and scales are not all alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from tests.compressai_models import made_by, rescale
from ugicm.models.tcm import TCM, TCMConfig

NARROW = TCMConfig(
    width=4,
    latent=6,
    hyper=4,
    slices=3,
    support=2,
    blocks=(1, 0, 2, 2, 0, 1),
    heads=(2, 1, 1, 1, 1, 2),
    hyper_blocks=(2, 1),
    hyper_heads=(2, 1),
    attention=8,
    attention_heads=2,
    hidden=(10, 8),
)
WIDE = replace(
    NARROW, width=6, latent=8, slices=2, support=1, hidden=(12, 6), blocks=(0, 2, 1, 1, 2, 0), heads=(1, 2, 3, 1, 2, 1)
)
"""The second width: other levels have attention, and no slice leaves out an earlier one."""


@torch.no_grad()
def lively_tcm(config: TCMConfig = NARROW) -> TCM:
    """A random network in evaluation mode whose scales spread over the table and fit its latents."""
    torch.manual_seed(5)
    model, x, size = TCM(config).eval(), picture(256, 256), config.slice
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):  # no two alike, as after training
            nn.init.normal_(module.weight, 1, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    for name, parameter in model.named_parameters():
        if name.endswith("relative_position_params"):
            nn.init.normal_(parameter, std=0.5)
    spread = torch.logspace(-1.0, 1.6, config.latent)[torch.randperm(config.latent)]
    rescale(model.g_a[-1], model.g_a(x), spread, 0)
    y = model.g_a(x)
    rescale(model.h_a[-1], model.h_a(y), 12.0, 0.5)
    model.entropy_bottleneck.quantiles[:, 0] += 0.3  # medians other than 0
    for i in range(config.slices):
        s = spread[i * size : (i + 1) * size]
        # Each channel of the latents counts the same, so that a loud one does not drown the others.
        known = torch.cat([torch.ones(config.latent), 1 / spread[: size * min(i, config.support)]])
        for kind, std, mean in (("mean", 0.3 * s, 0 * s), ("scale", 0.15 * s, 1.2 * s)):
            model.get_submodule(f"atten_{kind}.{i}.0.in_conv").weight.mul_(known[None, :, None, None])
            last = model.get_submodule(f"cc_{kind}_transforms.{i}.4")
            rescale(last, made_by(last, lambda: model.encode(x)), std, mean)
    y_hat, last = model.encode(x).y_hat, model.g_s[-1][0]
    model.g_s[0].subpel_conv[0].weight.div_(spread[None, :, None, None])
    model.g_s[0].upsample[0].weight.div_(spread[None, :, None, None])
    rescale(last, made_by(last, lambda: model.g_s(y_hat)), 0.2 * torch.ones(12), 0.45)
    return model


def picture(height: int, width: int) -> torch.Tensor:
    """(1, 3, height, width) float32 in [0, 1], smooth with some noise."""
    y, x = torch.arange(height)[:, None] / 32, torch.arange(width)[None, :] / 32
    smooth = torch.stack([0.5 + 0.35 * torch.sin(3 * x + c) * torch.cos(2 * y - c) for c in range(3)])[None]
    return (smooth + 0.05 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
