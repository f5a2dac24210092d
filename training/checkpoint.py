"""Checkpoints: configuration and weights for export, and the whole state of a run for resuming."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from models.ugicm import UGICM, UGICMConfig

FORMAT = "ugicm-checkpoint-1"


def save(path: Path, values: dict[str, Any]) -> None:
    """Writes tensors and plain values whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(values, temporary)
    os.replace(temporary, path)


def weights_of(model: UGICM, half: bool = False) -> dict[str, Any]:
    """What export reads: format name, configuration and state dict (fp16 where `half`, to ship)."""
    state = {k: (v.half() if half and v.is_floating_point() else v).clone() for k, v in model.state_dict().items()}
    return {"format": FORMAT, "config": model.config.to_dict(), "state_dict": state}


def rebuild(values: dict[str, Any]) -> UGICM:
    """The model of a checkpoint, in evaluation mode, fp32."""
    model = UGICM(UGICMConfig.from_dict(values["config"]))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in values["state_dict"].items()})
    return model.eval()
