"""The integer reference, its proof and its storage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibration.exact.networks import random_network, random_z
from ugicm.runtime import exact_reference
from ugicm.runtime.errors import BundleError
from ugicm.runtime.exact import ExactLayer, ExactNetwork
from ugicm.runtime.exact_reference import pixel_shuffle


def slow_layer(layer: ExactLayer, x: np.ndarray) -> np.ndarray:
    """One layer by Python integers, pixel by pixel, from the definition."""
    n, _, h, w = x.shape
    o, inputs, k, _ = layer.weight.shape
    out = np.zeros((n, o, h, w), np.int64)
    for b, c, i, j in np.ndindex(n, o, h, w):
        acc = int(layer.bias[c])
        for s, p, q in np.ndindex(inputs, k, k):
            r, t = i + p - k // 2, j + q - k // 2
            if 0 <= r < h and 0 <= t < w:
                acc += int(layer.weight[c, s, p, q]) * int(x[b, s, r, t])
        shift = int(layer.shift[c])
        if shift > 0:
            whole, rest = acc >> shift, acc & ((1 << shift) - 1)
            half = 1 << (shift - 1)
            acc = whole + (rest > half or (rest == half and whole % 2 == 1))
        else:
            acc <<= -shift
        v = min(max(acc, int(layer.low[c])), int(layer.high[c]))
        out[b, c, i, j] = v if layer.table is None else layer.table[v - int(layer.low[c])]
    u = layer.upsample
    shuffled = np.zeros((n, o // u**2, h * u, w * u), np.int64)
    for c, i, j in np.ndindex(o // u**2, u, u):
        shuffled[:, c, i::u, j::u] = out[:, c * u**2 + i * u + j]
    return shuffled


@pytest.mark.parametrize(
    "options",
    [{}, {"ones": True}, {"table": True}, {"linear": True}, {"signed": True, "activation_bits": 11}],
)
def test_run_is_the_definition(options: dict) -> None:
    network = random_network(3, **options)
    z = random_z(4, network, (1, 2, 3))
    x = z.astype(np.int64)
    if network.ones:
        x = np.concatenate([x, np.full_like(x[:, :1], network.ones)], 1)
    for layer in network.layers:
        x = slow_layer(layer, x)
    index, means = exact_reference.run(network, z)
    scales = x[:, :4] if network.scale_table is None else network.scale_table[x[:, :4]]
    assert index.dtype == np.uint8 and means is not None and means.dtype == np.int32
    assert np.array_equal(index, scales) and np.array_equal(means, x[:, 4:])
    assert len(np.unique(index)) > 3


def test_rounding_is_half_to_even() -> None:
    layer = ExactLayer(
        np.ones((1, 1, 1, 1), np.int8), *(np.asarray([v], d) for v, d in ((0, np.int32), (1, np.int8))),
        np.asarray([-9], np.int32), np.asarray([9], np.int32),
    )  # fmt: skip
    x = np.asarray([-5, -3, -1, 1, 3, 5, 40], np.float64).reshape(1, 1, 1, 7)
    assert exact_reference.run_layer(layer, x).ravel().tolist() == [-2, -2, 0, 0, 2, 2, 9]


def test_pixel_shuffle_is_torchs() -> None:
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, 12, 3, 5))
    assert np.array_equal(pixel_shuffle(x, 2), torch.pixel_shuffle(torch.from_numpy(x), 2).numpy())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), table=st.booleans(), ones=st.booleans(), signed=st.booleans())
def test_no_input_exceeds_the_bound(seed: int, table: bool, ones: bool, signed: bool) -> None:
    """The worst input of the first layer reaches its bound, and no later accumulator exceeds its own."""
    network = random_network(seed, table=table, ones=ones, signed=signed)
    first, bounds = network.layers[0], network.bounds()
    low, high = network.input_ranges()[0]
    taps = first.weight.astype(np.int64)
    bound = first.accumulator_bounds(low, high)
    reached = []
    for sign in (1, -1):
        best = np.where(sign * taps > 0, high[:, None, None], np.minimum(low, 0)[:, None, None])
        best = np.where((sign * taps > 0) | (low[:, None, None] < 0), best, 0)
        reached.append((sign * taps * best).sum((1, 2, 3)) + np.maximum(sign * first.bias.astype(np.int64), 0))
    assert np.array_equal(np.maximum(*reached), bound)
    assert bounds["h_s/conv0"] == bound.max()

    x = random_z(seed, network, (1, 3, 3)).astype(np.float64)
    if ones:
        x = np.concatenate([x, np.full_like(x[:, :1], network.ones)], 1)
    for layer, accumulator in zip(network.layers, bounds.values(), strict=True):
        assert np.abs(exact_reference.accumulate(layer, x)).max() <= accumulator
        x = exact_reference.run_layer(layer, x)


def test_z_outside_the_limit_is_refused() -> None:
    network = random_network(0)
    with pytest.raises(ValueError, match="127"):
        exact_reference.run(network, np.full((1, 5, 1, 1), 128))
    with pytest.raises(ValueError, match="shape"):
        exact_reference.run(network, np.zeros((1, 6, 1, 1), np.int32))


@pytest.mark.parametrize("options", [{}, {"ones": True, "table": True, "linear": True}, {"means": False}])
def test_arrays_round_trip(options: dict, tmp_path) -> None:
    network = random_network(1, **options)
    np.savez(tmp_path / "exact.npz", **network.to_arrays())
    with np.load(tmp_path / "exact.npz", allow_pickle=False) as stored:
        again = ExactNetwork.from_arrays(stored)
    z = random_z(2, network, (2, 3, 2))
    for a, b in zip(exact_reference.run(network, z), exact_reference.run(again, z), strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)
    assert again.digest() == network.digest() and len(network.digest()) == 32


def test_the_digest_sees_every_array() -> None:
    network = random_network(1, ones=True, table=True, linear=True)
    arrays = network.to_arrays()
    for name in arrays:
        if name.endswith(("_upsample", "channels")):  # no other value fits the rest
            continue
        changed = dict(arrays)
        changed[name] = arrays[name].copy()
        entry = (0,) * changed[name].ndim
        changed[name][entry] += -1 if name.endswith("_high") else 1
        if name in ("layer0_low", "layer0_high"):  # the table goes with these
            changed["layer0_table"] = np.zeros_like(arrays["layer0_table"])
            changed[name] = arrays[name] + np.int32(1)
            other = "layer0_high" if name == "layer0_low" else "layer0_low"
            changed[other] = arrays[other] + np.int32(1)
        assert ExactNetwork.from_arrays(changed).digest() != network.digest(), name


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("layer0_weight", None, "missing"),
        ("ones", None, "missing"),
        ("layer0_weight", np.zeros((24, 5, 3, 3), np.float32), "weights"),
        ("layer0_weight", np.zeros((24, 5, 2, 2), np.int8), "k odd"),
        ("layer0_weight", np.zeros((24, 4, 3, 3), np.int8), None),
        ("layer1_bias", np.zeros(3, np.int32), "bias"),
        ("layer1_shift", np.full(28, 30, np.int8), "shift"),
        ("layer2_high", np.full(8, 64000, np.int32), "scale channel"),
        ("layer2_low", np.full(8, -1, np.int32), "scale channel"),
        ("mean_channels", np.asarray(3, np.int32), "means"),
        ("input_limit", np.asarray(0, np.int32), "input_limit"),
        ("input_limit", np.asarray(32000, np.int32), "2\\^24"),
        ("layer0_upsample", np.asarray(3, np.int32), "upsampled"),
        ("surprise", np.asarray(3, np.int32), "unknown array 'surprise'"),
    ],
)
def test_damaged_arrays_are_bundle_errors(name: str, value: np.ndarray | None, words: str | None) -> None:
    arrays = random_network(1).to_arrays()
    if value is None:
        del arrays[name]
    else:
        arrays[name] = value
    if words is None:  # one channel of `z` fewer is a network of its own
        assert ExactNetwork.from_arrays(arrays).z_channels == 4
        return
    with pytest.raises(BundleError, match=words):
        ExactNetwork.from_arrays(arrays)
