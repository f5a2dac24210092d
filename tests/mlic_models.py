"""Small MLIC++ networks with random weights: latents, scales and conditions that are not all alike."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.compressai_models import made_by, rescale
from ugicm.models.mlic import MLIC, MLICConfig, older_residual

WIDTHS = {"width": 8, "local": 16, "channel": (16, 8), "parameters": (24, 16, 8)}
KINDS = ("ugicm", "newer", "plain")
NARROW = {"width": 4, "first": 4, "preference": 16, "window": 3, "local": 4, "channel": (4, 4), "parameters": (8, 8, 4)}
"""Of a UG-ICM whose files stay in the tree. Heads of 32 channels leave 64 latents, those 650,000 numbers in `h_s`."""


def small_mlic(kind: str, slices: int = 2, **widths: Any) -> MLIC:
    """A network of slices of 32 channels in evaluation mode.

    Args:
        kind: "ugicm", conditional with the older latent residual prediction; "newer", MLIC++ with the newer; "plain",
            MLIC++ without.
        slices: 2 or more.
    """
    torch.manual_seed(5)
    latent = 32 * slices
    residual = {"ugicm": older_residual(latent, slices), "newer": ((16, 8),) * slices, "plain": ()}[kind]
    preference = 16 if kind == "ugicm" else 0
    first = 8 if kind == "ugicm" else latent
    fields = {"first": first, "preference": preference, "residual": residual, **WIDTHS, **widths}
    c = MLICConfig(latent=latent, slices=slices, **fields)
    model = MLIC(c).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("relative_position_table"):
                nn.init.normal_(parameter, std=0.5)
            elif parameter.dim() >= 2 and not name.startswith("entropy_bottleneck.") and "gdn" not in name:
                loud = name.startswith("entropy_parameters") and ".fusion.6." in name
                fan = parameter[0].numel()
                nn.init.normal_(parameter, std=(6.0 if loud else 1.4) / fan**0.5)
                if name.startswith("h_a."):
                    parameter *= 2
        for part in (model.get_submodule(f"entropy_parameters_{half}") for half in ("anchor", "nonanchor")):
            for parameters in part:
                parameters.fusion[6].bias[:32] = torch.linspace(0.1, 3, 32)
        model.entropy_bottleneck.quantiles[:, 0] += 0.3  # medians other than 0
        model.g_s.synthesis_transform[7][0].bias += 0.5
    return model


@torch.no_grad()
def lively_mlic(kind: str, slices: int = 2) -> MLIC:
    """`small_mlic` whose scales spread over the table, far from 0, and fit its latents, so that it can be exported."""
    return enliven(small_mlic(kind, slices))


@torch.no_grad()
def enliven(model: MLIC) -> MLIC:
    """Gives a small network scales that spread over the table and fit its latents, in place."""
    x = picture(256, 256)
    size = model.config.slice
    spread = torch.logspace(-1.3, 1.6, model.config.latent)[torch.randperm(model.config.latent)]
    rescale(model.g_a.analysis_transform[6], model.g_a(x), spread, 0)
    for i in range(model.config.slices):
        s = spread[i * size : (i + 1) * size]
        std, mean = torch.cat([0.15 * s, 0.3 * s]), torch.cat([1.2 * s, torch.zeros(size)])
        for half in ("anchor", "nonanchor"):
            last = model.get_submodule(f"entropy_parameters_{half}")[i].fusion[6]
            rescale(last, made_by(last, lambda: model.encode(x)), std, mean)
    last, vectors = (
        model.g_s.synthesis_transform[7][0],
        model.condition(torch.zeros(1)) if model.config.preference else None,
    )
    y_hat = model.encode(x).y_hat
    rescale(last, made_by(last, lambda: model.g_s(y_hat, vectors)), 0.2 * torch.ones(12), 0.45)
    return model


@torch.no_grad()
def narrow_ugicm() -> MLIC:
    """A UG-ICM of `NARROW` widths; one number in 32 of its `h_s` is left, and nearly all weights are halves."""
    model = small_mlic("ugicm", residual=((4, 4, 4),) * 2, **NARROW)
    generator = torch.Generator().manual_seed(11)
    for name, parameter in model.named_parameters():
        if name.startswith("h_s.") and parameter.dim() == 4:
            parameter *= (torch.rand(parameter.shape, generator=generator) < 1 / 32) * 32**0.5
    enliven(model)
    for name, parameter in model.named_parameters():
        if not name.startswith(("entropy_bottleneck.", "g_s.synthesis_transform.7.")):  # too small for halves
            parameter.copy_(parameter.half().float())
    return model


def picture(height: int = 128, width: int = 64) -> torch.Tensor:
    """(1, 3, height, width) float32 in [0, 1], smooth and not symmetric."""
    y, x = torch.arange(height)[:, None] / 32, torch.arange(width)[None, :] / 32
    return torch.stack([0.5 + 0.4 * torch.sin(3 * x + c) * torch.cos(2 * y - c) for c in range(3)])[None]


def published_numbers() -> Path:
    """The folder with what the authors' code computes, from the environment; skips the test without one."""
    folder = os.environ.get("UGICM_CASES")
    if not folder:
        pytest.skip("UGICM_CASES names no folder with keys.json, weights.py and expected.npz")
    return Path(folder)
