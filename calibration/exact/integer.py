"""Layers and samples in, an integer network out, with the proof that fp32 computes it exactly.

Rectifiers are positively homogeneous: a hidden channel may be multiplied by any positive factor that the next layer's
weights take back. So every channel gets a range of its own while every requantisation stays a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ugicm.calibration.exact.layers import (
    CalibrationError,
    FloatLayer,
    choose_range,
    correct_bias,
    observe,
    quantise,
)
from ugicm.calibration.exact.ranges import Float, default_scales, excess_bits
from ugicm.runtime.exact import EXACT_LIMIT, ExactLayer, ExactNetwork

__all__ = ["HEADROOMS", "CalibrationError", "FloatLayer", "float_run", "make_integer"]

HEADROOMS = (1.0, 1.5, 2.0, 3.0)
"""Clip levels to choose from, as multiples of a channel's largest sample. Never less than that: images at the
highest quality exceed what samples show, most of all samples of the prior, and clipping them costs percents
of their rate."""

_TOLERANCE = 2e-4  # bits a symbol that a layer's wider range may cost: hundredths of a percent of the rate
_POSITIONS = 1024  # of `z` that the choice of ranges and the correction of biases look at


def float_run(layers: Sequence[FloatLayer], z: NDArray[np.integer], medians: Float | None = None) -> Float:
    """The float network in float64: centred integers (N, Nz, h, w) to (N, outputs, H, W).

    Args:
        layers: applied in order.
        z: centred integers.
        medians: float (Nz,), added to `z` before the first layer's zero padding, or None.
    """
    x = _shifted(z, medians)
    for layer in layers:
        x = layer.activate(layer.accumulate(x))
    return x


def make_integer(
    layers: Sequence[FloatLayer],
    *,
    scale_channels: int,
    samples: NDArray[np.integer],
    head: Literal["row", "linear"] = "row",
    rows: int = 64,
    scales: Float | None = None,
    scale_bounds: Float | None = None,
    medians: Float | None = None,
    input_limit: int = 127,
    weight_bits: int = 8,
    head_weight_bits: int = 10,
    activation_bits: int = 8,
    mean_fraction_bits: int = 6,
    scale_fraction_bits: int = 8,
    limit: int = 2**23,
) -> ExactNetwork:
    """Quantises a float hyper-synthesis after training.

    Weights get a power-of-two scale for each output channel, hidden activations a range for each channel,
    biases what corrects the mean error on the samples. How far ranges reach beyond the samples is decided by
    the bits it costs.

    Args:
        layers: the float network; the last yields scale_channels scales, then as many means or none.
        scale_channels: M.
        samples: centred integers (N, Nz, h, w), of images or from `ranges.prior_samples`.
        head: "row", scale channels are fractional scale indexes, to be rounded; "linear", they are standard
            deviations.
        rows: length of the scale table, at most 256.
        scales: float (rows,), the table's standard deviations; by default log-spaced from 0.11 to 256.
        scale_bounds: float (rows - 1,), ascending, for head "linear": the index of a standard deviation is
            the number of bounds below it.
        medians: float (Nz,) where the float network reads `z` plus them, else None.
        input_limit: `z` lies in [-input_limit, input_limit].
        weight_bits: of every layer but the last. 8 need kernels that do not add pairs of uint8 × int8 products in
            16 bits: the runtime asks for such; 7 are exact in any.
        head_weight_bits: of the last layer, whose outputs are wider than 8 bits, so that no int8 kernel
            serves it.
        activation_bits: of hidden activations, 2 to 11; at most 8 for int8 kernels.
        mean_fraction_bits: fraction bits of means; fewer where twice the samples' range needs it.
        scale_fraction_bits: fraction bits of standard deviations, for head "linear".
        limit: every accumulator stays below it, at most 2^24, where fp32 ends; the rest is head-room.

    Raises:
        CalibrationError: a layer's bound reaches the limit (the message names the layer), or arguments that
            contradict each other.
    """
    _check(layers, scale_channels, head, rows, scale_bounds)
    if not (2 <= weight_bits <= 11 and 2 <= head_weight_bits <= 11 and 2 <= activation_bits <= 11):
        raise CalibrationError("weights and activations take 2 to 11 bits")
    if not 0 < limit <= EXACT_LIMIT:
        raise CalibrationError(f"limit {limit} lies beyond 2^24, where fp32 stops being exact")
    samples = np.clip(samples, -input_limit, input_limit)

    few = slice(None, None, math.ceil(samples[:, 0].size / _POSITIONS))
    x, seen, means = _shifted(samples, medians), [], []
    for layer in layers:
        accumulated = layer.accumulate(x)
        seen.append(observe(accumulated, layer.upsample))
        means.append(accumulated[few].mean((0, 2, 3)))
        x = layer.activate(accumulated)
    largest = 2 * float(np.abs(x[:, scale_channels:]).max(initial=0.0))
    while mean_fraction_bits and largest * 2**mean_fraction_bits >= 2**15:
        mean_fraction_bits -= 1

    units = np.ones(x.shape[1])
    units[scale_channels:] = 2.0**mean_fraction_bits
    low, high = np.full(x.shape[1], -(2**15), np.int32), np.full(x.shape[1], 2**15 - 1, np.int32)
    low[:scale_channels], high[:scale_channels] = 0, rows - 1
    table = None
    if scale_bounds is not None:
        units[:scale_channels] = 2.0**scale_fraction_bits
        top = math.ceil(float(scale_bounds[-1]) * 2**scale_fraction_bits) + 1
        high[:scale_channels] = top
        values = np.arange(top + 1) * 2.0**-scale_fraction_bits
        table = np.searchsorted(np.asarray(scale_bounds, np.float64), values, side="left").astype(np.uint8)

    first, ones = layers[0], 0
    if medians is not None:
        first, ones = _with_ones(layers[0], np.asarray(medians, np.float64), weight_bits, input_limit)
    inputs = samples[few].astype(np.float64)
    if ones:
        inputs = np.concatenate([inputs, np.full_like(inputs[:, :1], ones)], 1)
    extent = np.full(inputs.shape[1], input_limit, np.int64)
    input_range = -extent, extent
    if ones:
        input_range[0][-1] = input_range[1][-1] = ones

    def build(headrooms: Sequence[float]) -> tuple[tuple[ExactLayer, ...], Float]:
        """Layers, and what they make of the samples."""
        left, done, x, ends = [first, *layers[1:]], list[ExactLayer](), inputs, input_range
        for i, layer in enumerate(left):
            name = f"h_s/conv{i}"
            if i + 1 < len(left):
                r = choose_range(seen[i], layer.negative_slope, activation_bits, headrooms[i])
                left[i + 1] = left[i + 1].reading(r.factor)
                factor, values = np.repeat(r.factor, layer.upsample**2), r.table
                lows, highs = (np.full(len(factor), end, np.int32) for end in (r.low, r.high))
                bits = weight_bits
            else:
                factor, values, bits = np.repeat(units, layer.upsample**2), None, head_weight_bits
                lows, highs = (np.repeat(end, layer.upsample**2) for end in (low, high))
            out = quantise(layer.scaled(factor), lows, highs, values, ends, bits=bits, limit=limit, name=name)
            out, accumulated = correct_bias(out, out.accumulate(x), means[i] * factor, ends, limit)
            done.append(out)
            x, ends = out.requantise(accumulated), out.output_range()
        return tuple(done), x

    scale_reference, mean_reference = x[few, :scale_channels], x[few, scale_channels:]
    log_scales = np.log(default_scales(rows) if scales is None else np.asarray(scales, np.float64))
    if head == "row":
        log_reference = np.interp(scale_reference, np.arange(rows), log_scales)
    else:
        log_reference = np.log(np.clip(scale_reference, *np.exp(log_scales[[0, -1]])))

    def cost(headrooms: Sequence[float]) -> float:
        try:
            values = build(headrooms)[1]
        except CalibrationError:
            return math.inf
        index: NDArray[np.integer] = values[:, :scale_channels].astype(np.int64)
        if table is not None:
            index = table[index]
        coded_means = values[:, scale_channels:] * 2.0**-mean_fraction_bits
        return float(excess_bits(log_reference, mean_reference, log_scales[index], coded_means).mean())

    headrooms = [HEADROOMS[-1]] * (len(layers) - 1)
    for i in range(len(headrooms)):
        costs = [cost([*headrooms[:i], h, *headrooms[i + 1 :]]) for h in HEADROOMS]
        allowed = min(costs) + _TOLERANCE
        headrooms[i] = max(h for h, c in zip(HEADROOMS, costs, strict=True) if c <= allowed)
    return ExactNetwork(
        build(headrooms)[0],
        scale_channels,
        len(units) - scale_channels,
        mean_fraction_bits,
        input_limit,
        ones,
        table,
    )


def _shifted(z: NDArray[np.integer], medians: Float | None) -> Float:
    return z.astype(np.float64) + (0.0 if medians is None else np.asarray(medians, np.float64)[:, None, None])


def _with_ones(layer: FloatLayer, medians: Float, bits: int, input_limit: int) -> tuple[FloatLayer, int]:
    """The first layer with one more input channel that carries the medians, and the constant it holds.

    The constant is the power of two whose weights, which share the exponents of the others, round best.
    """
    weight = layer.weight.astype(np.float64)
    carried = np.einsum("oikl,i->okl", weight, medians)[:, None]
    top = 2 ** (bits - 1) - 1

    def error(ones: int) -> float:
        both = np.concatenate([weight, carried / ones], 1)
        largest = np.maximum(np.abs(both).max((1, 2, 3), keepdims=True), 1e-30)
        step = np.exp2(np.ceil(np.log2(largest / top)))
        gone = (np.rint(both / step) * step - both) ** 2
        # `z` is of the order of one, the constant channel of the order of `ones`.
        return float(gone[:, :-1].sum() + ones**2 * gone[:, -1].sum())

    ones = min((2**k for k in range(input_limit.bit_length())), key=error)
    return replace(layer, weight=np.concatenate([weight, carried / ones], 1)), ones


def _check(layers: Sequence[FloatLayer], scale_channels: int, head: str, rows: int, scale_bounds: Float | None) -> None:
    """Raises CalibrationError for arguments that contradict each other."""
    if not layers:
        raise CalibrationError("no layers")
    for i, layer in enumerate(layers):
        if layer.activation == "leaky_relu" and not 0 < layer.slope < 1:
            raise CalibrationError(f"h_s/conv{i}: leaky_relu has slope {layer.slope}, not one in (0, 1)")
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise CalibrationError(f"h_s/conv{i}: a weight or bias is not finite")
    last = layers[-1]
    outputs = len(last.bias) // last.upsample**2
    if outputs not in (scale_channels, 2 * scale_channels):
        raise CalibrationError(f"the last layer yields {outputs} channels, not {scale_channels} or twice as many")
    if last.activation != "none" and (last.activation != "relu" or outputs != scale_channels):
        raise CalibrationError(f"the last layer cannot end in {last.activation} with means among its outputs")
    if head not in ("row", "linear") or (head == "linear") != (scale_bounds is not None):
        raise CalibrationError("head 'linear' needs scale_bounds, head 'row' has none")
    if not 2 <= rows <= 256:
        raise CalibrationError(f"{rows} rows are not 2 to 256")
    if scale_bounds is not None and (len(scale_bounds) != rows - 1 or np.any(np.diff(scale_bounds) <= 0)):
        raise CalibrationError(f"scale_bounds are not {rows - 1} ascending values")
