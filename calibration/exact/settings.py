"""Settings of `make_integer`: the meaning of the outputs, the widths of the integers, the limit of accumulators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ugicm.calibration.exact.layers import CalibrationError, FloatLayer
from ugicm.calibration.exact.ranges import Float, default_scales
from ugicm.runtime.exact import EXACT_LIMIT


@dataclass(frozen=True)
class Settings:
    """The settings of `make_integer`.

    Attributes:
        scale_channels: M; the last layer yields so many scales, then as many means or none.
        head: "row", scale channels are fractional scale indexes, to be rounded; "linear", they are standard
            deviations.
        rows: length of the scale table, 2 to 256.
        scales: float (rows,), the table's standard deviations; by default log-spaced from 0.11 to 256.
        scale_bounds: float (rows - 1,), ascending, for head "linear": the index of a standard deviation is
            the number of bounds below it.
        input_limit: `z` lies in [-input_limit, input_limit].
        weight_bits: of every layer but the last, 2 to 11. 8 need kernels that do not add pairs of uint8 × int8
            products in 16 bits: the runtime asks for such; 7 are exact in any.
        head_weight_bits: of the last layer, 2 to 11. Its outputs are wider than 8 bits, so that no int8 kernel
            serves it.
        activation_bits: of hidden activations, 2 to 11; at most 8 for int8 kernels.
        mean_fraction_bits: fraction bits of means; fewer where twice the samples' range needs it.
        scale_fraction_bits: fraction bits of standard deviations, for head "linear".
        limit: every accumulator stays below it, at most 2^24, where fp32 ends; the rest is head-room.
    """

    scale_channels: int
    head: Literal["row", "linear"] = "row"
    rows: int = 64
    scales: Float | None = None
    scale_bounds: Float | None = None
    input_limit: int = 127
    weight_bits: int = 8
    head_weight_bits: int = 10
    activation_bits: int = 8
    mean_fraction_bits: int = 6
    scale_fraction_bits: int = 8
    limit: int = 2**23

    def __post_init__(self) -> None:
        """Raises CalibrationError for settings that contradict each other."""
        if self.head not in ("row", "linear") or (self.head == "linear") != (self.scale_bounds is not None):
            raise CalibrationError("head 'linear' needs scale_bounds, head 'row' has none")
        if not 2 <= self.rows <= 256:
            raise CalibrationError(f"{self.rows} rows are not 2 to 256")
        bounds = self.scale_bounds
        if bounds is not None and (len(bounds) != self.rows - 1 or np.any(np.diff(bounds) <= 0)):
            raise CalibrationError(f"scale_bounds are not {self.rows - 1} ascending values")
        if not all(2 <= bits <= 11 for bits in (self.weight_bits, self.head_weight_bits, self.activation_bits)):
            raise CalibrationError("weights and activations take 2 to 11 bits")
        if not 0 < self.limit <= EXACT_LIMIT:
            raise CalibrationError(f"limit {self.limit} lies beyond 2^24, where fp32 stops being exact")

    @property
    def log_scales(self) -> Float:
        """Natural logarithms of the table's standard deviations, float64 (rows,)."""
        return np.log(default_scales(self.rows) if self.scales is None else np.asarray(self.scales, np.float64))

    def check(self, layers: Sequence[FloatLayer]) -> None:
        """Raises CalibrationError for layers that are malformed or do not end in these outputs."""
        if not layers:
            raise CalibrationError("no layers")
        for i, layer in enumerate(layers):
            if layer.activation == "leaky_relu" and not 0 < layer.slope < 1:
                raise CalibrationError(f"h_s/conv{i}: leaky_relu has slope {layer.slope}, not one in (0, 1)")
            if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
                raise CalibrationError(f"h_s/conv{i}: a weight or bias is not finite")
        last, m = layers[-1], self.scale_channels
        outputs = len(last.bias) // last.upsample**2
        if outputs not in (m, 2 * m):
            raise CalibrationError(f"the last layer yields {outputs} channels, not {m} or twice as many")
        if last.activation != "none" and (last.activation != "relu" or outputs != m):
            raise CalibrationError(f"the last layer cannot end in {last.activation} with means among its outputs")
