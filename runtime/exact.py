"""The exact network: an integer hyper-synthesis `h_s`, `z` to scale indexes and means, the same on every machine.

A layer is a convolution of integers, then ``v = clip(round_half_even(acc * 2^-shift), low, high)``, then
optionally a table (leaky ReLU and such), then a pixel shuffle; ReLU is ``low = 0``. The largest accumulator
that any legal input can cause follows from the weights and the clip ranges alone (`ExactNetwork.bounds`).
Where it stays below 2^24, fp32 represents every partial sum in whatever order a library adds: any fp32 direct
or matrix-product convolution gives these integers; `docs/exactness.md` says what else does.

After Ballé, Johnston and Minnen, "Integer networks for data compression with latent-variable models", ICLR 2019.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.errors import BundleError, require

EXACT_LIMIT = 2**24  # fp32 holds every integer of smaller magnitude

_SCALARS = ("scale_channels", "mean_channels", "mean_fraction_bits", "input_limit", "ones")
_VECTORS = {"bias": np.int32, "shift": np.int8, "low": np.int32, "high": np.int32}


@dataclass(frozen=True)
class ExactLayer:
    """One integer layer.

    Attributes:
        weight: int8 or int16 (O, I, k, k), k odd; stride 1, zero padding k // 2.
        bias: int32 (O,), in units of the accumulator.
        shift: int8 (O,), -24..24: the accumulator is multiplied by 2^-shift.
        low, high: int32 (O,), the range a value is clipped to.
        upsample: 1, or 2 for a pixel shuffle at the end: channel 4c + 2i + j goes to channel c, row i, column j.
        table: int16 (high - low + 1,) or None. A value v becomes table[v - low]; all channels share low and high.
    """

    weight: NDArray[np.signedinteger]
    bias: NDArray[np.int32]
    shift: NDArray[np.int8]
    low: NDArray[np.int32]
    high: NDArray[np.int32]
    upsample: int = 1
    table: NDArray[np.int16] | None = None

    def __post_init__(self) -> None:
        w, low, high = self.weight, self.low, self.high
        square = w.ndim == 4 and w.shape[2] == w.shape[3] and w.shape[2] % 2 == 1
        fits = square and w.dtype in (np.int8, np.int16)
        require(fits, f"weights {w.dtype} {w.shape} are not int8 or int16 (O, I, k, k) with k odd")
        require(w.size, f"weights of shape {w.shape} are empty")
        for name, dtype in _VECTORS.items():
            vector = getattr(self, name)
            fits = vector.dtype == dtype and vector.shape == w.shape[:1]
            require(fits, f"{name} {vector.dtype} {vector.shape} is not {np.dtype(dtype)} ({w.shape[0]},)")
        require(np.all(np.abs(self.shift.astype(int)) <= 24), "a shift lies outside -24..24")
        require(np.all(low <= high), "low > high")
        fits = self.upsample in (1, 2) and w.shape[0] % self.upsample**2 == 0
        require(fits, f"{w.shape[0]} channels cannot be upsampled by {self.upsample}")
        if self.table is not None:
            same = np.all(low == low[0]) and np.all(high == high[0])
            require(same, "a layer with a table needs one range for all channels")
            fits = self.table.dtype == np.int16 and self.table.shape == (int(high[0]) - int(low[0]) + 1,)
            require(fits, "the table is not int16 with an entry for each value of low..high")

    @property
    def outputs(self) -> int:
        """Channels after the pixel shuffle."""
        return int(self.weight.shape[0]) // self.upsample**2

    def output_range(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Smallest and largest value of each channel after the pixel shuffle, int64 (outputs,) each."""
        if self.table is not None:
            ends = [np.full(self.outputs, end(self.table), np.int64) for end in (np.min, np.max)]
            return ends[0], ends[1]
        shape = (self.outputs, self.upsample**2)
        return self.low.reshape(shape).min(1).astype(np.int64), self.high.reshape(shape).max(1).astype(np.int64)

    def accumulator_bounds(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
        """Largest magnitude of any partial sum of each output channel, float64 (O,); inputs in low..high, int64 (I,).

        Every product lies between its extremes over [min(low, 0), max(high, 0)] (padding adds the 0), so any subset of
        a channel's products and its bias sums to something between the sums of all negative and all positive extremes.
        """
        # Integers in float64 do not wrap: below 2^53 they are exact, and no sum of magnitudes above comes out below.
        positive = np.maximum(self.weight, 0).sum((2, 3), dtype=np.int64).astype(np.float64)
        negative = np.minimum(self.weight, 0).sum((2, 3), dtype=np.int64).astype(np.float64)
        below, above = np.minimum(low, 0).astype(np.float64), np.maximum(high, 0).astype(np.float64)
        top = positive @ above + negative @ below + np.maximum(self.bias, 0)
        bottom = positive @ below + negative @ above + np.minimum(self.bias, 0)
        return np.maximum(top, -bottom)


@dataclass(frozen=True)
class ExactNetwork:
    """An integer hyper-synthesis.

    Attributes:
        layers: applied in order; the last yields scale_channels + mean_channels channels and has no table.
        scale_channels: M, channels of `y`.
        mean_channels: M, or 0 where the model has no means.
        mean_fraction_bits: a mean is its integer times 2^-mean_fraction_bits.
        input_limit: centred `z` lies in [-input_limit, input_limit].
        ones: where positive, the first layer reads one more input channel, the last, holding this constant (and zeros
            outside the image). It serves models whose float `h_s` saw `z` plus its medians.
        scale_table: uint8 (high + 1,), the scale index of each value of a scale channel; None: the value is the index.
    """

    layers: tuple[ExactLayer, ...]
    scale_channels: int
    mean_channels: int = 0
    mean_fraction_bits: int = 6
    input_limit: int = 127
    ones: int = 0
    scale_table: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        require(self.layers, "no layers")
        for i, (layer, following) in enumerate(pairwise(self.layers)):
            read = following.weight.shape[1]
            require(layer.outputs == read, f"layer {i + 1} reads {read} channels of {layer.outputs}")
        fits = self.z_channels >= 1 and 0 <= self.ones < EXACT_LIMIT and 0 < self.input_limit < 2**15
        require(fits, "no input channels, or ones or input_limit outside its range")
        last, table = self.layers[-1], self.scale_table
        m, means = self.scale_channels, self.mean_channels
        fits = m >= 1 and means in (0, m) and last.outputs == m + means
        require(fits, f"{last.outputs} outputs are not {m} scales and {means} means")
        require(0 <= self.mean_fraction_bits <= 16, "mean_fraction_bits lies outside 0..16")
        require(last.table is None, "the last layer has a table")
        fits = table is None or (table.dtype == np.uint8 and table.ndim == 1)
        require(fits, "the scale table is not a uint8 vector")
        low, high = last.output_range()
        top = 255 if table is None else len(table) - 1
        require(low[:m].min() >= 0 and high[:m].max() <= top, f"a scale channel leaves 0..{top}")

    @property
    def z_channels(self) -> int:
        """Channels of `z`, the constant channel not counted."""
        return int(self.layers[0].weight.shape[1]) - (self.ones > 0)

    def input_ranges(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Smallest and largest value of each input channel of each layer."""
        high = np.full(self.z_channels + (self.ones > 0), self.input_limit, np.int64)
        low = -high
        if self.ones:
            low[-1] = high[-1] = self.ones
        return [(low, high)] + [layer.output_range() for layer in self.layers[:-1]]

    def bounds(self) -> dict[str, int]:
        """The proof: each layer's largest possible accumulator, by its name in the ONNX graph."""
        ranges = zip(self.layers, self.input_ranges(), strict=True)
        return {f"h_s/conv{i}": int(a.accumulator_bounds(*ends).max()) for i, (a, ends) in enumerate(ranges)}

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """The arrays that a bundle stores; `from_arrays` reads them back."""
        arrays: dict[str, NDArray[np.generic]] = {name: np.asarray(getattr(self, name), "<i4") for name in _SCALARS}
        arrays |= {} if self.scale_table is None else {"scale_table": self.scale_table}
        for i, layer in enumerate(self.layers):
            arrays |= {f"layer{i}_{name}": getattr(layer, name) for name in ("weight", *_VECTORS)}
            arrays[f"layer{i}_upsample"] = np.asarray(layer.upsample, "<i4")
            arrays |= {} if layer.table is None else {f"layer{i}_table": layer.table}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> ExactNetwork:
        """The network of stored arrays, its structure and its proof checked again.

        Raises BundleError: arrays missing, unknown, contradictory, of a wrong type or shape, a bound of 2^24 or more.
        """
        rest = {name: np.asarray(arrays[name]) for name in arrays}
        try:
            scalars = {name: _scalar(rest, name) for name in _SCALARS}
            scale_table = rest.pop("scale_table", None)
            layers: list[ExactLayer] = []
            while not layers or f"layer{len(layers)}_weight" in rest:
                head = f"layer{len(layers)}_"
                parts = {name: rest.pop(head + name) for name in ("weight", *_VECTORS)}
                upsample, table = _scalar(rest, head + "upsample"), rest.pop(head + "table", None)
                layers.append(ExactLayer(**parts, upsample=upsample, table=table))  # type: ignore[arg-type]
            require(not rest, f"unknown array {min(rest, default='')!r}")
            network = cls(tuple(layers), scale_table=scale_table, **scalars)  # type: ignore[arg-type]
        except KeyError as error:
            raise BundleError(f"exact network: array {error} is missing; export the bundle again") from None
        except ValueError as error:
            raise BundleError(f"exact network: {error}; export the bundle again") from None
        for name, bound in network.bounds().items():
            if bound >= EXACT_LIMIT:
                raise BundleError(f"exact network: {name} can sum to {bound}; fp32 is exact below 2^24")
        return network

    def digest(self) -> bytes:
        """SHA-256 (32 bytes) of what the network computes: of every array's name, shape and values."""
        digest = hashlib.sha256(b"exact-network-1")
        for name, array in sorted(self.to_arrays().items()):
            digest.update(f"{name}{array.shape}".encode())
            digest.update(array.astype("<i4").tobytes())
        return digest.digest()


def _scalar(arrays: dict[str, NDArray[np.generic]], name: str) -> int:
    """Takes one stored integer out of the arrays."""
    array = arrays.pop(name)
    require(array.shape == () and np.issubdtype(array.dtype, np.integer), f"{name} is not one integer")
    return int(array)
