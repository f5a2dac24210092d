"""The half-precision pass and the forms of device graphs, in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from export.device_graphs import (
    bytes_to_symbols,
    casts_outermost,
    device_graphs,
    relative_difference,
    sample_inputs,
)
from export.graphs import export_graph
from export.lowering import FoldedGDN
from export.precision import HALF, full_precision, simulated, to_half
from export.source import GraphSource
from runtime import Codec
from runtime.backends.onnxruntime import OnnxRuntime


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray], level: str = "all") -> np.ndarray:
    return OnnxRuntime(level=level, threads=1).load(model.SerializeToString(), "test")(inputs)[0]


def exported(module: nn.Module, channels: int) -> onnx.ModelProto:
    def example(h: int, w: int, n: int) -> tuple[torch.Tensor, ...]:
        return (torch.randn(n, channels, h, w, generator=torch.Generator().manual_seed(1)),)

    return export_graph("test", GraphSource(module, ("x",), ("y",), example, ({0: "n", 2: "h", 3: "w"},), 1e-3))


def convolutions(channels: int = 6) -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.PixelShuffle(2), nn.Conv2d(4, 3, 1)
    )


def test_half_graphs_compute_in_half_and_keep_their_ends() -> None:
    model = exported(convolutions(), 6)
    half = to_half(model)
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 7)).astype(np.float32)
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*half.graph.input, *half.graph.output)}
    assert kinds == {"x": TensorProto.FLOAT, "y": TensorProto.FLOAT}
    assert all(w.data_type == HALF for w in half.graph.initializer if numpy_helper.to_array(w).dtype.kind == "f")
    expected = run(model, {"x": x})
    found = run(simulated(half), {"x": x})
    assert 1e-5 < relative_difference(expected, found) < 2e-3
    # numpy rounds after every operation, sums included: another order of magnitude would be another graph.
    reference = ReferenceEvaluator(half).run(None, {"x": x})[0]
    assert relative_difference(reference, found) < 2e-3


def test_a_cpu_runtime_that_drops_the_casts_would_not_notice() -> None:
    """Why `simulated` exists: if this fails, ONNX Runtime has begun to compute in fp16 on CPUs."""
    model = exported(convolutions(), 6)
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 7)).astype(np.float32)
    direct, emulated = (
        relative_difference(run(model, {"x": x}), run(m, {"x": x})) for m in (to_half(model), simulated(to_half(model)))
    )
    assert direct < emulated


def test_norms_stay_in_full_precision_where_half_would_overflow() -> None:
    channels = 8
    gamma = torch.rand(channels, channels) * 0.1 + 0.05
    gdn = FoldedGDN(torch.ones(channels), gamma, inverse=False)
    model = exported(nn.Sequential(nn.Conv2d(channels, channels, 1), gdn, nn.Conv2d(channels, channels, 1)), channels)
    x = np.random.default_rng(1).normal(size=(1, channels, 8, 8)).astype(np.float32) * 1500
    expected = run(model, {"x": x})
    found = run(simulated(to_half(model)), {"x": x})
    assert np.isfinite(found).all()
    assert relative_difference(expected, found) < 5e-3
    # The same graph with everything in half is what the pass must not write.
    kept = {n.op_type for n in model.graph.node if n.name in full_precision(model)}
    assert {"Sqrt", "Div", "Mul"} <= kept
    assert len([n for n in model.graph.node if n.op_type == "Conv" and n.name in full_precision(model)]) == 1


def test_weights_that_half_cannot_hold_stay() -> None:
    module = convolutions()
    with torch.no_grad():
        module[2].weight[0, 0, 0, 0] = 1e5
    model = exported(module, 6)
    half = to_half(model)
    x = np.random.default_rng(0).normal(size=(1, 6, 5, 7)).astype(np.float32)
    assert relative_difference(run(model, {"x": x}), run(simulated(half), {"x": x})) < 5e-3


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
    moved = onnx.load_model_from_string(bundle.graph(name)[1])
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
    assert set(made) == set(codec.bundle.manifest.graphs)
    assert all(graph.difference < 1e-6 for graph in made.values())
    assert made["h_s"].difference == 0
