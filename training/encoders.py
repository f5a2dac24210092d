"""The shape of every frozen encoder: pictures in, features out."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """The features of N pictures.

    Attributes:
        maps: intermediate layers, shallow to deep, each (N, C, h, w).
        embedding: (N, D), of the whole picture.
        logits: (N, classes), or None of an encoder without classes.
    """

    maps: list[Tensor]
    embedding: Tensor
    logits: Tensor | None


class Encoder(nn.Module):
    """A frozen encoder: (N, 3, H, W) RGB in [0, 1] to Features, with gradients to the picture.

    Attributes:
        label: what results obtained with it are to be called.
    """

    label: str

    def forward(self, x: Tensor) -> Features:
        raise NotImplementedError


def evenly(count: int, layers: int) -> list[int]:
    """Indexes of `count` of so many layers, evenly spread, the last among them."""
    count = min(count, layers)
    return sorted({round((i + 1) * layers / count) - 1 for i in range(count)})
