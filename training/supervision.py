"""Semantic supervision without labels: frozen encoders that compare a decoded image with its original."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

TAPS = 5


class ImagenetTeacher(nn.Module):
    """A MobileNetV2 trained on ImageNet, as a stand-in where no CLIP encoder is at hand.

    Args:
        path: `.npz` of half-precision weights and a JSON list of operations ("conv", "dw", "add", "gap", "fc") under
            the key "graph".

    Raises:
        FileNotFoundError, ValueError: no such file, or not of this kind.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        with np.load(path, allow_pickle=False) as arrays:
            if "graph" not in arrays.files:
                raise ValueError(f"{path}: not a teacher file (it has no graph)")
            graph: dict[str, Any] = json.loads(arrays["graph"].tobytes().decode())
            self.weights = nn.ParameterDict(
                {
                    name: nn.Parameter(torch.from_numpy(arrays[name].astype(np.float32)), requires_grad=False)
                    for name in arrays.files
                    if name != "graph"
                }
            )
        features = takewhile(lambda op: op["op"] in ("conv", "dw", "add"), graph["ops"])  # up to the pooling
        self.operations: list[dict[str, Any]] = list(features)
        self.input, self.multiply, self.add = graph["input"], graph["in_mul"], graph["in_add"]
        step = len(self.operations) / TAPS
        self.taps = {self.operations[round((i + 1) * step) - 1]["out"] for i in range(TAPS)}

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, 3, H, W) in [0, 1] to features of `TAPS` depths, each (N, C, h, w)."""
        values: dict[Any, Tensor] = {self.input: x * self.multiply + self.add}
        features = []
        for op in self.operations:
            value = values[op["in"][0]]
            if op["op"] == "add":
                value = value + values[op["in"][1]]
            else:
                weight, stride = self.weights[op["w"]], op["stride"]
                if op["same"]:
                    value = pad_same(value, weight.shape[2], stride)
                groups = value.shape[1] if op["op"] == "dw" else 1
                value = F.conv2d(value, weight, self.weights[op["b"]], stride, groups=groups)
            value = {0: lambda v: v, 1: F.relu, 3: F.relu6}[op["act"]](value)
            values[op["out"]] = value
            if op["out"] in self.taps:
                features.append(value)
        return features


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zero padding so that the output has ceil(size / stride) positions, the odd pixel last (TensorFlow's SAME)."""
    total = [max((-(-n // stride) - 1) * stride + kernel - n, 0) for n in x.shape[2:]]
    return F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))


def semantic_distance(teacher: nn.Module, x_hat: Tensor, x: Tensor) -> Tensor:
    """(N,) mean over depths of |f(x_hat) - f(x)|² / |f(x)|²."""
    with torch.no_grad():
        originals = teacher(x)
    total = torch.zeros(len(x), device=x.device)
    for found, original in zip(teacher(x_hat), originals, strict=True):
        total = total + (found - original).square().sum((1, 2, 3)) / original.square().sum((1, 2, 3)).clamp(min=1e-6)
    return total / len(originals)
