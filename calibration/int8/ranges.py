"""Steps of activations and integers of weights, from what a float graph computes on images.

Ranges minimise the squared error of rounding and clipping together; which layers are quantised at all is decided
by rate and distortion (`ugicm.calibration.int8.search`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ugicm.calibration.int8.graph import LARGEST_FP8, FloatGraph, Form, Layer, Step, to_fp8
from ugicm.calibration.int8.kernels import Weights
from ugicm.runtime.backends import Backend

Array = np.ndarray
KEPT = 4096
"""Values of a tensor that are kept of each run."""
SHARES = np.linspace(0.6, 1.2, 25)
"""Of the range met: the ranges tried; not below, for other images reach further than those at hand."""


@dataclass
class Sample:
    """The values seen of a tensor.

    Attributes:
        values: float32, drawn evenly from all runs.
        low, high: the extremes of all values.
        mean: float64 (C,), of each channel.
        peak: float64 (C,), the largest magnitude of each channel.
        size: elements in all runs together.
    """

    values: Array
    low: float
    high: float
    mean: Array
    peak: Array
    size: int


def collect(
    graph: FloatGraph, tensors: Collection[str], feeds: Iterable[Mapping[str, Array]], backend: Backend, seed: int = 0
) -> dict[str, Sample]:
    """Runs a float graph and samples its tensors (N, C, H, W).

    Args:
        graph: the float graph.
        tensors: names, inputs of the graph among them.
        feeds: the inputs of each run.
        backend: where it runs.
        seed: of the choice of values.
    """
    inputs = {i.name for i in graph.inputs}
    computed = [name for name in tensors if name not in inputs]
    run = backend.load(graph.model(computed, only=True), graph.name)
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Array]] = {name: [] for name in tensors}
    means: dict[str, list[Array]] = {name: [] for name in tensors}
    peaks: dict[str, list[Array]] = {name: [] for name in tensors}
    sizes = dict.fromkeys(tensors, 0)
    ends: dict[str, tuple[float, float]] = dict.fromkeys(tensors, (np.inf, -np.inf))
    for feed in feeds:
        found = dict(zip(computed, run(feed) if computed else [], strict=True))
        found.update({name: feed[name] for name in tensors if name in inputs})
        for name, values in found.items():
            flat = values.ravel()
            sizes[name] += flat.size
            drawn[name].append(flat[rng.integers(0, flat.size, KEPT)].astype(np.float32))
            means[name].append(values.mean((0, 2, 3), dtype=np.float64))
            peaks[name].append(np.abs(values).max((0, 2, 3)).astype(np.float64))
            low, high = ends[name]
            ends[name] = (min(low, float(flat.min())), max(high, float(flat.max())))
    return {
        name: Sample(
            np.concatenate(drawn[name]),
            *ends[name],
            mean=np.mean(means[name], axis=0),
            peak=np.max(peaks[name], axis=0),
            size=sizes[name],
        )
        for name in tensors
        if drawn[name]
    }


def best_step(sample: Sample, form: Form) -> Step:
    """The step with the least squared error: uint8 with a zero point for "cpu", int8 without for "tensorrt", FP8.

    A range of FP8 is not cut: its steps shrink with the values.
    """
    values = np.concatenate([sample.values, np.asarray([sample.low, sample.high], np.float32)])
    low, high = min(sample.low, 0.0), max(sample.high, 0.0)
    if not high - low > 0:
        return Step(1.0, 0, form == "tensorrt", form == "fp8")
    if form == "fp8":
        return Step(float(SHARES[-1]) * max(-low, high) / LARGEST_FP8, 0, fp8=True)
    best, least = None, np.inf
    for share in SHARES:
        if form == "tensorrt":
            step = Step(float(share) * max(-low, high) / 127, 0, True)
        else:
            scale = float(share) * (high - low) / 255
            step = Step(scale, int(np.clip(np.rint(-float(share) * low / scale), 0, 255)))
        error = float(np.mean(np.square(step.round_trip(values) - values), dtype=np.float64))
        if error < least:
            best, least = step, error
    assert best is not None
    return best


def quantise_weights(graph: FloatGraph, layer: Layer, mean: Array, bits: int, form: Form = "cpu") -> Weights:
    """int8 or FP8 weights with a scale an output channel, and the bias that keeps every channel's mean.

    Args:
        graph: the layer's graph.
        layer: a convolution.
        mean: float64 (C,), of each channel of its input.
        bits: 8, or 7 where the kernels of a machine saturate beyond; of integers.
        form: of the graph.
    """
    weight, bias = (values.astype(np.float64) for values in graph.parameters(layer))
    rows = weight.reshape(len(weight), -1)
    largest = np.maximum(np.abs(rows).max(1), 1e-12)
    if form == "fp8":
        scales = (largest / LARGEST_FP8).astype(np.float32).astype(np.float64)
        stored = to_fp8(rows / scales[:, None])
        values = stored.astype(np.float64)
    else:
        top = 2 ** (bits - 1) - 1
        scales, least = largest / top, np.full(len(rows), np.inf)
        for share in np.linspace(0.7, 1.0, 16):
            tried = share * largest / top
            error = np.square(np.clip(np.rint(rows / tried[:, None]), -top, top) * tried[:, None] - rows).sum(1)
            better = error < least
            scales, least = np.where(better, tried, scales), np.where(better, error, least)
        scales = scales.astype(np.float32).astype(np.float64)
        values = np.clip(np.rint(rows / scales[:, None]), -top, top)
        stored = values.astype(np.int8)
    lost = (values * scales[:, None] - rows).reshape(weight.shape).sum((2, 3))  # (O, C / group)
    groups = len(mean) // lost.shape[1]
    per_output = mean.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
    bias = bias - (lost * per_output).sum(1)
    return Weights(stored.reshape(weight.shape), scales.astype(np.float32), bias)
