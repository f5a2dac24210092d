"""Wide convolutions in the fast form compute what they did, at every size, and come back to the last bit."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from ugicm.export.forms import winograd
from ugicm.export.forms.cpu_form import from_cpu, to_cpu, to_fast_cpu
from ugicm.export.forms.rewriting import LAST, rewrite
from ugicm.export.graphs import check_graph, export_graph
from ugicm.export.source import GraphSource
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime

WIDE = 136
"""Channels whose square convolution is wide enough."""


def convolution(
    channels: int, outs: int, *after: onnx.NodeProto, bias: bool = True, pads: tuple[int, ...] = (1, 1, 1, 1)
) -> onnx.ModelProto:
    """A 3×3 convolution of "x" to "c", or to what nodes make of that: "y"."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((outs, channels, 3, 3)).astype(np.float32) / np.sqrt(9 * channels)}
    if bias:
        weights["b"] = rng.standard_normal(outs).astype(np.float32)
    conv = helper.make_node("Conv", ["x", *weights], ["c"], name="conv", pads=pads)
    nodes = [conv, *after] if after else [helper.make_node("Conv", ["x", *weights], ["y"], name="conv", pads=pads)]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [None] * 4) for n in "xy"]
    stored = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def changed(model: onnx.ModelProto, change: object) -> onnx.ModelProto:
    """A rewritten copy."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    rewrite(copied, change)  # type: ignore[arg-type]
    onnx.checker.check_model(copied, full_check=True)
    return copied


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def test_the_matrices_filter() -> None:
    outputs, taps, inputs = winograd.matrices()
    rng = np.random.default_rng(1)
    w, x = rng.standard_normal(3), rng.standard_normal(8)
    assert np.allclose(outputs @ ((taps @ w) * (inputs @ x)), np.convolve(x, w[::-1], "valid"), atol=1e-12)
    assert np.array_equal(outputs[:, 1], np.ones(6)), "a bias is added at the second point"


@pytest.fixture(scope="module")
def forms() -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A convolution, plain and fast."""
    plain = convolution(WIDE, WIDE)
    fast = changed(plain, to_fast_cpu)
    assert kinds(fast)["Conv"] == 2
    return plain, fast


@pytest.mark.parametrize("level", LEVELS)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_every_size_is_the_same(
    level: str, forms: tuple[onnx.ModelProto, onnx.ModelProto], batch: int, height: int, width: int, seed: int
) -> None:
    x = np.random.default_rng(seed).standard_normal((batch, WIDE, height, width)).astype(np.float32)
    backend = OnnxRuntime(threads=1, level=level)
    expected, found = (backend.load(form.SerializeToString(), "g")({"x": x})[0] for form in forms)
    assert expected.shape == found.shape == x.shape and np.abs(found - expected).max() < 5e-5


AFTER = {
    "an activation": [helper.make_node("LeakyRelu", ["c"], ["y"], alpha=0.2)],
    "another operator": [helper.make_node("Sigmoid", ["c"], ["y"])],
    "channels last": [helper.make_node("Transpose", ["c"], ["y"], perm=LAST)],
    "both": [
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Transpose", ["a"], ["y"], perm=LAST),
    ],
    "a pixel shuffle": [helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="CRD")],
    "two readers": [helper.make_node("Relu", ["c"], ["a"]), helper.make_node("Add", ["a", "c"], ["y"])],
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("after", AFTER.values(), ids=AFTER.keys())
def test_there_and_back_keeps_every_weight_and_operator(after: list[onnx.NodeProto], bias: bool) -> None:
    plain = convolution(WIDE, 2 * WIDE, *after, bias=bias)
    there = changed(plain, to_fast_cpu)
    assert any(node.name == "conv/winograd/tiles" for node in there.graph.node)
    back = changed(there, from_cpu)
    assert kinds(back) == kinds(changed(changed(plain, to_cpu), from_cpu))
    weights = {t.raw_data for t in plain.graph.initializer}
    assert weights <= {t.raw_data for t in back.graph.initializer}
    x = np.random.default_rng(3).standard_normal((1, WIDE, 4, 10)).astype(np.float32)
    models = (plain, there, back)
    expected, fast, again = (OnnxRuntime(threads=1).load(m.SerializeToString(), "g")({"x": x})[0] for m in models)
    assert np.abs(fast - expected).max() < 5e-5 and np.abs(again - expected).max() < 1e-5


@pytest.mark.parametrize(
    "model",
    [
        convolution(WIDE, 16),
        convolution(96, 96),
        convolution(WIDE, WIDE, pads=(0, 0, 0, 0)),
    ],
)
def test_narrow_and_other_convolutions_stay(model: onnx.ModelProto) -> None:
    assert kinds(changed(model, to_fast_cpu)) == {"Conv": 1}


def test_latents_of_a_picture_hardly_move() -> None:
    """Through several layers, as in a transform: errors stay in the sixth digit."""
    x = np.random.default_rng(5).standard_normal((1, WIDE, 12, 30)).astype(np.float32)
    plain, fast = x, x
    model = convolution(WIDE, WIDE, helper.make_node("LeakyRelu", ["c"], ["y"], alpha=0.5))
    runs = [OnnxRuntime(threads=1).load(m.SerializeToString(), "g") for m in (model, changed(model, to_fast_cpu))]
    for _ in range(6):
        plain, fast = (run({"x": v})[0] for run, v in zip(runs, (plain, fast), strict=True))
    assert np.abs(fast - plain).max() < 2e-5 * np.abs(plain).max()


@pytest.mark.parametrize(("name", "fast"), [("g_s", True), ("g_a", True), ("h_s", False), ("stage00", False)])
def test_transforms_alone_are_exported_so(name: str, fast: bool) -> None:
    """Scales and `z` hang on the last digits of the others."""
    torch.manual_seed(0)
    source = GraphSource(
        nn.Sequential(nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.ReLU()),
        ("x",),
        ("y",),
        lambda h, w, n: (torch.randn(n, WIDE, h, w),),
        ({0: "n", 2: "h", 3: "w"},),
        1e-4,
    )
    model = export_graph(name, source)
    assert any("/winograd/" in node.name for node in model.graph.node) == fast
    assert check_graph(name, model, source).passed
