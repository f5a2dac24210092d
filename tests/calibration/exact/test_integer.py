"""Post-training quantisation: close to the float network, and proved."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from ugicm.calibration.exact.integer import CalibrationError, FloatLayer, Settings, float_run, make_integer
from ugicm.calibration.exact.layers import correct_bias, quantise
from ugicm.calibration.exact.ranges import default_scales, excess_bits, prior_samples
from ugicm.runtime import exact_reference
from ugicm.runtime.exact import ExactNetwork


def hyper_synthesis(
    seed: int, activation: str = "relu", means: bool = True, final: str = "none", gain: float = 1.0
) -> list[FloatLayer]:
    """8 channels of `z` to 6 of `y`; hidden channels differ a hundredfold, as trained ones do."""
    rng = np.random.default_rng(seed)

    def layer(inputs: int, outputs: int, kernel: int, activation: str, upsample: int) -> FloatLayer:
        o = outputs * upsample**2
        weight = rng.standard_normal((o, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2)
        weight *= np.repeat(10 ** rng.uniform(-1, 1, outputs), upsample**2)[:, None, None, None]
        return FloatLayer(
            weight.astype(np.float32),
            rng.standard_normal(o).astype(np.float32) * 0.3,
            activation,  # type: ignore[arg-type]
            upsample=upsample,
        )

    first, second = layer(8, 16, 3, activation, 2), layer(16, 16, 3, activation, 2)
    last = layer(16, 12 if means else 6, 1, final, 1)
    calm = np.full(len(last.bias), 0.3 * gain)
    last = last.scaled(calm / np.abs(last.weight).mean((1, 2, 3)) / 16)
    bias = last.bias.copy()
    bias[:6] = 20.0 if gain == 1.0 else 1.0
    return [first, second, FloatLayer(last.weight, bias, last.activation)]


def laplacian(seed: int, n: int = 24, size: tuple[int, int] = (4, 4)) -> np.ndarray:
    return np.rint(np.random.default_rng(seed).laplace(0, 2, (n, 8, *size))).astype(np.int32)


def excess(network: ExactNetwork, reference: np.ndarray, z: np.ndarray) -> float:
    """Bits a symbol that rows and means of the network cost over the float network's own."""
    log_scales = np.log(default_scales())
    index, means = exact_reference.run(network, z)
    assert means is not None
    log_reference = np.interp(reference[:, :6], np.arange(64), log_scales)
    ours = excess_bits(log_reference, reference[:, 6:], log_scales[index], means * 2.0**-network.mean_fraction_bits)
    rounded = log_scales[np.clip(np.rint(reference[:, :6]), 0, 63).astype(int)]
    return float((ours - excess_bits(log_reference, reference[:, 6:], rounded, reference[:, 6:])).mean())


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "none"])
@pytest.mark.parametrize("seed", [0, 1])
def test_quantising_costs_next_to_nothing(activation: str, seed: int) -> None:
    layers = hyper_synthesis(seed, activation)
    z = laplacian(seed + 10)
    reference = float_run(layers, z)
    assert np.ptp(reference[:, :6]) > 5, "the test needs rows that vary"
    coarse = make_integer(layers, laplacian(seed), Settings(6, activation_bits=4, weight_bits=4))
    usual = make_integer(layers, laplacian(seed), Settings(6))
    fine = make_integer(layers, laplacian(seed), Settings(6, activation_bits=11, weight_bits=9))
    costs = [excess(network, reference, z) for network in (fine, usual, coarse)]
    assert costs[0] < 3e-4 and costs[1] < 5e-3 and costs[1] < costs[2], costs
    index, means = exact_reference.run(usual, z)
    assert means is not None
    assert np.abs(index - np.clip(reference[:, :6], 0, 63)).mean() < 0.35
    assert np.abs(means / 64 - reference[:, 6:]).mean() < 0.08


def test_leaky_relu_is_a_table() -> None:
    layers = hyper_synthesis(0, "leaky_relu")
    network = make_integer(layers, laplacian(0), Settings(6, activation_bits=10))
    for layer in network.layers[:-1]:
        table, low = layer.table, int(layer.low[0])
        assert table is not None and low < 0
        assert np.array_equal(table[-low:], np.arange(int(layer.high[0]) + 1))
        assert np.array_equal(table[:-low], np.rint(np.arange(low, 0) * 0.01))
        assert int(table.max()) - int(table.min()) <= 1023
    assert network.layers[-1].table is None


