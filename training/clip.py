"""CLIP's image encoders (Radford et al. 2021), from open_clip."""

from __future__ import annotations

import importlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ugicm.models.entropy import compressai_module
from ugicm.training.config import ConfigError
from ugicm.training.encoders import Encoder, Features, evenly


def open_clip() -> Any:
    """The library. Raises ConfigError where it is not installed."""
    compressai_module("")  # both import torchvision, which some builds of torch refuse without its cure
    try:
        return importlib.import_module("open_clip")
    except ImportError:
        raise ConfigError("supervision.kind clip: open_clip is not installed; pip install 'ugicm[clip]'") from None


class ClipEncoder(Encoder):
    """The image tower of a CLIP model; pictures are resized to its input.

    Args:
        path: weights as open_clip reads them (`.pt`, `.bin`, `.safetensors`); nothing in them is executed.
        model: name of an open_clip model, or a JSON file that describes one.
        depths: how many intermediate layers to give.

    Raises:
        ConfigError: no such model, or weights of another one.
    """

    def __init__(self, path: Path, model: str, depths: int = 5) -> None:
        super().__init__()
        library = open_clip()
        name = model
        if model.endswith(".json"):
            name = Path(model).stem
            try:
                json.loads(Path(model).read_text(encoding="utf-8"))
                library.add_model_config(Path(model))
            except (OSError, ValueError):
                raise ConfigError(f"{model}: not a JSON description of an open_clip model") from None
        if name not in library.list_models():
            raise ConfigError(f"{model}: not a model of open_clip; open_clip.list_models() has the names")
        try:
            whole = library.create_model(name, pretrained=str(path))
        except (RuntimeError, ValueError, OSError, KeyError, pickle.UnpicklingError) as error:
            reason = " ".join(str(error).split())[:120]
            raise ConfigError(f"{path}: not the weights of {name} ({reason})") from None
        self.tower = whole.visual
        self.label = f"CLIP-supervised ({name})"
        size = self.tower.image_size
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.register_buffer("mean", torch.tensor(self.tower.image_mean)[:, None, None])
        self.register_buffer("std", torch.tensor(self.tower.image_std)[:, None, None])
        layers = len(self.tower.transformer.resblocks) if hasattr(self.tower, "transformer") else 5
        self.taps = evenly(depths, layers)

    def forward(self, x: Tensor) -> Features:
        x = F.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        x = (x - self.get_buffer("mean")) / self.get_buffer("std")
        out = self.tower.forward_intermediates(x, indices=self.taps) if self.taps else {"image_features": self.tower(x)}
        return Features(list(out.get("image_intermediates", [])), out["image_features"], None)
