"""Random exact networks for tests."""

from __future__ import annotations

import numpy as np

from ugicm.runtime.exact import ExactLayer, ExactNetwork


def random_layer(
    rng: np.random.Generator,
    inputs: int,
    outputs: int,
    *,
    kernel: int = 3,
    upsample: int = 1,
    low: int = 0,
    high: int = 255,
    weight_top: int = 63,
    reach: int = 255,
    table: bool = False,
) -> ExactLayer:
    """A layer whose outputs use their range and clip at both ends, for inputs of magnitude `reach`."""
    o = outputs * upsample**2
    weight = rng.integers(-weight_top, weight_top + 1, (o, inputs, kernel, kernel))
    typical = weight_top * reach * np.sqrt(inputs * kernel**2) / 3
    shift = np.full(o, int(np.ceil(np.log2(typical / max(high - low, 1)))) + 1) + rng.integers(-1, 2, o)
    bias = rng.integers(-1000, 1000, o)
    return ExactLayer(
        weight.astype(np.int8 if weight_top <= 127 else np.int16),
        bias.astype(np.int32),
        np.clip(shift, -3, 24).astype(np.int8),
        np.full(o, low, np.int32),
        np.full(o, high, np.int32),
        upsample,
        rng.integers(-300, 300, high - low + 1).astype(np.int16) if table else None,
    )


def joined(rng: np.random.Generator, scales: ExactLayer, means: ExactLayer | None) -> ExactLayer:
    """The channels of two layers in one."""
    if means is None:
        return scales
    vectors = [
        np.concatenate([getattr(scales, n), getattr(means, n)]) for n in ("weight", "bias", "shift", "low", "high")
    ]
    return ExactLayer(*vectors, upsample=scales.upsample)


def random_network(
    seed: int,
    *,
    table: bool = False,
    ones: bool = False,
    linear: bool = False,
    means: bool = True,
    activation_bits: int = 8,
    weight_top: int = 63,
    head_top: int = 500,
    input_limit: int = 127,
    signed: bool = False,
) -> ExactNetwork:
    """Three layers, 5 channels of `z`, 4 of `y`, upsampling by 4; every accumulator stays below 2^24."""
    rng = np.random.default_rng(seed)
    high = 2**activation_bits - 1
    low = -100 if table else -(high // 3) if signed else 0
    high = high + low if signed and not table else high
    inputs = 5 + ones
    kwargs = {"weight_top": weight_top, "low": low, "high": high}
    first = random_layer(rng, inputs, 6, upsample=2, reach=input_limit, table=table, **kwargs)
    second = random_layer(rng, 6, 7, kernel=int(rng.choice([1, 3, 5])), upsample=2, reach=high, **kwargs)
    top = 3000 if linear else 63
    scales = random_layer(rng, 7, 4, kernel=1, high=top, weight_top=head_top, reach=high)
    mean = random_layer(rng, 7, 4, kernel=1, low=-(2**15), high=2**15 - 1, weight_top=head_top, reach=high)
    scale_table = np.sort(rng.integers(0, 64, top + 1)).astype(np.uint8) if linear else None
    return ExactNetwork(
        (first, second, joined(rng, scales, mean if means else None)),
        scale_channels=4,
        mean_channels=4 if means else 0,
        input_limit=input_limit,
        ones=37 if ones else 0,
        scale_table=scale_table,
    )


def random_z(seed: int, network: ExactNetwork, shape: tuple[int, int, int]) -> np.ndarray:
    """int32 (N, z_channels, h, w) that reaches the input limit; shape is (N, h, w)."""
    rng = np.random.default_rng(seed)
    n, h, w = shape
    size = (n, network.z_channels, h, w)
    quiet = np.rint(rng.laplace(0, 4, size))
    loud = rng.integers(-network.input_limit, network.input_limit + 1, size)
    return np.clip(np.where(rng.random(size) < 0.5, quiet, loud), -network.input_limit, network.input_limit).astype(
        np.int32
    )