def test_medians_are_served_exactly_at_borders() -> None:
    layers = hyper_synthesis(2)
    medians = np.random.default_rng(0).uniform(-8, 8, 8)
    z = laplacian(3)
    reference = float_run(layers, z, medians)
    network = make_integer(layers, laplacian(1), Settings(6, weight_bits=9, activation_bits=10), medians)
    assert network.ones > 0 and network.z_channels == 8
    index, _ = exact_reference.run(network, z)
    wrong = np.abs(index - np.clip(reference[:, :6], 0, 63))
    border = np.ones(wrong.shape[2:], bool)
    border[4:-4, 4:-4] = False
    assert wrong[:, :, border].mean() < 0.3 and wrong.max() < 2


@pytest.mark.parametrize("final", ["none", "relu"])
def test_a_linear_head_gives_the_indexes_of_its_bounds(final: str) -> None:
    layers = hyper_synthesis(4, means=False, final=final, gain=0.3)
    scales = default_scales()
    z = laplacian(5)
    network = make_integer(
        layers,
        laplacian(6),
        Settings(6, head="linear", scale_bounds=scales[:-1], weight_bits=9, activation_bits=11),
    )
    index, means = exact_reference.run(network, z)
    assert means is None
    reference = float_run(layers, z)
    expected = (np.maximum(reference, 0.11)[..., None] > scales[:-1]).sum(-1)
    assert len(np.unique(expected)) > 10
    wrong = np.abs(index.astype(int) - expected)
    assert wrong.mean() < 0.2 and np.quantile(wrong, 0.99) <= 1


def test_the_scale_table_is_compressais() -> None:
    """Every value of a scale channel gets the index that GaussianConditional.build_indexes gives it."""
    torch = pytest.importorskip("torch")
    if importlib.util.find_spec("compressai") is None:
        pytest.skip("needs compressai")
    from ugicm.models.entropy import compressai_module

    scales = default_scales()
    conditional = compressai_module("entropy_models").GaussianConditional(scales.tolist())
    layers = hyper_synthesis(4, means=False, gain=0.3)
    bounds = conditional.scale_table[:-1].double().numpy()
    network = make_integer(layers, laplacian(6), Settings(6, head="linear", scale_bounds=bounds))
    assert network.scale_table is not None
    values = torch.arange(len(network.scale_table)) / 256
    assert np.array_equal(conditional.build_indexes(values).numpy(), network.scale_table)
    assert network.scale_table[-1] == 63 and network.scale_table[0] == 0


def test_a_value_on_a_bound_lies_below_it() -> None:
    bounds = np.arange(1, 64) / 4
    layers = hyper_synthesis(4, means=False, gain=0.3)
    network = make_integer(
        layers,
        laplacian(6),
        Settings(6, head="linear", scale_bounds=bounds, scales=np.arange(1, 65) / 4),
    )
    assert network.scale_table is not None
    assert network.scale_table[[0, 63, 64, 65, 128, 129]].tolist() == [0, 0, 0, 1, 1, 2]


def test_biases_take_away_what_rounded_weights_add_on_average() -> None:
    rng = np.random.default_rng(0)
    layer = FloatLayer(rng.uniform(-3, 3, (4, 8, 3, 3)), rng.uniform(-9, 9, 4))
    x = np.rint(rng.uniform(0, 50, (4, 8, 6, 6)))
    inputs = np.zeros(8, np.int64), np.full(8, 50, np.int64)
    low, high = np.full(4, -(2**15), np.int32), np.full(4, 2**15, np.int32)
    limit = 2**20
    plain = quantise(layer, low, high, None, inputs, bits=4, limit=limit, name="h_s/conv0")
    mean = exact_reference.accumulate(layer, x).mean((0, 2, 3))
    fixed, accumulated = correct_bias(plain, exact_reference.accumulate(plain, x), mean, inputs, limit)
    assert np.array_equal(accumulated, exact_reference.accumulate(fixed, x))
    unit = np.exp2(-plain.shift.astype(float))
    before, after = (np.abs(exact_reference.accumulate(a, x).mean((0, 2, 3)) * unit - mean) for a in (plain, fixed))
    assert np.all(after <= unit / 2 + 1e-9) and before.max() > 10 * after.max()
    tight = int(plain.accumulator_bounds(*inputs).min())
    kept, _ = correct_bias(plain, exact_reference.accumulate(plain, x), mean + 1e5, inputs, tight)
    assert np.array_equal(kept.bias, plain.bias), "no correction beyond the limit"


