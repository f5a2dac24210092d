"""Small models with random weights, of both backbones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from tests.once import once
from ugicm.models.fast import Conditioned
from ugicm.models.ugicm import UGICM, UGICMConfig

WIDTHS = {
    "fast": {
        "latent": 8,
        "hyper": 4,
        "fine": 8,
        "coarse": 8,
        "synthesis_shared": 1,
        "hyper_analysis": 8,
        "hyper_width": 8,
        "preference_hidden": 8,
        "preference_rank": 2,
    },
    "bmshj2018": {"width": 8, "latent": 12, "preference_hidden": 8},
}

SHALLOW = {"analysis_fine": 1, "analysis_coarse": 1, "context_blocks": 1}
"""Of networks that are exported: tracing takes a time for each block."""


def small(backbone: str) -> UGICM:
    """A small model as it is before training, three qualities."""
    torch.manual_seed(3)
    return UGICM(UGICMConfig.named(backbone, 3, **WIDTHS[backbone]))


def lively(backbone: str) -> UGICM:
    """A small model whose latents, scales and conditions are not all alike, two qualities."""
    torch.manual_seed(11)
    depths = SHALLOW if backbone == "fast" else {}
    model = UGICM(UGICMConfig.named(backbone, 2, **WIDTHS[backbone], **depths))
    nn.init.normal_(model.preference.project.weight, std=0.5)
    for module in model.modules():
        if isinstance(module, Conditioned):
            nn.init.normal_(module.up.weight, std=0.3)
    with torch.no_grad():
        model.log_gain += 1.5
        last = [m for m in model.h_s.modules() if isinstance(m, nn.Conv2d)][-1]
        last.weight.mul_(3)
        m = model.config.widths.latent
        last.bias[:m] = torch.linspace(-2, 30, m) if backbone == "fast" else torch.linspace(0, 4, m)
    return model


def lively_exported(backbone: str, common: Path) -> tuple[Path, Path]:
    """(checkpoint, bundle) of the lively model, exported once in a run."""

    def make(folder: Path) -> None:
        from ugicm.export.to_onnx import main as export
        from ugicm.training.checkpoint import save, weights_of

        save(folder / "checkpoint.pt", weights_of(lively(backbone)))
        assert export([str(folder / "checkpoint.pt"), "-o", str(folder / "bundle")]) == 0

    folder = once(common, f"lively-{backbone}", make)
    return folder / "checkpoint.pt", folder / "bundle"
