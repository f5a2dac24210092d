"""Checkpoints: configuration and weights.

`python -m ugicm.training.checkpoint IN OUT` rounds the weights to half precision, to ship them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from ugicm.models.ugicm import UGICM, UGICMConfig

FORMAT = "ugicm-checkpoint-1"


def save(path: Path, values: dict[str, Any]) -> None:
    """Writes tensors and plain values whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    torch.save(values, temporary)
    os.replace(temporary, path)


def weights_of(model: UGICM, half: bool = False) -> dict[str, Any]:
    """The contents that export reads: format name, configuration and state dict.

    Args:
        model: the codec.
        half: store parameters as fp16, to ship; buffers, with bounds as small as 1e-9, stay what they are.
    """
    halved = {name for name, _ in model.named_parameters()} if half else set()
    state = {k: (v.half() if k in halved else v).clone() for k, v in model.state_dict().items()}
    return {"format": FORMAT, "config": model.config.to_dict(), "state_dict": state}


def rebuild(values: dict[str, Any]) -> UGICM:
    """The model of a checkpoint, in evaluation mode, fp32."""
    model = UGICM(UGICMConfig.from_dict(values["config"]))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in values["state_dict"].items()})
    return model.eval()


def main(arguments: list[str]) -> int:
    if len(arguments) != 2:
        print("usage: python -m ugicm.training.checkpoint IN OUT", file=sys.stderr)
        return 2
    values = torch.load(arguments[0], weights_only=True)
    label = {"supervision": values["supervision"]} if "supervision" in values else {}
    save(Path(arguments[1]), {**weights_of(rebuild(values), half=True), **label})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
