"""Both forms of a transposed convolution hold the same weights and give the same picture."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from ugicm.calibration.int8 import quantiser as int8_quantiser
from ugicm.calibration.int8.graph import FloatGraph
from ugicm.calibration.int8.quantiser import Quantiser
from ugicm.calibration.int8.ranges import best_step, collect, quantise_weights
from ugicm.calibration.int8.search import _tensors
from ugicm.export.forms.phases import LEAST_CHANNELS, phase_weights
from ugicm.export.graphs import export_graph
from ugicm.export.lowering import FoldedGDN, lower
from ugicm.export.source import GraphSource
from ugicm.models.entropy import gdn
from ugicm.runtime.backends.onnxruntime import OnnxRuntime

WIDTH = LEAST_CHANNELS


class Chain(nn.Module):
    """Two transposed convolutions, with a GDN or an activation between them, and a small one that stays whole."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        sizes = [(3, WIDTH), (WIDTH, WIDTH), (WIDTH, 3)]
        ups = [nn.ConvTranspose2d(a, b, 5, 2, padding=2, output_padding=1) for a, b in sizes]
        self.original = nn.Sequential(ups[0], between, ups[1], nn.ReLU(), ups[2])
        self.lowered = lower(self.original)

    def forward(self, x: Tensor) -> Tensor:
        return self.lowered(x)


def exported(between: str) -> tuple[Chain, onnx.ModelProto]:
    """A chain, and its graph; copies of what is traced once."""
    return copy.deepcopy(traced(between))


@cache
def traced(between: str) -> tuple[Chain, onnx.ModelProto]:
    chain = Chain(BETWEEN[between]()).eval()
    source = GraphSource(
        chain, ("x",), ("y",), lambda h, w, n: (torch.randn(n, 3, h, w),), ({0: "n", 2: "h", 3: "w"},), 1.0
    )
    return chain, export_graph("g_s", source)


def norm(inverse: bool) -> nn.Module:
    torch.manual_seed(1)
    module = gdn(WIDTH, inverse)
    module.beta.data.uniform_(0.5, 2)
    module.gamma.data.uniform_(0, 0.5)
    return module


BETWEEN: dict[str, Callable[[], nn.Module]] = {
    "inverse GDN": lambda: norm(True),
    "GDN": lambda: norm(False),
    "LeakyReLU": nn.LeakyReLU,
}


@pytest.mark.parametrize(
    ("between", "kinds"),
    [
        ("inverse GDN", {"MatMul": 1, "DepthToSpace": 1, "Conv": 9}),
        ("GDN", {"MatMul": 1, "Div": 1, "DepthToSpace": 1, "Conv": 9}),
        ("LeakyReLU", {"MatMul": 0, "DepthToSpace": 1, "Conv": 9}),
    ],
)
def test_split_graphs_give_the_same_picture_and_join_again(between: str, kinds: dict[str, int]) -> None:
    chain, model = exported(between)
    for kind, count in kinds.items():
        assert sum(n.op_type == kind for n in model.graph.node) == count, kind
    joined = FloatGraph.parse(model.SerializeToString())
    assert not {n.op_type for n in joined.nodes} & {"MatMul", "Concat", "Transpose", "Reshape"}
    for height, width, batch in ((1, 1, 1), (3, 5, 2)):
        x = torch.randn(batch, 3, height, width)
        expected = chain.original(x).detach().numpy()
        for data in (model.SerializeToString(), joined.model()):
            for level in ("all", "disable"):
                found = OnnxRuntime(threads=1, level=level).load(data, "g_s")({"x": x.numpy()})[0]
                np.testing.assert_allclose(found, expected, atol=1e-5)


