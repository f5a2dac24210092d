"""A MobileNetV2 trained on ImageNet: a stand-in where no CLIP encoder is at hand."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ugicm.training.config import ConfigError
from ugicm.training.encoders import Encoder, Features, evenly

CONVOLUTIONS = ("conv", "dw", "add")


class ImagenetEncoder(Encoder):
    """A classifier's convolutions as intermediate features, its pooled features as embedding, its logits.

    Args:
        path: `.npz` of half-precision weights and a JSON list of operations ("conv", "dw", "add", "gap", "fc") under
            the key "graph".
        depths: how many intermediate layers to give.

    Raises:
        ConfigError: not such a file.
    """

    label = "ImageNet-supervised (MobileNetV2)"

    def __init__(self, path: Path, depths: int = 5) -> None:
        super().__init__()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                graph: dict[str, Any] = json.loads(arrays["graph"].tobytes().decode())
                weights = {
                    name: nn.Parameter(torch.from_numpy(arrays[name].astype(np.float32)), requires_grad=False)
                    for name in arrays.files
                    if name != "graph"
                }
            self.operations: list[dict[str, Any]] = graph["ops"]
            self.input, self.multiply, self.add = graph["input"], graph["in_mul"], graph["in_add"]
            pooling = [op["op"] for op in self.operations].index("gap")
        except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
            raise ConfigError(f"{path}: not an encoder's file; give an .npz of weights and a graph") from None
        self.weights = nn.ParameterDict(weights)
        self.pooled = self.operations[pooling]["out"]
        layers = [op["out"] for op in self.operations[:pooling] if op["op"] in CONVOLUTIONS]
        self.taps = {layers[i] for i in evenly(depths, len(layers))}

    def forward(self, x: Tensor) -> Features:
        values: dict[Any, Tensor] = {self.input: x * self.multiply + self.add}
        maps = []
        value = x
        for op in self.operations:
            value = self._operate(op, [values[name] for name in op["in"]])
            values[op["out"]] = value
            if op["out"] in self.taps:
                maps.append(value)
        return Features(maps, values[self.pooled].flatten(1), value.flatten(1))

    def _operate(self, op: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        x = inputs[0]
        if op["op"] in ("conv", "dw"):
            weight, stride = self.weights[op["w"]], op["stride"]
            if op["same"]:
                x = pad_same(x, weight.shape[2], stride)
            x = F.conv2d(x, weight, self.weights[op["b"]], stride, groups=x.shape[1] if op["op"] == "dw" else 1)
        elif op["op"] == "add":
            x = x + inputs[1]
        elif op["op"] == "gap":
            x = x.mean((2, 3), keepdim=True)
        elif op["op"] == "fc":
            x = F.linear(x.flatten(1), self.weights[op["w"]], self.weights[op["b"]])[:, :, None, None]
        return {1: F.relu, 3: F.relu6}.get(op["act"], lambda v: v)(x)


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero padding so that the output has ceil(size / stride) positions, the odd pixel last (TensorFlow's SAME)."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
    return F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
