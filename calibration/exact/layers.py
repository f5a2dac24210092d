"""One layer's way from floats to integers: output ranges, exponents of weights, correction of biases."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ugicm.calibration.exact.ranges import Float
from ugicm.runtime.exact import ExactLayer
from ugicm.runtime.exact_reference import pixel_shuffle

_LARGEST_SHIFT = 24
_SPARE_BITS = 3  # what a channel's weights may give up so that its accumulator stays below the limit
_FLOOR = 0.02  # of a layer's largest range: channels that samples hardly excite get at least this
# Small channels scaled up to a full range of their own need small weights in the next layer, which round
# coarsely; one common range rounds the small channels' values coarsely instead. The geometric middle costs
# least of the three.
_BALANCE = 0.5


class CalibrationError(ValueError):
    """A network that cannot be turned into integers as asked; the message says where and why."""


class UnprovableError(CalibrationError):
    """A network that would do as integers but for a bound: no bits that are allowed leave a layer a proof."""


@dataclass(frozen=True)
class FloatLayer:
    """A float layer: convolution (stride 1, zero padding k // 2), activation, pixel shuffle.

    Attributes:
        weight: float (O, I, k, k), k odd.
        bias: float (O,).
        activation: what follows the convolution; "none" or "relu" in a last layer.
        slope: of "leaky_relu" below zero, in (0, 1).
        upsample: 1 or 2, the pixel shuffle's factor.
    """

    weight: NDArray[np.floating]
    bias: NDArray[np.floating]
    activation: Literal["relu", "leaky_relu", "none"] = "none"
    slope: float = 0.01
    upsample: int = 1

    @property
    def negative_slope(self) -> float:
        """Slope of the activation below zero."""
        return {"relu": 0.0, "leaky_relu": self.slope, "none": 1.0}[self.activation]

    def accumulate(self, x: Float) -> Float:
        """Convolution and bias in float64: (N, I, h, w) to (N, O, h, w)."""
        n, _, h, w = x.shape
        size = self.weight.shape[2]
        padded = np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
        taps = np.ascontiguousarray(self.weight.transpose(2, 3, 0, 1), np.float64)  # a matrix a tap, for BLAS
        out = np.zeros((n, len(self.bias), h * w))
        for i in range(size):
            for j in range(size):
                out += taps[i, j] @ padded[:, :, i : i + h, j : j + w].reshape(n, -1, h * w)
        return out.reshape(n, -1, h, w) + self.bias[:, None, None].astype(np.float64)

    def activate(self, accumulated: Float) -> Float:
        """Activation and pixel shuffle: (N, O, h, w) to (N, O / upsample^2, upsample * h, upsample * w)."""
        active = np.where(accumulated < 0, self.negative_slope * accumulated, accumulated)
        return pixel_shuffle(active, self.upsample)

    def scaled(self, outputs: Float) -> FloatLayer:
        """The layer with each output channel (before the shuffle) times a factor, (O,)."""
        weight = self.weight.astype(np.float64) * outputs[:, None, None, None]
        return replace(self, weight=weight, bias=self.bias.astype(np.float64) * outputs)

    def reading(self, scaled_inputs: Float) -> FloatLayer:
        """The layer for inputs that come multiplied by a factor, (I,)."""
        return replace(self, weight=self.weight.astype(np.float64) / scaled_inputs[:, None, None])


class Observed(NamedTuple):
    """Statistics of a layer before its activation, over samples.

    Attributes:
        positive, negative: (C,) largest value and largest magnitude below zero, by channel after the shuffle.
    """

    positive: Float
    negative: Float


def observe(accumulated: Float, upsample: int) -> Observed:
    """Statistics of (N, O, h, w) convolution results."""
    top, bottom = (f(accumulated, axis=(0, 2, 3)).reshape(-1, upsample**2) for f in (np.max, np.min))
    return Observed(np.maximum(top.max(1), 0.0), np.maximum(-bottom.min(1), 0.0))


class Range(NamedTuple):
    """How a hidden layer's outputs become integers.

    Attributes:
        factor: (C,) what each channel after the shuffle is multiplied by.
        low, high: what values are clipped to before the table.
        table: int16 (high - low + 1,) or None.
    """

    factor: Float
    low: int
    high: int
    table: NDArray[np.int16] | None


def choose_range(seen: Observed, slope: float, bits: int, headroom: float) -> Range:
    """Ranges for a hidden layer: `bits` for the values after the activation, `headroom` times those seen.

    Args:
        seen: statistics of the layer in float.
        slope: of the activation below zero: 0 for ReLU, 1 for none.
        bits: width of the integers.
        headroom: a channel's clip level over its largest sample.
    """
    reach = np.maximum(seen.positive, slope * seen.negative)
    largest = float(reach.max()) or 1.0
    reach = np.maximum(reach, _FLOOR * largest)
    below = float((slope * seen.negative / reach).max())
    span = 2**bits - 1
    negative = math.ceil(span * below / (1 + below))
    high = span - negative
    factor = high / (headroom * reach**_BALANCE * largest ** (1 - _BALANCE))
    if slope in (0.0, 1.0):
        return Range(factor, -negative, high, None)
    low = -min(int(negative / slope), 2**15)
    values = np.arange(low, high + 1)
    return Range(factor, low, high, np.rint(np.where(values < 0, slope * values, values)).astype(np.int16))


def quantise(
    layer: FloatLayer,
    low: NDArray[np.int32],
    high: NDArray[np.int32],
    table: NDArray[np.int16] | None,
    inputs: tuple[NDArray[np.int64], NDArray[np.int64]],
    *,
    bits: int,
    limit: int,
    name: str,
) -> ExactLayer:
    """Weights and biases as integers, each output channel with the largest exponent that fits.

    Args:
        layer: in units in which inputs and outputs are integers.
        low, high: int32 (O,), clip ranges.
        table: as `ExactLayer` has it.
        inputs: smallest and largest value of each input channel.
        bits: of the weights, sign included.
        limit: every accumulator must stay below it.
        name: of the layer, for the error.

    Raises:
        CalibrationError: the bound reaches the limit even with weights `_SPARE_BITS` shorter.
    """
    largest = np.abs(layer.weight).max((1, 2, 3))
    top = 2 ** (bits - 1) - 1
    exponent = np.full(len(largest), _LARGEST_SHIFT)
    for _ in range(2 * _LARGEST_SHIFT):
        exponent = exponent - ((np.rint(largest * np.exp2(exponent)) > top) & (exponent > -_LARGEST_SHIFT))
    shortest = exponent - _SPARE_BITS
    while True:
        weight = np.rint(layer.weight * np.exp2(exponent)[:, None, None, None])
        # A bias alone may be long where all weights are tiny: it lowers the exponent too, without that being
        # a loss.
        bias = np.clip(np.rint(layer.bias * np.exp2(exponent)), -(2.0**31), 2.0**31 - 1)
        out = ExactLayer(
            weight.astype(np.int8 if bits <= 8 else np.int16),
            bias.astype(np.int32),
            exponent.astype(np.int8),
            low,
            high,
            layer.upsample,
            table,
        )
        bounds = out.accumulator_bounds(*inputs)
        over = bounds >= limit
        if not over.any():
            return out
        failed = over & (exponent <= np.where(np.abs(bias) < limit // 2, shortest, -_LARGEST_SHIFT))
        if failed.any():
            worst = int(bounds[failed].max())
            raise UnprovableError(
                f"{name}: an accumulator can reach {worst}, the limit is {limit}, even with weights "
                f"{_SPARE_BITS} bits short of the {bits} asked; use fewer activation bits"
            )
        exponent = exponent - over


def correct_bias(
    layer: ExactLayer,
    accumulated: Float,
    mean: Float,
    inputs: tuple[NDArray[np.int64], NDArray[np.int64]],
    limit: int,
) -> tuple[ExactLayer, Float]:
    """The layer with biases such that its mean on the samples is the float network's, and its accumulators
    then.

    Weights, rounded once, err the same way everywhere; what they add on average, the bias can take away.

    Args:
        layer: the quantised layer.
        accumulated: (N, O, h, w) its accumulators on the samples.
        mean: (O,) the float network's mean on them before the activation, in units of the layer's outputs.
        inputs: smallest and largest value of each input channel.
        limit: a correction that would bring an accumulator up to it is not made.
    """
    missing = np.rint(mean * np.exp2(layer.shift.astype(np.float64)) - accumulated.mean((0, 2, 3)))
    bias = np.clip(layer.bias + missing, -(2**31), 2**31 - 1).astype(np.int32)
    fits = replace(layer, bias=bias).accumulator_bounds(*inputs) < limit
    bias = np.where(fits, bias, layer.bias)
    change = (bias.astype(np.float64) - layer.bias)[:, None, None]
    return replace(layer, bias=bias), accumulated + change