def test_joined_graphs_hold_every_weight_to_the_last_bit() -> None:
    chain, model = exported("inverse GDN")
    joined = FloatGraph.parse(model.SerializeToString())
    convs = [joined.parameters(layer) for layer in joined.layers if layer.kind == "conv"]
    modules = [m for m in chain.lowered.modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == len(modules) == 4
    for (weight, bias), module in zip(convs, modules, strict=True):
        np.testing.assert_array_equal(weight, module.weight.detach().numpy())
        np.testing.assert_array_equal(bias, module.bias.detach().numpy())  # type: ignore[union-attr]


def test_other_pixel_shuffles_stay_as_they_are() -> None:
    weight = np.random.default_rng(0).normal(size=(4 * WIDTH, 2, 3, 3))
    assert phase_weights(weight) is None
    weight.reshape(WIDTH, 4, 2, 3, 3)[:, 2:, :, 0] = 0
    weight.reshape(WIDTH, 4, 2, 3, 3)[:, 1::2, :, :, 0] = 0
    kernels = phase_weights(weight)
    assert kernels is not None and sum(k[0, 0].size for k in kernels) == 25
    assert phase_weights(weight[: 4 * WIDTH - 4]) is None


def test_a_split_graph_with_another_order_of_phases_is_not_joined() -> None:
    _, model = exported("LeakyReLU")
    graph = FloatGraph.parse(model.SerializeToString())
    assert all(n.op_type != "Concat" for n in graph.nodes)
    first = next(n for n in model.graph.node if n.op_type == "Concat")
    first.input[0], first.input[1] = first.input[1], first.input[0]
    assert any(n.op_type == "Concat" for n in FloatGraph.parse(model.SerializeToString()).nodes)


def test_quantised_phases_are_the_same_integers_as_one_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = exported("inverse GDN")
    graph = FloatGraph.parse(model.SerializeToString())
    x = np.random.default_rng(3).normal(size=(1, 3, 5, 7)).astype(np.float32)
    backend = OnnxRuntime(threads=1)
    samples = collect(graph, _tensors(graph), [{"x": x}], backend)
    steps = {name: best_step(sample, "cpu") for name, sample in samples.items()}
    weights = {
        layer.name: quantise_weights(graph, layer, samples[layer.inputs[0]].mean, 8)
        for layer in graph.layers
        if layer.kind == "conv"
    }
    everything = {layer.name for layer in graph.layers}
    split = Quantiser(graph, steps, weights).write(everything)
    monkeypatch.setattr(int8_quantiser, "phase_weights", lambda weight: None)
    whole = Quantiser(graph, steps, weights).write(everything)
    counts = [sum(n.op_type == "Conv" for n in onnx.load_from_string(m).graph.node) for m in (split, whole)]
    assert counts == [10, 4]
    for level in ("all", "disable"):
        a, b = (OnnxRuntime(threads=1, level=level).load(m, "g_s")({"x": x})[0] for m in (split, whole))
        np.testing.assert_array_equal(a, b)


def test_fp8_graphs_round_what_convolutions_read_and_nothing_else() -> None:
    chain, model = exported("inverse GDN")
    graph = FloatGraph.parse(model.SerializeToString())
    x = np.random.default_rng(3).normal(size=(1, 3, 5, 7)).astype(np.float32)
    backend = OnnxRuntime(threads=1, level="basic")
    samples = collect(graph, _tensors(graph), [{"x": x}], backend)
    steps = {name: best_step(sample, "fp8") for name, sample in samples.items()}
    taken = [layer for layer in graph.layers if graph.takes(layer, "fp8")]
    weights = {layer.name: quantise_weights(graph, layer, samples[layer.inputs[0]].mean, 8, "fp8") for layer in taken}
    written = Quantiser(graph, steps, weights, "fp8").write({layer.name for layer in taken})
    found = backend.load(written, "g_s")({"x": x})[0]

    # The same by hand: every convolution's input and weights rounded to E4M3, their sums not.
    def rounded(values: Tensor, scale: Tensor | float) -> Tensor:
        return (values / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale

    y = torch.from_numpy(x)
    names = iter(taken)
    for module in (m for child in chain.lowered for m in (child if isinstance(child, nn.Sequential) else [child])):
        convs = [module.norm] if isinstance(module, FoldedGDN) else [module] if isinstance(module, nn.Conv2d) else []
        for conv in convs:
            layer = next(names)
            stored, scales, bias = weights[layer.name]
            conv.weight.data = torch.from_numpy(stored.astype(np.float32) * scales[:, None, None, None])
            conv.bias.data = torch.from_numpy(bias.astype(np.float32))  # type: ignore[union-attr]
            step = steps[graph.source(layer.inputs[0])].scale
            conv.register_forward_pre_hook(lambda _, given, step=step: (rounded(given[0], step),))
        y = module(y)
    np.testing.assert_allclose(found, y.detach().numpy(), atol=2e-2 * float(y.detach().abs().max()))
    assert len(taken) == 4 and {layer.kind for layer in taken} == {"conv"}
    stored_kinds = {w.data_type for w in onnx.load_from_string(written).graph.initializer if w.name.endswith("/zero")}
    assert stored_kinds == {onnx.TensorProto.FLOAT8E4M3FN}
    exact = chain.original(torch.from_numpy(x)).detach().numpy()
    assert 1e-4 < np.sqrt(np.mean((found - exact) ** 2)) / exact.std() < 0.1
