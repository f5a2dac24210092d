"""Layers and samples in, an integer network out, with the proof that fp32 computes it exactly.

Rectifiers are positively homogeneous: a hidden channel may be multiplied by any positive factor that the next layer's
weights take back. So every channel gets a range of its own while every requantisation stays a power of two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ugicm.calibration.exact.layers import (
    CalibrationError,
    FloatLayer,
    Observed,
    UnprovableError,
    choose_range,
    correct_bias,
    observe,
    quantise,
)
from ugicm.calibration.exact.ranges import Float, excess_bits
from ugicm.calibration.exact.settings import Settings
from ugicm.runtime import exact_reference
from ugicm.runtime.exact import ExactLayer, ExactNetwork

__all__ = ["HEADROOMS", "CalibrationError", "FloatLayer", "Settings", "UnprovableError", "float_run", "make_integer"]

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
    layers: Sequence[FloatLayer], samples: NDArray[np.integer], settings: Settings, medians: Float | None = None
) -> ExactNetwork:
    """Quantises a float hyper-synthesis after training.

    Weights get a power-of-two scale for each output channel, hidden activations a range for each channel,
    biases what corrects the mean error on the samples. How far ranges reach beyond the samples is decided by
    the bits it costs.

    Args:
        layers: the float network.
        samples: centred integers (N, Nz, h, w), of images or from `ranges.prior_samples`.
        settings: what its outputs mean, and how wide its integers are.
        medians: float (Nz,) where the float network reads `z` plus them, else None.

    Raises:
        UnprovableError: a layer's bound reaches the limit; the message names the layer.
        CalibrationError: the layers do not fit the settings.
    """
    settings.check(layers)
    samples = np.clip(samples, -settings.input_limit, settings.input_limit)
    few = slice(None, None, math.ceil(samples[:, 0].size / _POSITIONS))
    seen = _observe(layers, samples, few, medians)
    inputs = _inputs(layers[0], samples[few], settings, medians)
    outputs = _outputs(seen.outputs, settings)
    builder = _Builder(layers, settings, seen, inputs, outputs)
    return ExactNetwork(
        builder.build(_headrooms(builder))[0],
        settings.scale_channels,
        len(outputs.units) - settings.scale_channels,
        outputs.mean_fraction_bits,
        settings.input_limit,
        inputs.ones,
        outputs.table,
    )


@dataclass(frozen=True)
class _Seen:
    """The float network on the samples.

    Attributes:
        layers: of each layer, the ranges before its activation.
        means: of each layer, (O,) the mean before its activation on a few samples.
        outputs: (N, outputs, H, W) on all samples.
        few: the few samples that the choice of ranges and the correction of biases look at.
    """

    layers: tuple[Observed, ...]
    means: tuple[Float, ...]
    outputs: Float
    few: slice


@dataclass(frozen=True)
class _Inputs:
    """The integer network's way in.

    Attributes:
        layer: the first layer, with one more input channel where medians are to be carried.
        ones: the constant that this channel holds; 0 without one.
        values: (N, I, h, w) a few samples, the constant channel included.
        ends: smallest and largest value of each input channel.
    """

    layer: FloatLayer
    ones: int
    values: Float
    ends: tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class _Outputs:
    """The integer network's way out, by output channel after the shuffle.

    Attributes:
        units: (outputs,) what a float output is multiplied by to become an integer.
        low, high: int32 (outputs,), clip ranges.
        mean_fraction_bits: fraction bits of means.
        table: uint8, the row of each integer standard deviation, for head "linear"; else None.
    """

    units: Float
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    mean_fraction_bits: int
    table: NDArray[np.uint8] | None


@dataclass(frozen=True)
class _Builder:
    """Builds the integer network for given headrooms, one a hidden layer, and tells what it costs."""

    layers: Sequence[FloatLayer]
    settings: Settings
    seen: _Seen
    inputs: _Inputs
    outputs: _Outputs

    def build(self, headrooms: Sequence[float]) -> tuple[tuple[ExactLayer, ...], Float]:
        """The integer layers, and their outputs on the few samples.

        Raises:
            CalibrationError: a layer's bound reaches the limit.
        """
        done, x, ends = list[ExactLayer](), self.inputs.values, self.inputs.ends
        layer = self.inputs.layer
        for i, mean in enumerate(self.seen.means):
            made, factor = self._layer(i, layer, ends, headrooms)
            made, accumulated = correct_bias(
                made, exact_reference.accumulate(made, x), mean * factor, ends, self.settings.limit
            )
            if i + 1 < len(self.layers):
                layer = self.layers[i + 1].reading(factor[:: layer.upsample**2])
            done.append(made)
            x, ends = exact_reference.requantise(made, accumulated), made.output_range()
        return tuple(done), x

    def _layer(
        self,
        i: int,
        layer: FloatLayer,
        ends: tuple[NDArray[np.int64], NDArray[np.int64]],
        headrooms: Sequence[float],
    ) -> tuple[ExactLayer, Float]:
        """Layer `i`, which reads integers within `ends`, and the factor of each of its output channels, (O,)."""
        settings, outputs, shuffled = self.settings, self.outputs, layer.upsample**2
        if i < len(headrooms):
            r = choose_range(self.seen.layers[i], layer.negative_slope, settings.activation_bits, headrooms[i])
            factor, table, bits = np.repeat(r.factor, shuffled), r.table, settings.weight_bits
            low, high = (np.full(len(factor), end, np.int32) for end in (r.low, r.high))
        else:
            factor, table, bits = np.repeat(outputs.units, shuffled), None, settings.head_weight_bits
            low, high = (np.repeat(end, shuffled) for end in (outputs.low, outputs.high))
        scaled, name = layer.scaled(factor), f"h_s/conv{i}"
        return quantise(scaled, low, high, table, ends, bits=bits, limit=settings.limit, name=name), factor

    def cost(self, headrooms: Sequence[float]) -> float:
        """Bits a symbol that the integer network costs on the few samples; infinite where it has no proof."""
        try:
            values = self.build(headrooms)[1]
        except CalibrationError:
            return math.inf
        m, log_scales = self.settings.scale_channels, self.settings.log_scales
        index: NDArray[np.integer] = values[:, :m].astype(np.int64)
        if self.outputs.table is not None:
            index = self.outputs.table[index]
        means = values[:, m:] * 2.0**-self.outputs.mean_fraction_bits
        expected = self.seen.outputs[self.seen.few]
        return float(
            excess_bits(self._log_scales_of(expected[:, :m]), expected[:, m:], log_scales[index], means).mean()
        )

    def _log_scales_of(self, scales: Float) -> Float:
        """Logarithms of the standard deviations that the float network's scale channels stand for."""
        log_scales = self.settings.log_scales
        if self.settings.head == "row":
            return np.interp(scales, np.arange(self.settings.rows), log_scales)
        return np.log(np.clip(scales, *np.exp(log_scales[[0, -1]])))


