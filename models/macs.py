"""Multiply-accumulates of a module, counted on a real pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ugicm.models.ugicm import LATENT_STRIDE, STRIDE, UGICM


def count_macs(module: nn.Module, run: Callable[[], Any]) -> int:
    """Multiply-accumulates of all convolutions and linear layers inside `module` while `run` is called."""
    total = 0

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            total += output.numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.ConvTranspose2d):
            total += inputs[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            total += output.numel() * layer.in_features

    handles = [m.register_forward_hook(hook) for m in module.modules()]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return total


def kmac_per_pixel(model: UGICM, side: int = 256) -> dict[str, float]:
    """kMAC/pixel of each transform and, summed, of "encode" and "decode" (one view), on a side×side image."""
    c = model.config.widths
    x = torch.zeros(1, 3, side, side)
    y = torch.zeros(1, c.latent, side // LATENT_STRIDE, side // LATENT_STRIDE)
    z = torch.zeros(1, c.hyper, side // STRIDE, side // STRIDE)
    vectors = model.preference.split(torch.zeros(1, sum(model.g_s.widths)))
    runs: dict[str, tuple[nn.Module, Callable[[], Any]]] = {
        "g_a": (model.g_a, lambda: model.g_a(x)),
        "h_a": (model.h_a, lambda: model.h_a(y)),
        "h_s": (model.h_s, lambda: model.h_s(z)),
        "g_s": (model.g_s, lambda: model.g_s(y, vectors)),
    }
    context = model.context
    if context is not None:
        runs["context"] = (context, lambda: context(y))
    counts = {name: count_macs(module, run) / (side * side) / 1000 for name, (module, run) in runs.items()}
    counts["encode"] = sum(v for k, v in counts.items() if k != "g_s")
    counts["decode"] = sum(counts.get(k, 0.0) for k in ("h_s", "context", "g_s"))
    return counts