def test_means_get_fewer_fraction_bits_where_their_range_needs_it() -> None:
    layers = hyper_synthesis(0)
    last = layers[-1]
    factor = np.ones(12)
    factor[6:] = 400 / np.abs(float_run(layers, laplacian(0))[:, 6:]).max()
    network = make_integer([*layers[:-1], last.scaled(factor)], laplacian(0), Settings(6))
    assert network.mean_fraction_bits == 5
    assert make_integer(layers, laplacian(0), Settings(6)).mean_fraction_bits == 6


def test_every_network_made_is_proved_and_deterministic() -> None:
    layers = hyper_synthesis(0)
    made = [make_integer(layers, laplacian(0), Settings(6, weight_bits=8)) for _ in range(2)]
    assert made[0].digest() == made[1].digest()
    assert all(bound < 2**23 for bound in made[0].bounds().values())
    assert ExactNetwork.from_arrays(made[0].to_arrays()).digest() == made[0].digest()
    assert max(int(np.abs(layer.weight).max()) for layer in made[0].layers[:-1]) <= 127


def test_default_weights_fit_int8() -> None:
    network = make_integer(hyper_synthesis(1), laplacian(0), Settings(6))
    assert all(layer.weight.dtype == np.int8 for layer in network.layers[:-1])


@pytest.mark.parametrize(("layer", "input_limit"), [(0, 127), (1, 15)])
def test_a_bound_out_of_reach_names_the_layer(layer: int, input_limit: int) -> None:
    with pytest.raises(CalibrationError, match=f"h_s/conv{layer}: an accumulator"):
        make_integer(hyper_synthesis(0), laplacian(0), Settings(6, input_limit=input_limit, limit=2**14))


def test_channels_that_never_fire_do_no_harm() -> None:
    layers = hyper_synthesis(0)
    weight, bias = layers[0].weight.copy(), layers[0].bias.copy()
    weight[:8], bias[:8] = 0, -5
    weight[8:12], bias[8:12] = 1e-9, 3
    layers[0] = FloatLayer(weight, bias, "relu", upsample=2)
    network = make_integer(layers, laplacian(0), Settings(6))
    assert excess(network, float_run(layers, laplacian(1)), laplacian(1)) < 2e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scale_channels": 5}, "12 channels"),
        ({"head": "linear"}, "scale_bounds"),
        ({"scale_bounds": np.arange(63.0)}, "scale_bounds"),
        ({"head": "linear", "scale_bounds": np.arange(62.0)}, "63 ascending"),
        ({"weight_bits": 12}, "bits"),
        ({"limit": 2**25}, "2\\^24"),
        ({"rows": 300}, "rows"),
    ],
)
def test_contradictory_arguments_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(CalibrationError, match=words):
        make_integer(hyper_synthesis(0), laplacian(0), Settings(**{"scale_channels": 6, **changes}))


def test_prior_samples_keep_each_channels_distribution() -> None:
    probabilities = np.zeros((2, 7))
    probabilities[0, 2:5] = 0.25, 0.5, 0.25
    probabilities[1, 6] = 1.0
    z = prior_samples(probabilities, 400, (3, 3), limit=2, seed=1)
    assert z.shape == (400, 2, 3, 3) and z.dtype == np.int32
    assert np.all(z[:, 1] == 2), "clipped to the limit"
    shares = [(z[:, 0] == n).mean() for n in (-1, 0, 1)]
    assert np.allclose(shares, [0.25, 0.5, 0.25], atol=0.03)
    assert (
        np.corrcoef(z[::2, 0, 0, 0], z[::2, 0, 2, 2])[0, 1]
        > 0.5
        > np.corrcoef(z[1::2, 0, 0, 0], z[1::2, 0, 2, 2])[0, 1]
    )
