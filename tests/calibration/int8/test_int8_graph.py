"""Rewriting float graphs: taken apart, brought to other units, quantised, folded; on small networks built here."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from ugicm.calibration.int8.equalise import Equaliser
from ugicm.calibration.int8.graph import FloatGraph, Step
from ugicm.calibration.int8.quantiser import Quantiser
from ugicm.calibration.int8.ranges import Sample, best_step, collect, quantise_weights
from ugicm.runtime.backends.onnxruntime import OnnxRuntime

BACKEND = OnnxRuntime(threads=1)
RNG = np.random.default_rng(1)


def conv(x: str, out: str, weight: np.ndarray, constants: dict[str, np.ndarray], **attributes: int) -> onnx.NodeProto:
    constants[f"{out}.w"] = weight.astype(np.float32)
    constants[f"{out}.b"] = RNG.normal(0, 0.3, len(weight)).astype(np.float32)
    k = weight.shape[2]
    return helper.make_node("Conv", [x, f"{out}.w", f"{out}.b"], [out], name=out, pads=[k // 2] * 4, **attributes)


def float_graph(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], inputs: dict[str, list], out: str
) -> bytes:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in inputs.items()]
    result = helper.make_tensor_value_info(out, TensorProto.FLOAT, ["n", None, None, None])
    stored = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "small", values, [result], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def residual() -> FloatGraph:
    """Input → 1×1 → [depthwise, expand + vector + ReLU, project, sum] → pixel shuffle → 1×1 → output."""
    c: dict[str, np.ndarray] = {"axes": np.asarray([2, 3], np.int64)}
    spread = np.exp(RNG.normal(0, 1.2, 8))[:, None, None, None]
    nodes = [
        conv("x", "in", RNG.normal(0, 0.5, (8, 5, 1, 1)) * spread, c),
        conv("in", "dw", RNG.normal(0, 0.4, (8, 1, 3, 3)), c, group=8),
        conv("dw", "expand", RNG.normal(0, 0.4, (16, 8, 1, 1)), c),
        helper.make_node("Unsqueeze", ["condition", "axes"], ["vector"]),
        helper.make_node("Add", ["expand", "vector"], ["moved"]),
        helper.make_node("Relu", ["moved"], ["hidden"]),
        conv("hidden", "project", RNG.normal(0, 0.3, (8, 16, 1, 1)) * spread, c),
        helper.make_node("Add", ["in", "project"], ["sum"], name="sum"),
        helper.make_node("DepthToSpace", ["sum"], ["shuffled"], blocksize=2, mode="CRD"),
        conv("shuffled", "last", RNG.normal(0, 0.3, (3, 2, 1, 1)), c),
        helper.make_node("Identity", ["last"], ["out"]),
    ]
    return FloatGraph.parse(float_graph(nodes, c, {"x": ["n", 5, "h", "w"], "condition": ["n", 16]}, "out"))


def gdn() -> FloatGraph:
    """A convolution, a pixel shuffle, an inverse GDN x · sqrt(norm(x²)), a convolution."""
    c: dict[str, np.ndarray] = {}
    gamma = np.abs(RNG.normal(0, 0.2, (6, 6, 1, 1)))
    spread = np.exp(RNG.normal(0, 1, 6)).repeat(4)[:, None, None, None]
    nodes = [
        conv("x", "a", RNG.normal(0, 0.5, (24, 5, 3, 3)) * spread, c),
        helper.make_node("DepthToSpace", ["a"], ["up"], blocksize=2, mode="CRD"),
        helper.make_node("Mul", ["up", "up"], ["square"], name="square"),
        conv("square", "norm", gamma, c),
        helper.make_node("Sqrt", ["norm"], ["root"]),
        helper.make_node("Mul", ["up", "root"], ["y"], name="product"),
        conv("y", "last", RNG.normal(0, 0.3, (3, 6, 1, 1)), c),
        helper.make_node("Identity", ["last"], ["out"]),
    ]
    c["norm.b"] = np.abs(c["norm.b"]) + 1
    return FloatGraph.parse(float_graph(nodes, c, {"x": ["n", 5, "h", "w"]}, "out"))


GRAPHS = {"residual": residual, "gdn": gdn}


def feed(graph: FloatGraph, batch: int = 1) -> dict[str, np.ndarray]:
    given = {"x": RNG.normal(0, 1, (batch, 5, 6, 8)).astype(np.float32)}
    if any(i.name == "condition" for i in graph.inputs):
        given["condition"] = RNG.normal(0, 0.5, (1, 16)).astype(np.float32)
    return given


def output(model: bytes, given: dict[str, np.ndarray]) -> np.ndarray:
    return BACKEND.load(model, "small")(given)[0]


def quantiser(graph: FloatGraph, feeds: list[dict[str, np.ndarray]], form: str = "cpu") -> Quantiser:
    named = {t for layer in graph.layers for t in (*layer.inputs, layer.output)}
    tensors = sorted(named | {graph.source(t) for t in named})
    samples = collect(graph, tensors, feeds, BACKEND)
    weights = {
        layer.name: quantise_weights(graph, layer, samples[layer.inputs[0]].mean, 8)
        for layer in graph.layers
        if layer.kind == "conv"
    }
    return Quantiser(graph, {k: best_step(s, form) for k, s in samples.items()}, weights, form)  # type: ignore[arg-type]


def test_layers_are_found() -> None:
    assert [(layer.name, layer.kind, layer.vector, layer.relu) for layer in residual().layers] == [
        ("in", "conv", "", False),
        ("dw", "conv", "", False),
        ("expand", "conv", "vector", True),
        ("project", "conv", "", False),
        ("sum", "add", "", False),
        ("last", "conv", "", False),
    ]
    assert [(layer.name, layer.kind) for layer in gdn().layers] == [
        ("a", "conv"),
        ("square", "mul"),
        ("norm", "conv"),
        ("product", "mul"),
        ("last", "conv"),
    ]


@pytest.mark.parametrize("form", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_chosen_changes_nothing(name: str, form: str) -> None:
    graph = GRAPHS[name]()
    given = feed(graph)
    np.testing.assert_array_equal(
        output(quantiser(graph, [given], form).write([]), given), output(graph.model(), given)
    )


@pytest.mark.parametrize("form", ["cpu", "tensorrt"])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_layer_alone_and_all_together_are_near(name: str, form: str) -> None:
    graph = GRAPHS[name]()
    given = feed(graph)
    expected = output(graph.model(), given)
    writer = quantiser(graph, [given], form)
    layers = [layer.name for layer in graph.layers]
    for chosen in [[layer] for layer in layers] + [layers]:
        found = output(writer.write(chosen), given)
        error = np.sqrt(np.mean((found - expected) ** 2) / np.var(expected))
        assert 0 < error < 0.06, chosen


@pytest.mark.parametrize("level", ["all", "disable"])
def test_a_sum_in_float_takes_the_unrounded_sums_of_an_integer_product(level: str) -> None:
    graph = residual()
    given = feed(graph, 2)
    writer = quantiser(graph, [given])
    everything = {layer.name for layer in graph.layers}
    written = writer.write(everything - {"sum"})
    nodes = [n.op_type for n in onnx.load_from_string(written).graph.node]
    assert nodes.count("MatMulIntegerToFloat") == 1
    expected = output(graph.model(), given)
    found = OnnxRuntime(threads=1, level=level).load(written, "small")(given)[0]

    def error(values: np.ndarray) -> float:
        return float(np.sqrt(np.mean((values - expected) ** 2) / np.var(expected)))

    assert 0 < error(found) < error(output(writer.write(everything), given))


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", GRAPHS)
def test_equalised_graphs_say_the_same_in_other_units(name: str, strength: float) -> None:
    graph = GRAPHS[name]()
    given = feed(graph)
    tensors = sorted({t for layer in graph.layers for t in (*layer.inputs, layer.output)})
    peaks = {k: s.peak for k, s in collect(graph, tensors, [given], BACKEND).items()}
    equaliser = Equaliser({"small": graph})
    factors = equaliser.factors({"small": peaks}, strength)
    rescaled = equaliser.apply(factors)["small"]
    np.testing.assert_allclose(output(rescaled.model(), given), output(graph.model(), given), rtol=2e-4, atol=2e-5)
    moved = {"residual": "project", "gdn": "a"}[name]
    after = collect(rescaled, [moved], [given], BACKEND)[moved].peak
    np.testing.assert_allclose(after, peaks[moved] * factors["small"][moved], rtol=1e-4)
    if name == "gdn":
        assert np.ptp(np.log(after)) < np.ptp(np.log(peaks[moved]))
        np.testing.assert_allclose(factors["small"]["square"], factors["small"]["up"] ** 2)
    assert not {"x", "last", "norm"} & set(factors["small"])  # what enters, leaves, or another operator reads


def test_steps_hold_zero_and_clip_what_is_rare() -> None:
    values = np.concatenate([RNG.normal(0, 1, 100_000), [1000.0]]).astype(np.float32)
    step = best_step(Sample(values, values.min(), 1000.0, np.zeros(1), np.ones(1), values.size), "cpu")
    assert step.round_trip(np.zeros(1))[0] == 0
    positive = np.abs(values[:-1])
    step = best_step(Sample(positive, 0.0, float(positive.max()), np.zeros(1), np.ones(1), positive.size), "cpu")
    assert step.zero_point == 0 and step.scale < positive.max() / 255
    step = best_step(Sample(values[:-1], -4.0, 4.0, np.zeros(1), np.ones(1), 9), "tensorrt")
    assert step == Step(step.scale, 0, True)


def test_the_bias_takes_up_what_rounding_adds_to_the_mean() -> None:
    graph = residual()
    layer = next(layer for layer in graph.layers if layer.name == "dw")
    x = RNG.normal(1, 0.1, (2, 8, 32, 32))
    for bits in (7, 8):
        integers, scales, bias = quantise_weights(graph, layer, x.mean((0, 2, 3)), bits)
        assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
        weight, before = graph.parameters(layer)
        restored = integers * scales[:, None, None, None]
        gap = ((restored - weight).sum((1, 2, 3)) * x.mean((0, 2, 3))) + bias - before
        assert np.abs(gap).max() < 1e-6
