"""Both graph forms give the reference's integers, under every optimisation."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.calibration.exact.networks import joined, random_layer, random_network, random_z
from ugicm.calibration.exact.emit import to_onnx
from ugicm.runtime import exact_reference
from ugicm.runtime.backends.onnxruntime import LEVELS, session_options
from ugicm.runtime.exact import ExactNetwork


def session(model: onnx.ModelProto, level: str, threads: int = 1, saved: Path | None = None) -> ort.InferenceSession:
    options = session_options(level, threads)
    if saved:
        options.optimized_model_filepath = str(saved)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def assert_same(network: ExactNetwork, model: onnx.ModelProto, sizes: list[tuple[int, int, int]]) -> None:
    for level, threads in itertools.product(LEVELS, (1, 2)):
        running = session(model, level, threads)
        for seed, size in enumerate(sizes):
            z = random_z(seed, network, size)
            index, means = exact_reference.run(network, z)
            outputs = running.run(None, {"z": z.astype(np.float32)})
            assert outputs[0].dtype == np.uint8
            assert np.array_equal(outputs[0], index), (level, threads, size)
            if means is None:
                assert len(outputs) == 1
            else:
                exact = means * 2.0**-network.mean_fraction_bits
                assert outputs[1].dtype == np.float32
                assert np.array_equal(outputs[1], exact), (level, threads, size)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    form=st.sampled_from(["float", "qdq"]),
    table=st.booleans(),
    ones=st.booleans(),
    linear=st.booleans(),
    means=st.booleans(),
    signed=st.booleans(),
    activation_bits=st.sampled_from([6, 8, 8, 10]),
    head_top=st.sampled_from([63, 500]),
    input_limit=st.sampled_from([100, 127, 255]),
)
def test_graphs_are_bit_identical(seed: int, form: str, **options) -> None:
    network = random_network(seed, **options)
    assert all(bound < 2**24 for bound in network.bounds().values())
    assert_same(network, to_onnx(network, form), [(1, 1, 1), (3, 5, 7), (1, 3, 2)])  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["float", "qdq"])
def test_a_wide_network_is_bit_identical(form: str) -> None:
    """Channels enough for blocked kernels."""
    rng, top = np.random.default_rng(0), 127
    network = ExactNetwork(
        (
            random_layer(rng, 32, 64, upsample=2, weight_top=top, reach=127),
            random_layer(rng, 64, 48, upsample=2, weight_top=top),
            joined(
                rng,
                random_layer(rng, 48, 40, kernel=3, high=63, weight_top=500),
                random_layer(rng, 48, 40, kernel=3, low=-(2**15), high=2**15 - 1, weight_top=500),
            ),
        ),
        scale_channels=40,
        mean_channels=40,
    )
    assert all(bound < 2**24 for bound in network.bounds().values())
    assert_same(network, to_onnx(network, form), [(1, 9, 5), (3, 2, 3)])  # type: ignore[arg-type]


def operators(network: ExactNetwork, path: Path) -> collections.Counter[str]:
    session(to_onnx(network, "qdq"), "all", saved=path)
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_qdq_fuses_to_integer_convolutions(tmp_path: Path) -> None:
    found = operators(random_network(1), tmp_path / "a.onnx")
    assert found["QLinearConv"] == 2 and found["Conv"] == 2, "hidden layers in int8, the wide last one in float"
    found = operators(random_network(1, head_top=63, ones=True), tmp_path / "b.onnx")
    assert found["QLinearConv"] == 3 and found["Conv"] == 1, "8-bit scale channels in int8 too"
    found = operators(random_network(1, activation_bits=10), tmp_path / "c.onnx")
    assert found["QLinearConv"] == 0 and found["Conv"] == 4, "nothing fits 8 bits"


@pytest.mark.parametrize("form", ["float", "qdq"])
def test_the_same_network_gives_the_same_bytes(form: str) -> None:
    models = [to_onnx(random_network(5, ones=True), form) for _ in range(2)]  # type: ignore[arg-type]
    assert models[0].SerializeToString() == models[1].SerializeToString()
    assert models[0].ir_version <= 10 and models[0].opset_import[0].version == 20
    names = [node.name for node in models[0].graph.node]
    assert len(names) == len(set(names)) and "h_s/conv0" in names


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'int4'"):
        to_onnx(random_network(0), "int4")  # type: ignore[arg-type]
