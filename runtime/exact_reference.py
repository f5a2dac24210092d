"""The exact network in numpy: the integers that every backend has to give, on any machine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.exact import ExactLayer, ExactNetwork


def accumulate(layer: ExactLayer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The convolution and bias: (N, I, h, w) to (N, O, h, w), integers in float64, exact below 2^53."""
    n, _, h, w = x.shape
    size = layer.weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    taps = np.ascontiguousarray(layer.weight.transpose(2, 3, 0, 1), np.float64)  # a matrix a tap, for BLAS
    acc = np.zeros((n, taps.shape[2], h * w))
    for i in range(size):
        for j in range(size):
            acc += taps[i, j] @ padded[:, :, i : i + h, j : j + w].reshape(n, -1, h * w)
    return acc.reshape(n, -1, h, w) + layer.bias[:, None, None]


def run_layer(layer: ExactLayer, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The whole layer: (N, I, h, w) to (N, outputs, upsample*h, upsample*w), integers in float64."""
    return requantise(layer, accumulate(layer, x))


def requantise(layer: ExactLayer, accumulated: NDArray[np.float64]) -> NDArray[np.float64]:
    """The steps after the convolution: (N, O, h, w) accumulators to the layer's output."""
    scaled = accumulated * np.exp2(-layer.shift.astype(np.float64))[:, None, None]
    v = np.clip(np.rint(scaled), layer.low[:, None, None], layer.high[:, None, None])
    if layer.table is not None:
        v = layer.table[v.astype(np.int64) - int(layer.low[0])].astype(np.float64)
    return pixel_shuffle(v, layer.upsample)


def pixel_shuffle(x: NDArray[np.float64], factor: int) -> NDArray[np.float64]:
    """(N, factor^2 C, h, w) to (N, C, factor*h, factor*w), in the order of ONNX DepthToSpace "CRD"."""
    n, c, h, w = x.shape
    x = x.reshape(n, c // factor**2, factor, factor, h, w).transpose(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // factor**2, h * factor, w * factor)


def run(network: ExactNetwork, z: NDArray[np.integer]) -> tuple[NDArray[np.uint8], NDArray[np.int32] | None]:
    """Scale indexes and means of `y`.

    Args:
        z: integers (N, z_channels, h, w), centred (the symbols as coded), within the input limit.

    Returns:
        uint8 (N, M, H, W) scale indexes, and int32 (N, M, H, W) means in units of 2^-mean_fraction_bits
        or None; H and W are h and w times the product of the layers' upsampling.

    Raises:
        ValueError: a wrong shape, or values outside the input limit.
    """
    if z.ndim != 4 or z.shape[1] != network.z_channels:
        raise ValueError(f"z has shape {z.shape}, not (N, {network.z_channels}, h, w)")
    if z.size and (z.max() > network.input_limit or z.min() < -network.input_limit):
        raise ValueError(f"z leaves [-{network.input_limit}, {network.input_limit}]")
    x = z.astype(np.float64)
    if network.ones:
        x = np.concatenate([x, np.full_like(x[:, :1], network.ones)], 1)
    for layer in network.layers:
        x = run_layer(layer, x)
    scales, means = x[:, : network.scale_channels], x[:, network.scale_channels :]
    index = scales.astype(np.uint8) if network.scale_table is None else network.scale_table[scales.astype(np.int64)]
    return index, means.astype(np.int32) if network.mean_channels else None


def reference_runner(network: ExactNetwork) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]:
    """The integers themselves, in numpy: slower, and exact on any machine."""
    unit = np.float32(2.0**-network.mean_fraction_bits)

    def runner(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        scale_index, means = run(network, z)
        return scale_index, None if means is None else means.astype(np.float32) * unit

    return runner


def factorised_runner(channels: int) -> Callable[[np.ndarray], tuple[np.ndarray, None]]:
    """The stand-in for `h_s` in a codec without a hyperprior: the row of a symbol is its channel, the mean 0.

    It reads of `z`, which has no channels there, the size alone.
    """
    rows = np.arange(channels, dtype=np.uint16)[:, None, None]

    def runner(z: np.ndarray) -> tuple[np.ndarray, None]:
        return np.broadcast_to(rows, (z.shape[0], channels, *z.shape[2:])), None

    return runner
