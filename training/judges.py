"""Networks that judge decoded pictures and never taught: a classifier and a detector."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ugicm.training.config import ConfigError
from ugicm.training.scores import Box

Graph = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


class SqueezeNet:
    """SqueezeNet 1.0 (Iandola et al. 2016) with Caffe's conventions, 1000 ImageNet classes, top-1 alone.

    Args:
        path: state dict with `conv1`, `sq.i`, `e1.i`, `e3.i` for i in 0..7 and `conv_final`.

    Raises:
        ConfigError: not such a file.
    """

    SIDE = 227
    MEANS = (104.0, 117.0, 123.0)  # blue, green, red
    POOLED_AFTER = (2, 6)
    BATCH = 32

    def __init__(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            self.weights = {name: value.float() for name, value in state.items()}
            names = [f"{part}.{i}" for i in range(8) for part in ("sq", "e1", "e3")]
            for name in ("conv1", "conv_final", *names):
                self.weights[f"{name}.weight"] = self.weights[f"{name}.weight"].contiguous(
                    memory_format=torch.channels_last
                )
                _ = self.weights[f"{name}.bias"]
        except (OSError, KeyError, AttributeError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError):
            raise ConfigError(f"{path}: not a SqueezeNet 1.0; give its state dict") from None

    def _conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.relu(F.conv2d(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], stride, padding))

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """(N, 3, 227, 227) RGB in 0 to 255 to (N, 1000)."""
        x = x.flip(1) - torch.tensor(self.MEANS)[:, None, None]
        x = self._conv(x.contiguous(memory_format=torch.channels_last), "conv1", stride=2)
        x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for i in range(8):
            squeezed = self._conv(x, f"sq.{i}")
            x = torch.cat([self._conv(squeezed, f"e1.{i}"), self._conv(squeezed, f"e3.{i}", padding=1)], 1)
            if i in self.POOLED_AFTER:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return self._conv(x, "conv_final", padding=1).mean((2, 3))

    def classify(self, pictures: Sequence[np.ndarray]) -> list[int]:
        """The class of each (H, W, 3) uint8 picture: its central square, brought to 227 pixels."""
        found: list[int] = []
        for start in range(0, len(pictures), self.BATCH):
            squares = np.stack([_square(p, self.SIDE) for p in pictures[start : start + self.BATCH]])
            found += self.logits(torch.from_numpy(squares).permute(0, 3, 1, 2).float()).argmax(1).tolist()
        return found


def _square(picture: np.ndarray, side: int) -> np.ndarray:
    height, width = picture.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    square = Image.fromarray(picture[top : top + least, left : left + least])
    return np.asarray(square.resize((side, side), Image.Resampling.BILINEAR))


class NanoDet:
    """NanoDet-m at 416 pixels (80 classes of COCO): class scores and distributions over distances at three strides.

    Args:
        graph: the network; its outputs are told apart by their shapes.
        input_name: of its input.
    """

    SIDE = 416
    MEANS = np.array([103.53, 116.28, 123.675], np.float32)  # blue, green, red
    DEVIATIONS = np.array([57.375, 57.12, 58.395], np.float32)
    STRIDES = (8, 16, 32)
    CLASSES = 80
    LEAST_SCORE, OVERLAP, MOST = 0.05, 0.6, 100

    def __init__(self, graph: Graph, input_name: str = "input.1") -> None:
        self.graph = graph
        self.input_name = input_name

    def detect(self, picture: np.ndarray) -> list[Box]:
        """Boxes in the pixels of an (H, W, 3) uint8 picture, the surest first, at most 100."""
        height, width = picture.shape[:2]
        scale = self.SIDE / max(height, width)
        size = (round(width * scale), round(height * scale))
        canvas = np.zeros((self.SIDE, self.SIDE, 3), np.float32)
        resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR), np.float32)[..., ::-1]
        canvas[: size[1], : size[0]] = (resized - self.MEANS) / self.DEVIATIONS
        outputs = self.graph({self.input_name: np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])})
        boxes, scores = self._decode(outputs)
        limits = np.array([size[0], size[1], size[0], size[1]])
        boxes = np.clip(boxes, 0, limits) / scale
        return self._suppress(boxes, scores)

    def _decode(self, outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(n, 4) left, top, right, bottom in the network's pixels; (n, 80) scores."""
        by_shape = {tuple(o.shape[-2:]): o.reshape(o.shape[-2:]) for o in outputs}
        boxes, scores = [], []
        for stride in self.STRIDES:
            side = self.SIDE // stride
            distances = by_shape[(side * side, 32)].reshape(side * side, 4, 8)
            weights = np.exp(distances - distances.max(-1, keepdims=True))
            distances = (weights / weights.sum(-1, keepdims=True)) @ np.arange(8) * stride
            centres = (np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2) + 0.5) * stride
            boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], 1))
            scores.append(by_shape[(side * side, self.CLASSES)])
        found = np.concatenate(scores)
        if found.min() < 0 or found.max() > 1:  # exported before the sigmoid
            found = 1 / (1 + np.exp(-found))
        return np.concatenate(boxes), found

    def _suppress(self, boxes: np.ndarray, scores: np.ndarray) -> list[Box]:
        found: list[Box] = []
        for category in range(self.CLASSES):
            at = np.flatnonzero(scores[:, category] > self.LEAST_SCORE)
            at = at[np.argsort(-scores[at, category], kind="stable")]
            while len(at):
                left, top, right, bottom = boxes[at[0]]
                x, y, width, height = map(float, (left, top, right - left, bottom - top))
                found.append(Box(x, y, width, height, category, float(scores[at[0], category])))
                at = at[1:][_overlaps(boxes[at[0]], boxes[at[1:]]) <= self.OVERLAP]
        return sorted(found, key=lambda b: -b.score)[: self.MOST]


def _overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    corners = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    common = np.clip(corners, 0, None).prod(1)
    areas = [(b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1]) for b in (box, others)]
    return common / np.maximum(areas[0] + areas[1] - common, 1e-9)
