"""Quantised convolutions on a CPU: their weights, and the form that a layer's shape and its readers allow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ugicm.calibration.int8.graph import FloatGraph, Layer
from ugicm.export.forms.phases import LEAST_CHANNELS
from ugicm.export.forms.rewriting import Array, attribute


class Weights(NamedTuple):
    """A quantised convolution.

    Attributes:
        integers: int8 or FP8 (O, C / group, kh, kw).
        scales: float32 (O,), of each output channel.
        bias: float64 (O,).
    """

    integers: Array
    scales: Array
    bias: Array


def is_product(layer: Layer, weights: Weights) -> bool:
    """Whether a convolution is a matrix product and nothing else: pointwise, ungrouped, without vector and ReLU."""
    if layer.relu or layer.vector:
        return False
    group, strides, pads = (attribute(layer.nodes[0], name) for name in ("group", "strides", "pads"))
    pointwise = weights.integers.shape[2:] == (1, 1) and group in (None, 1)
    return pointwise and strides in (None, [1, 1]) and not any(pads or [])


def shuffled_side(graph: FloatGraph, layer: Layer) -> int:
    """The side of the pixel shuffle that alone reads a layer; 0 where there is none, or its order must stay."""
    reader = graph.only_consumer(layer.output)
    if layer.kind != "conv" or layer.vector or reader is None:
        return 0
    crd = reader.op_type == "DepthToSpace" and attribute(reader, "mode") == b"CRD"
    return int(attribute(reader, "blocksize")) if crd else 0


def widening(graph: FloatGraph, layer: Layer, weights: Weights) -> int:
    """2 where a convolution before a pixel shuffle makes four of its outputs at once, see `widened`; else 1.

    Its input has even sides: a picture's are multiples of more.
    """
    if graph.image_out(layer.output) is None:
        return 1
    node, weight = layer.nodes[0], weights.integers
    found = (attribute(node, "pads"), attribute(node, "strides") or [1, 1], attribute(node, "group") or 1)
    small = weight.shape[2:] == (3, 3) and len(weight) < LEAST_CHANNELS
    return 2 if small and found == ([1] * 4, [1, 1], 1) else 1


def widened(weight: Array, side: int) -> tuple[Array, Array]:
    """A 3×3 convolution that makes a square of four outputs at each second position, and each channel's origin.

    An integer matrix product takes as long for few columns as for many, and what a convolution copies for it, its
    input once for each tap, is here less by half.

    Args:
        weight: (C·side², K, 3, 3), ordered for a pixel shuffle of that side.
        side: of the pixel shuffle.

    Returns:
        (C·4·side², K, 4, 4), of stride 2, for a pixel shuffle of twice the side, and (C·4·side²,) indexes into the
        channels given.
    """
    given = weight.reshape(-1, side, side, *weight.shape[1:])
    channels, inputs = len(given), weight.shape[1]
    kernel = np.zeros((channels, 2, side, 2, side, inputs, 4, 4), weight.dtype)
    for row in range(2):
        for column in range(2):
            kernel[:, row, :, column, :, :, row : row + 3, column : column + 3] = given
    origin = np.arange(len(weight)).reshape(channels, 1, side, 1, side)
    return kernel.reshape(-1, inputs, 4, 4), np.broadcast_to(origin, kernel.shape[:5]).ravel()
