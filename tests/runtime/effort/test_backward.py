"""Each rule of reverse-mode differentiation against differences of what ONNX Runtime computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ugicm.export.graphs import export_graph
from ugicm.export.lowering import lower
from ugicm.export.source import GraphSource
from ugicm.models.entropy import gdn
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.effort.backward import relaxed, vector_jacobian
from ugicm.runtime.effort.nodes import Graph, Node, joined, read, write
from ugicm.runtime.effort.tape import UnsupportedError

RNG = np.random.default_rng(5)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(0, 1, shape).astype(np.float32)


CASES = {
    "pointwise": ("Conv", {"w": normal(6, 4, 1, 1), "b": normal(6)}, {}),
    "depthwise": ("Conv", {"w": normal(4, 1, 3, 3)}, {"group": 4, "pads": [1, 1, 1, 1]}),
    "grouped, dilated": ("Conv", {"w": normal(6, 2, 3, 3)}, {"group": 2, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
    "uneven padding": ("Conv", {"w": normal(3, 4, 3, 2)}, {"pads": [2, 0, 1, 1]}),
    "strided": ("Conv", {"w": normal(3, 4, 5, 5)}, {"strides": [2, 2], "pads": [2, 2, 2, 2]}),
    "patches": ("Conv", {"w": normal(3, 4, 2, 2)}, {"strides": [2, 2]}),
    "transposed": (
        "ConvTranspose",
        {"w": normal(4, 3, 5, 5)},
        {"strides": [2, 2], "pads": [2, 2, 2, 2], "output_padding": [1, 1]},
    ),
    "relu": ("Relu", {}, {}),
    "leaky": ("LeakyRelu", {}, {"alpha": 0.2}),
    "factor": ("Mul", {"w": normal(1, 4, 1, 1)}, {}),
    "square": ("Mul", {"x": None}, {}),
    "quotient": ("Div", {"w": 2 + normal(1, 4, 1, 1) ** 2}, {}),
    "difference": ("Sub", {"w": normal(1, 4, 1, 1)}, {}),
    "clipped": ("Clip", {"w": np.float32(-0.5), "b": np.float32(0.5)}, {}),
    "sigmoid": ("Sigmoid", {}, {}),
    "tanh": ("Tanh", {}, {}),
    "erf": ("Erf", {}, {}),
    "exp": ("Exp", {}, {}),
    "gelu": ("Gelu", {}, {}),
    "power": ("Pow", {"w": np.float32(2)}, {}),
    "turned": ("Transpose", {}, {"perm": [0, 2, 3, 1]}),
    "reshaped": ("Reshape", {"w": np.array([0, 2, -1])}, {}),
    "shuffled, CRD": ("DepthToSpace", {}, {"blocksize": 2, "mode": b"CRD"}),
    "shuffled, DCR": ("DepthToSpace", {}, {"blocksize": 2}),
    "unshuffled": ("SpaceToDepth", {}, {"blocksize": 2}),
    "windows of any size": (
        "Conv",
        {"w": normal(8, 1, 1, 8)},
        {"group": 4, "strides": [1, 6], "pads": [0, 1, 0, 6], "kernel_shape": [1, 8]},
    ),
    "windows of any size, in rows that leave some over": (
        "Conv",
        {"w": normal(3, 4, 3, 8)},
        {"strides": [2, 6], "pads": [0, 1, 0, 6]},
    ),
}


OF_A_SIZE: dict[str, tuple[str, tuple[str, ...], dict[str, np.ndarray], dict[str, object]]] = {
    "matrix, right": ("MatMul", ("x", "w"), {"w": normal(6, 3)}, {}),
    "matrix, left": ("MatMul", ("w", "x"), {"w": normal(5, 4)}, {}),
    "beside itself and others": ("Concat", ("w", "x", "x"), {"w": normal(1, 4, 3, 6)}, {"axis": 2}),
    "a part": (
        "Slice",
        ("x", "s", "e", "a"),
        {"s": np.array([1, 0]), "e": np.array([3, 4]), "a": np.array([2, 3])},
        {},
    ),
    "a part of the first axes": ("Slice", ("x", "s", "e"), {"s": np.array([0, 1]), "e": np.array([9, 3])}, {}),
}
"""Cases of inputs (1, 4, 4, 6)."""


def graph_of(operator: str, constants: dict[str, np.ndarray | None], attributes: dict[str, object]) -> Graph:
    node = Node(operator, ("x", *constants), ("y",), attributes)
    return Graph((node,), {k: v for k, v in constants.items() if v is not None}, {"x": 1}, ("y",), 20)


@pytest.mark.parametrize("case", CASES)
def test_a_gradient_is_what_differences_say(case: str) -> None:
    agrees(graph_of(*CASES[case]), (1, 4, 4, 6), (2, 4, 8, 2))


@pytest.mark.parametrize("case", OF_A_SIZE)
def test_a_gradient_of_what_fits_one_size(case: str) -> None:
    operator, inputs, constants, attributes = OF_A_SIZE[case]
    agrees(Graph((Node(operator, inputs, ("y",), attributes),), constants, {"x": 1}, ("y",), 20), (1, 4, 4, 6))


OF_SHAPES: dict[str, tuple[Node, ...]] = {
    "a computed shape": (
        Node("Gather", ("shape", "front"), ("sizes",), {"axis": 0}),
        Node("Cast", ("sizes",), ("few",), {"to": 6}),
        Node("Cast", ("few",), ("again",), {"to": 7}),
        Node("Concat", ("again", "rest"), ("whole",), {"axis": 0}),
        Node("Reshape", ("x", "whole"), ("y",)),
    ),
    "a computed end": (
        Node("Gather", ("shape", "last"), ("size",), {"axis": 0}),
        Node("Sub", ("size", "one"), ("end",)),
        Node("Slice", ("x", "one", "end", "last"), ("y",)),
    ),
    "a size as a factor": (
        Node("Gather", ("shape", "last"), ("size",), {"axis": 0}),
        Node("Cast", ("size",), ("factor",), {"to": 1}),
        Node("Mul", ("x", "factor"), ("y",)),
    ),
    "a count as a divisor": (
        Node("Size", ("x",), ("count",)),
        Node("Cast", ("count",), ("divisor",), {"to": 1}),
        Node("Div", ("x", "divisor"), ("y",)),
    ),
    "half a size, rounded": (
        Node("Gather", ("shape", "last"), ("size",), {"axis": 0}),
        Node("Cast", ("size",), ("real",), {"to": 1}),
        Node("Mul", ("real", "half"), ("part",)),
        Node("Round", ("part",), ("near",)),
        Node("Cast", ("near",), ("end",), {"to": 7}),
        Node("Slice", ("x", "one", "end", "last"), ("y",)),
    ),
}
"""Graphs from "x" and its shape to "y"."""


@pytest.mark.parametrize("case", OF_SHAPES)
def test_what_follows_from_shapes_stays_as_it_is(case: str) -> None:
    numbers = {"front": [0, 1], "last": [3], "one": [1], "rest": [-1]}
    constants = {**{name: np.array(n) for name, n in numbers.items()}, "half": np.float32(0.5)}
    plain = Graph((Node("Shape", ("x",), ("shape",)), *OF_SHAPES[case]), constants, {"x": 1}, ("y",), 20)
    graph = relaxed(plain)
    forward = [OnnxRuntime(threads=1).load(write(g, {"y": 1}), "forward") for g in (plain, graph)]
    for shape in ((1, 4, 4, 6), (2, 3, 5, 7)):
        x = normal(*shape)
        one, other = (run({"x": x})[0] for run in forward)
        assert np.array_equal(one, other)
    agrees(graph, (1, 4, 4, 6), (2, 3, 5, 7))


def test_a_product_with_a_size_is_rounded_no_more() -> None:
    nodes = (
        Node("Size", ("x",), ("count",)),
        Node("Cast", ("count",), ("factor",), {"to": 1}),
        Node("Mul", ("x", "factor"), ("product",)),
        Node("Round", ("product",), ("y",)),
    )
    agrees(relaxed(Graph(nodes, {}, {"x": 1}, ("y",), 20)), (1, 1, 1, 3))


def test_a_matrix_that_is_a_product_of_constants_is_one() -> None:
    nodes = (Node("MatMul", ("a", "b"), ("w",)), Node("MatMul", ("x", "w"), ("y",)))
    graph = Graph(nodes, {"a": normal(6, 2), "b": normal(2, 3)}, {"x": 1}, ("y",), 20)
    agrees(relaxed(graph), (1, 4, 4, 6))


def test_what_has_no_gradient_says_why() -> None:
    numbers = {name: np.array([n]) for name, n in {"1": 1, "2": 2, "3": 3, "9": 9, "-1": -1}.items()}
    shape, matrix = Node("Shape", ("x",), ("s",), {"start": 3}), "without a constant matrix"
    for nodes, constants, words in (
        ((Node("Slice", ("x", "-1", "9", "3"), ("y",)),), numbers, "from the end"),
        ((Node("Slice", ("x", "1", "9", "-1"), ("y",)),), numbers, "from the end"),
        ((Node("Slice", ("x", "1", "9", "3", "2"), ("y",)),), numbers, "with steps"),
        ((shape, Node("Slice", ("x", "s", "9", "3"), ("y",))), numbers, "Slice with a computed shape"),
        ((Node("Relu", ("x",), ("a",)), Node("MatMul", ("a", "x"), ("y",))), {}, matrix),
        ((Node("MatMul", ("x", "w"), ("y",)),), {"w": normal(4, 6, 3)}, matrix),
    ):
        with pytest.raises(UnsupportedError, match=words):
            vector_jacobian(Graph(nodes, constants, {"x": 1}, ("y",), 20), "y", "x", "seed")


def wide_graph(norm: bool) -> tuple[nn.Module, GraphSource]:
    """A synthesis with a transposed convolution in phases and GDN, and one of wide convolutions with fewer products."""
    torch.manual_seed(0)
    if norm:
        deconv = nn.ConvTranspose2d(24, 16, 5, stride=2, padding=2, output_padding=1)
        chain, channels = lower([deconv, gdn(16, inverse=True), nn.Conv2d(16, 3, 1)]), 24
    else:
        chain, channels = nn.Sequential(nn.Conv2d(136, 136, 3, padding=1), nn.LeakyReLU(0.1)), 136
    sizes = {0: "n", 2: "h", 3: "w"}
    return chain.eval(), GraphSource(
        chain, ("y_hat",), ("x_hat",), lambda h, w, n: (torch.randn(n, channels, h, w),), (sizes,), 1e-3
    )


@pytest.mark.parametrize("norm", [True, False])
def test_forms_for_cpus_have_the_gradient_of_the_network(norm: bool) -> None:
    module, source = wide_graph(norm)
    model = export_graph("g_s", source)
    kinds = {node.op_type for node in model.graph.node}
    assert {"MatMul", "Concat" if norm else "Slice"} <= kinds, kinds
    graph = relaxed(read(model.SerializeToString()))
    found = vector_jacobian(graph, "x_hat", "y_hat", "seed")
    inputs = {"y_hat": 1, "seed": 1}
    backward = OnnxRuntime(threads=1).load(write(replace(found.graph, inputs=inputs), {found.name: 1}), "backward")
    for height, width, batch in ((3, 7, 1), (2, 12, 2)):
        (x,) = (t.requires_grad_() for t in source.example(height, width, batch))
        y = module(x)
        seed = torch.randn(y.shape)
        y.backward(seed)  # type: ignore[no-untyped-call]
        gradient = backward({"y_hat": x.detach().numpy(), "seed": seed.numpy()})[0]
        assert x.grad is not None and np.allclose(gradient, x.grad.numpy(), atol=1e-4)


def agrees(graph: Graph, *shapes: tuple[int, ...]) -> None:
    """Compares the gradient of a graph from "x" to "y" with differences, at inputs of these shapes."""
    forward = OnnxRuntime(threads=1).load(write(graph, {"y": 1}), "forward")
    found = vector_jacobian(graph, "y", "x", "seed")
    inputs = {**graph.inputs, "seed": 1}
    backward = OnnxRuntime(threads=1).load(write(replace(found.graph, inputs=inputs), {found.name: 1}), "backward")
    for shape in shapes:
        # Odd sixteenths: differences cross no kink of the piecewise linear functions, which are at 0 and halves.
        x, direction = (2 * np.floor(8 * normal(*shape)) + 1) / np.float32(16), normal(*shape)
        seed = normal(*forward({"x": x})[0].shape)
        gradient = backward({"x": x, "seed": seed})[0]
        assert gradient.shape == x.shape
        step = np.float32(1e-3)
        ahead, behind = (forward({"x": x + sign * step * direction})[0].astype(float) for sign in (1, -1))
        slope = float(((ahead - behind) * seed).sum() / (2 * step))
        # Differences lose digits.
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=0.02, abs=0.05)


def test_paths_that_meet_add_up() -> None:
    nodes = (
        Node("Relu", ("x",), ("a",)),
        Node("Mul", ("x", "a"), ("b",)),
        Node("Add", ("b", "x"), ("y",)),
    )
    found = vector_jacobian(Graph(nodes, {}, {"x": 1}, ("y",), 20), "y", "x", "seed")
    graph = replace(found.graph, inputs={"x": 1, "seed": 1})
    backward = OnnxRuntime(threads=1).load(write(graph, {found.name: 1}), "backward")
    x = normal(1, 4, 2, 2)
    assert np.allclose(backward({"x": x, "seed": np.ones_like(x)})[0], 1 + 2 * np.maximum(x, 0))


def test_rounding_is_as_if_it_were_not_there() -> None:
    constants = {"scale": np.float32(0.25), "zero": np.uint8(7)}
    nodes = (
        Node("QuantizeLinear", ("x", "scale", "zero"), ("q",)),
        Node("DequantizeLinear", ("q", "scale", "zero"), ("y",)),
    )
    graph = relaxed(Graph(nodes, constants, {"x": 1}, ("y",), 20))
    x = normal(1, 2, 3, 3)
    assert np.allclose(OnnxRuntime(threads=1).load(write(graph, {"y": 1}), "y")({"x": x})[0], x, atol=1e-6)


def test_an_operator_without_a_rule_is_named() -> None:
    with pytest.raises(UnsupportedError, match="Softmax"):
        vector_jacobian(graph_of("Softmax", {}, {}), "y", "x", "seed")
    with pytest.raises(UnsupportedError, match="depend"):
        vector_jacobian(graph_of("Relu", {}, {}), "z", "x", "seed")


def test_files_are_read_and_written_as_onnx_does(tmp_path: object) -> None:
    import onnx

    graph = graph_of(*CASES["transposed"])
    again = read(write(graph, {"y": 1}))
    assert again.nodes == graph.nodes and again.opset == 20 and again.inputs == {"x": 1} and again.outputs == ("y",)
    assert np.array_equal(again.constants["w"], graph.constants["w"])
    model = onnx.load_from_string(write(graph, {"y": 1}))
    assert model.graph.node[0].attribute[0].name == "strides"
    assert read(model.SerializeToString()).nodes == graph.nodes
    floats = onnx.helper.make_tensor("f", 1, [2], [0.5, -1.0])  # numbers as such, not as raw bytes
    ints = onnx.helper.make_tensor("i", 7, [1], [-3])
    made = onnx.helper.make_graph([], "g", [], [], [floats, ints])
    constants = read(onnx.helper.make_model(made).SerializeToString()).constants
    assert constants["f"].tolist() == [0.5, -1.0] and constants["i"].tolist() == [-3]


def test_graphs_join_though_their_names_are_alike() -> None:
    one = graph_of("Relu", {}, {})
    two = graph_of("Mul", {"w": np.float32(3)}, {})
    both = joined(one, two, "x")
    x = normal(1, 1, 2, 2)
    (found,) = OnnxRuntime(threads=1).load(write(both, {both.outputs[0]: 1}), "both")({"x": x})
    assert np.allclose(found, 3 * np.maximum(x, 0))