def _headrooms(builder: _Builder) -> list[float]:
    """For each hidden layer in turn the widest range that costs hardly more than the best."""
    chosen = [HEADROOMS[-1]] * (len(builder.layers) - 1)
    for i in range(len(chosen)):
        costs = [builder.cost([*chosen[:i], h, *chosen[i + 1 :]]) for h in HEADROOMS]
        allowed = min(costs) + _TOLERANCE
        chosen[i] = max(h for h, cost in zip(HEADROOMS, costs, strict=True) if cost <= allowed)
    return chosen


def _observe(layers: Sequence[FloatLayer], samples: NDArray[np.integer], few: slice, medians: Float | None) -> _Seen:
    x, seen, means = _shifted(samples, medians), list[Observed](), list[Float]()
    for layer in layers:
        accumulated = layer.accumulate(x)
        seen.append(observe(accumulated, layer.upsample))
        means.append(accumulated[few].mean((0, 2, 3)))
        x = layer.activate(accumulated)
    return _Seen(tuple(seen), tuple(means), x, few)


def _outputs(x: Float, settings: Settings) -> _Outputs:
    """Units and clip ranges of the last layer, whose outputs on the samples are `x`, (N, outputs, H, W)."""
    count, m, mean_fraction_bits = x.shape[1], settings.scale_channels, settings.mean_fraction_bits
    largest = 2 * float(np.abs(x[:, m:]).max(initial=0.0))
    while mean_fraction_bits and largest * 2**mean_fraction_bits >= 2**15:
        mean_fraction_bits -= 1
    units = np.ones(count)
    units[m:] = 2.0**mean_fraction_bits
    low, high = np.full(count, -(2**15), np.int32), np.full(count, 2**15 - 1, np.int32)
    low[:m], high[:m] = 0, settings.rows - 1
    if settings.scale_bounds is None:
        return _Outputs(units, low, high, mean_fraction_bits, None)
    bounds, step = np.asarray(settings.scale_bounds, np.float64), 2.0**-settings.scale_fraction_bits
    units[:m] = 1 / step
    high[:m] = top = math.ceil(bounds[-1] / step) + 1
    table = np.searchsorted(bounds, np.arange(top + 1) * step, side="left").astype(np.uint8)
    return _Outputs(units, low, high, mean_fraction_bits, table)


def _inputs(first: FloatLayer, samples: NDArray[np.integer], settings: Settings, medians: Float | None) -> _Inputs:
    values = samples.astype(np.float64)
    extent = np.full(values.shape[1], settings.input_limit, np.int64)
    if medians is None:
        return _Inputs(first, 0, values, (-extent, extent))
    first, ones = _with_ones(first, np.asarray(medians, np.float64), settings.weight_bits, settings.input_limit)
    values = np.concatenate([values, np.full_like(values[:, :1], ones)], 1)
    return _Inputs(first, ones, values, (np.append(-extent, ones), np.append(extent, ones)))


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
