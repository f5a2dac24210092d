"""The half-precision pass and the forms of device graphs, in ONNX Runtime."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ugicm import Codec
from ugicm.export.device_graphs import (
    DeviceGraphError,
    bytes_to_symbols,
    casts_outermost,
    device_graphs,
    relative_difference,
)
from ugicm.export.precision import HALF, fold_stored_halves, full_precision, simulated, to_half
from ugicm.export.sample_inputs import sample_inputs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_bundle(threads=1)


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray], level: str = "all") -> np.ndarray:
    return OnnxRuntime(level=level, threads=1).load(model.SerializeToString(), "test")(inputs)[0]


def network(channels: int = 6, *, norm: bool = False, weight: float | None = None) -> onnx.ModelProto:
    """Three convolutions with a ReLU and a pixel shuffle, or a GDN and a convolution, from x to y."""
    rng = np.random.default_rng(2)
    weights: dict[str, np.ndarray] = {}
    nodes: list[onnx.NodeProto] = []

    def conv(source: str, target: str, inputs: int, outputs: int, size: int, values: np.ndarray | None = None) -> None:
        values = rng.normal(size=(outputs, inputs, size, size)) / size / inputs**0.5 if values is None else values
        weights[f"{target}/weight"], weights[f"{target}/bias"] = values, np.ones(outputs) * 0.1
        names = [source, f"{target}/weight", f"{target}/bias"]
        nodes.append(helper.make_node("Conv", names, [target], name=f"{target}/Conv", pads=[size // 2] * 4))

    def node(kind: str, target: str, *sources: str, **more: Any) -> None:
        nodes.append(helper.make_node(kind, list(sources), [target], name=f"{target}/{kind}", **more))

    if norm:
        node("Mul", "squares", "x", "x")
        conv("squares", "sums", channels, channels, 1, rng.uniform(0.05, 0.15, (channels, channels, 1, 1)))
        node("Sqrt", "root", "sums")
        node("Div", "normal", "x", "root")
        conv("normal", "y", channels, 3, 1)
    else:
        conv("x", "a", channels, 16, 3)
        node("Relu", "b", "a")
        conv("b", "c", 16, 16, 1)
        node("DepthToSpace", "d", "c", blocksize=2, mode="CRD")
        conv("d", "y", 4, 3, 1)
    if weight is not None:
        weights["c/weight"][0, 0, 0, 0] = weight
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", channels, "h", "w"]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, "H", "W"]),
    ]
    constants = [numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "test", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def noise(channels: int, scale: float) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, channels, 5, 7)).astype(np.float32) * np.float32(scale)


def test_half_graphs_compute_in_half_and_keep_their_ends() -> None:
    model, x = network(), noise(6, 1)
    half = to_half(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)}
    assert kinds == {"x": TensorProto.FLOAT, "y": TensorProto.FLOAT}
    assert all(w.data_type == HALF for w in half.graph.initializer)
    found = run(simulated(half), {"x": x})
    assert 1e-5 < relative_difference(run(model, {"x": x}), found) < 2e-3
    # numpy rounds after every operation, sums included: another order of magnitude would be another graph.
    reference = ReferenceEvaluator(half).run(None, {"x": x})[0]
    assert relative_difference(reference, found) < 2e-3


def test_a_cpu_runtime_drops_the_casts() -> None:
    """Why `simulated` exists: if this fails, ONNX Runtime has begun to compute in fp16 on CPUs."""
    model, x = network(), noise(6, 1)
    expected, half = run(model, {"x": x}), to_half(model)
    direct, emulated = (relative_difference(expected, run(m, {"x": x})) for m in (half, simulated(half)))
    assert direct < emulated


def test_norms_stay_in_full_precision_where_half_would_overflow() -> None:
    model, x = network(norm=True), noise(6, 1500)
    found = run(simulated(to_half(model)), {"x": x})
    assert relative_difference(run(model, {"x": x}), found) < 5e-3
    assert full_precision(model) == {"squares/Mul", "sums/Conv", "root/Sqrt", "normal/Div"}
    # With the squares in half, as a pass without an eye for norms would have them, everything is lost.
    with np.errstate(over="ignore"):
        assert np.isinf(np.square(x.astype(np.float16))).any()


def test_weights_that_half_cannot_hold_stay() -> None:
    model, x = network(weight=1e5), noise(6, 1e-2)
    assert full_precision(model) == {"c/Conv"}
    assert relative_difference(run(model, {"x": x}), run(simulated(to_half(model)), {"x": x})) < 5e-3


def test_subgraphs_are_refused() -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["b"])], "b", [], [helper.make_tensor_value_info("b", 1, [1])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    ends = [helper.make_tensor_value_info("c", TensorProto.BOOL, []), helper.make_tensor_value_info("x", 1, [1])]
    graph = helper.make_graph([node], "g", ends, [helper.make_tensor_value_info("y", 1, [1])])
    with pytest.raises(ValueError, match="subgraphs"):
        to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]))


@pytest.mark.parametrize("name", ["g_a", "g_s"])
def test_casts_move_outermost_without_changing_a_value(codec: Codec, name: str) -> None:
    bundle = codec.bundle
    model = onnx.load_model_from_string(bundle.graph(name)[1])
    fold_stored_halves(model)
    moved = onnx.ModelProto()
    moved.CopyFrom(model)
    casts_outermost(moved)
    onnx.checker.check_model(moved, full_check=True)
    image = next(v for v in (*moved.graph.input, *moved.graph.output) if v.name == "image").name
    ends = [n.op_type for n in moved.graph.node if image in (*n.input, *n.output)]
    assert ends == ["Cast"]
    inputs = sample_inputs(bundle, 64, 128)[name]
    np.testing.assert_array_equal(run(model, inputs), run(moved, inputs))
    np.testing.assert_array_equal(run(model, inputs, "disable"), run(moved, inputs, "disable"))


def test_bytes_are_the_symbols_of_every_int16() -> None:
    symbols = helper.make_tensor_value_info("symbols", TensorProto.FLOAT, ["n", 1, "h", "w"])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, "h", "w"])
    graph = helper.make_graph([helper.make_node("Identity", ["symbols"], ["y"], name="same")], "g", [symbols], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    bytes_to_symbols(model)
    onnx.checker.check_model(model, full_check=True)
    every = np.arange(-(2**15), 2**15, dtype="<i2").reshape(1, 1, 256, 256)
    found = run(model, {"symbols_bytes": every[..., None].view(np.uint8)})
    np.testing.assert_array_equal(found, every.astype(np.float32))


def test_every_graph_of_the_shipped_bundle_in_fp32_gives_the_same_values(codec: Codec) -> None:
    made = device_graphs(codec.bundle, "fp32")
    assert set(made) == set(codec.bundle.manifest.general)
    assert all(graph.difference < 1e-6 for graph in made.values())
    assert made["h_s"].difference == 0


def test_a_bundle_quantised_for_cpus_is_refused(codec: Codec) -> None:
    bundle = codec.bundle
    manifest = replace(bundle.manifest, precision="int8", model={**bundle.manifest.model, "int8": {"form": "cpu"}})
    with pytest.raises(DeviceGraphError, match="quantised for CPUs; .* --form tensorrt"):
        device_graphs(Bundle(bundle.path, manifest, {n: bundle.file(n) for n in manifest.files}), "int8")


def test_views_with_graphs_of_their_own_are_for_cpus(codec: Codec) -> None:
    bundle = codec.bundle
    entry = bundle.manifest.graphs["g_s"]
    manifest = replace(bundle.manifest, graphs={**bundle.manifest.graphs, "g_s.human": entry})
    made = device_graphs(Bundle(bundle.path, manifest, {n: bundle.file(n) for n in manifest.files}), "fp32")
    assert set(made) == set(bundle.manifest.general)
