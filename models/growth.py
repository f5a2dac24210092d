"""A larger analysis for a codec that is there: it computes what the old one did, until it has learned more."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ugicm.models.fast import Analysis, Block, Entry, FastConfig
from ugicm.models.ugicm import UGICM, UGICMConfig


def grown(model: UGICM, **widths: int) -> UGICM:
    """A model of the `fast` backbone with more blocks in `g_a`; its latents of any picture are those of `model`.

    New blocks follow the old ones of their resolution and begin as the identity; blocks at 1/4 resolution stand beside
    the entry and begin by adding nothing. All other networks are copied.

    Args:
        model: the codec.
        widths: `analysis_fine`, `analysis_coarse` and `analysis_quarter`, each at least the model's.

    Raises:
        ValueError: another width, one below the model's, or another backbone.
    """
    old = model.config.widths
    if not isinstance(old, FastConfig):
        raise ValueError("only the 'fast' backbone can grow")
    for name, width in widths.items():
        if name not in ("analysis_fine", "analysis_coarse", "analysis_quarter"):
            raise ValueError(f"{name} cannot grow: only analysis_fine, analysis_coarse and analysis_quarter can")
        if width < getattr(old, name):
            raise ValueError(f"{name}: {width} is less than the {getattr(old, name)} of the model")
    new = replace(old, **widths)
    out = UGICM(UGICMConfig(model.config.backbone, model.config.qualities, new))
    others = {k: v for k, v in model.state_dict().items() if not k.startswith("g_a.")}
    missing, unknown = out.load_state_dict(others, strict=False)
    assert not unknown and all(name.startswith("g_a.") for name in missing)
    assert isinstance(model.g_a, Analysis) and isinstance(out.g_a, Analysis)
    for module in out.g_a.modules():
        if isinstance(module, Block):
            nn.init.zeros_(module.project.weight)
    _copy(model.g_a, out.g_a)
    return out


def _copy(old: nn.Sequential, new: nn.Sequential) -> None:
    old_runs, new_runs = _runs(old), _runs(new)
    for before, after in zip(old_runs, new_runs, strict=True):
        for a, b in zip(before, after, strict=False):
            b.load_state_dict(a.state_dict())
    entry = new[0]
    if isinstance(entry, Entry) and isinstance(old[0], Entry):
        _copy(old[0].quarter, entry.quarter)
    elif isinstance(entry, Entry):
        for parameter in entry.quarter[-1].parameters():
            nn.init.zeros_(parameter)


def _runs(sequence: nn.Sequential) -> list[list[nn.Module]]:
    """The modules with weights in order: single convolutions, and all blocks between two of them as one run."""
    runs: list[list[nn.Module]] = []
    blocks: list[nn.Module] = []
    for module in sequence:
        if isinstance(module, Block):
            blocks.append(module)
        elif isinstance(module, nn.Conv2d | Entry):
            runs += [blocks, [module.plain[1] if isinstance(module, Entry) else module]]
            blocks = []
    return [*runs, blocks]
