"""A graph with its condition folded in computes the same, as plain convolutions; what is malformed is refused."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from tests.runtime.steps import decoded_latents
from tests.small import lively
from ugicm import Codec
from ugicm.export.graphs import export_graph
from ugicm.export.ugicm import HeadGraph, ugicm_source
from ugicm.models.ugicm import UGICM
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import DEFAULT_QUALITY
from ugicm.runtime.errors import BundleError, UgicError
from ugicm.runtime.graphs.run import VIEWS_KEPT
from ugicm.runtime.manifest import GraphEntry
from ugicm.runtime.onnx_bytes.check import check_graph
from ugicm.runtime.onnx_bytes.fold import with_condition

GOLDEN = Path(__file__).parents[2] / "golden" / "v1" / "bundle"
BACKEND = OnnxRuntime(threads=1)
PLAIN = Counter(Conv=10, Relu=3, Add=3)  # of three blocks and the last layer


@pytest.fixture(scope="module")
def model() -> UGICM:
    return lively("fast").eval()


@pytest.fixture(scope="module")
def head(model: UGICM) -> bytes:
    """The small model's `g_s`, as export writes it."""
    return exported(model)


def exported(model: UGICM) -> bytes:
    return export_graph("g_s", ugicm_source(model).graphs["g_s"]).SerializeToString()


def vectors_of(model: UGICM, beta: float) -> np.ndarray:
    with torch.no_grad():
        return model.preference(torch.tensor([beta])).numpy()


def features(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, channels, 12, 10)).astype(np.float32)


def apart(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape and found.std() > 10
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


@pytest.mark.parametrize("beta", [0.0, 0.37, 1.0])
def test_it_is_the_plain_network_of_the_same_picture(model: UGICM, head: bytes, beta: float) -> None:
    vector, x = vectors_of(model, beta), features(8)
    folded = with_condition(head, "condition", vector)
    check_graph(folded, GOLDEN)
    graph = onnx.load_from_string(folded).graph
    onnx.checker.check_model(onnx.load_from_string(folded), full_check=True)
    assert Counter(node.op_type for node in graph.node) >= PLAIN and len(graph.node) < 60
    assert Counter(node.op_type for node in graph.node)["Conv"] == PLAIN["Conv"]
    assert [i.name for i in graph.input] == ["features"]
    read = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= read
    found = BACKEND.load(folded, "g_s")({"features": x})[0]
    general = BACKEND.load(head, "g_s")({"features": x, "condition": vector})[0]
    graph_module = HeadGraph(model)
    with torch.no_grad():
        vectors = model.preference.split(torch.from_numpy(vector))
        theirs = graph_module.output(model.g_s.folded_head(vectors)(torch.from_numpy(x))).numpy()
    assert apart(found, general) <= 1 and apart(found, theirs) <= 1
    other = BACKEND.load(with_condition(head, "condition", vectors_of(model, 0.6)), "g_s")({"features": x})[0]
    assert apart(found, other) > 5


def weights(model: bytes) -> dict[str, list[np.ndarray]]:
    """Of each convolution its weight and its bias, in float32."""
    graph = onnx.load_from_string(model).graph
    arrays = {t.name: numpy_helper.to_array(t).astype(np.float32) for t in graph.initializer}
    arrays.update({n.output[0]: arrays[n.input[0]] for n in graph.node if n.op_type == "Cast" and n.input[0] in arrays})
    return {n.name: [arrays[name] for name in n.input[1:]] for n in graph.node if n.op_type == "Conv"}


@pytest.mark.parametrize("stored", ["floats", "halves"])
def test_nothing_added_is_the_very_same_weights(codec: Codec, head: bytes, stored: str) -> None:
    data = head if stored == "floats" else codec.bundle.graph("g_s")[1]
    width = onnx.load_from_string(data).graph.input[1].type.tensor_type.shape.dim[1].dim_value
    before, after = weights(data), weights(with_condition(data, "condition", np.zeros((1, width), np.float32)))
    assert len(before) == len(after) + 14
    for name, (weight, bias) in after.items():
        # The exporter leaves out a bias of zeros.
        assert np.array_equal(weight, before[name][0])
        assert np.array_equal(bias, before[name][1] if before[name][1:] else np.zeros_like(bias))


@pytest.mark.parametrize("backbone", ["bmshj2018", "without matrices"])
def test_what_does_not_fold_is_a_constant(backbone: str) -> None:
    rng = np.random.default_rng(4)
    if backbone == "bmshj2018":
        small = lively(backbone).eval()
        graph = exported(small)
        vector = vectors_of(small, 0.7)
        inputs = {"y_hat": rng.normal(size=(1, 12, 4, 8)), "inverse_gain": np.full((1, 12, 1, 1), 0.9)}
    else:  # of the first release
        bundle = Bundle.open(GOLDEN)
        graph, vector = bundle.graph("g_s")[1], bundle.condition_vectors["machine"]
        inputs = {"features": rng.normal(size=(1, 8, 8, 16))}
    feed = {k: v.astype(np.float32) for k, v in inputs.items()}
    folded = with_condition(graph, "condition", vector)
    assert "condition" not in {i.name for i in onnx.load_from_string(folded).graph.input}
    found = BACKEND.load(folded, "g_s")(feed)[0]
    assert apart(found, BACKEND.load(graph, "g_s")({**feed, "condition": vector})[0]) <= 1


def test_a_tensor_that_something_else_reads_stays(model: UGICM, head: bytes) -> None:
    vector, x = vectors_of(model, 1.0), features(8)
    changed = onnx.load_from_string(head)
    middle = next(n for n in changed.graph.node if n.name == "g_s.blocks.1.inner/Mul").output[0]
    changed.graph.output.append(onnx.helper.make_tensor_value_info(middle, TensorProto.FLOAT, None))
    data = changed.SerializeToString()
    folded = with_condition(data, "condition", vector)
    assert Counter(n.op_type for n in onnx.load_from_string(folded).graph.node)["Conv"] == PLAIN["Conv"] + 2
    found = BACKEND.load(folded, "g_s")({"features": x})
    expected = BACKEND.load(data, "g_s")({"features": x, "condition": vector})
    assert apart(found[0], expected[0]) <= 1 and np.allclose(found[1], expected[1], atol=1e-5)


def test_a_vector_in_other_units_folds() -> None:
    make = onnx.helper.make_node
    nodes = [
        make("Unsqueeze", ["condition", "axes"], ["vector"]),
        make("Mul", ["vector", "units"], ["gate"]),
        make("Gather", ["gate", "order"], ["ordered"], axis=1),
        make("Conv", ["x", "weight"], ["plain"]),
        make("Conv", ["x", "down"], ["low"]),
        make("Mul", ["low", "ordered"], ["gated"]),
        make("Conv", ["gated", "up"], ["added"]),
        make("Add", ["plain", "added"], ["y"]),
    ]
    rng = np.random.default_rng(7)
    shapes = {"weight": (4, 3, 1, 1), "down": (2, 3, 1, 1), "up": (4, 2, 1, 1), "units": (1, 2, 1, 1)}
    arrays: dict[str, np.ndarray] = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    arrays |= {"axes": np.array([2, 3]), "order": np.array([1, 0])}
    ends = {"x": [1, 3, 8, 6], "condition": [1, 2], "y": None}
    values = {n: onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends.items()}
    weights = [numpy_helper.from_array(a, n) for n, a in arrays.items()]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"], values["condition"]], [values["y"]], weights)
    data = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    vector, x = np.array([[0.5, -2]], np.float32), rng.normal(size=(1, 3, 8, 6)).astype(np.float32)
    folded = with_condition(data.SerializeToString(), "condition", vector)
    assert [n.op_type for n in onnx.load_from_string(folded).graph.node] == ["Conv"]
    expected = BACKEND.load(data.SerializeToString(), "g")({"x": x, "condition": vector})[0]
    assert np.allclose(BACKEND.load(folded, "g")({"x": x})[0], expected, atol=1e-5)


ALIKE: dict[str, tuple[str, dict[str, list[int]], tuple[int, int]]] = {
    "a sum that folds": ("x", {}, (1, 1)),
    "of another tensor": ("other", {}, (1, 1)),
    "strided": ("x", {"strides": [2, 2]}, (1, 1)),
    "padded": ("x", {"pads": [1, 1, 1, 1]}, (1, 1)),
    "wider": ("x", {}, (3, 3)),
}


@pytest.mark.parametrize("case", ALIKE)
def test_sums_that_only_look_alike_are_left(case: str) -> None:
    source, attributes, kernel = ALIKE[case]
    make = onnx.helper.make_node
    nodes = [
        make("Relu", ["x"], ["other"]),
        make("Unsqueeze", ["condition", "axes"], ["gate"]),
        make("Conv", ["x", "weight"], ["plain"], **attributes),
        make("Conv", [source, "down"], ["low"], **attributes),
        make("Mul", ["low", "gate"], ["gated"]),
        make("Conv", ["gated", "up"], ["added"]),
        make("Add", ["added", "plain"], ["y"]),
    ]
    rng = np.random.default_rng(6)
    shapes = {"weight": (4, 3, *kernel), "down": (2, 3, *kernel), "up": (4, 2, 1, 1)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    ends = {"x": [1, 3, 8, 6], "condition": [1, 2], "y": None}
    values = {n: onnx.helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends.items()}
    weights = [numpy_helper.from_array(a, n) for n, a in {**arrays, "axes": np.array([2, 3])}.items()]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"], values["condition"]], [values["y"]], weights)
    opsets = [onnx.helper.make_opsetid("", 20)]
    data = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    vector, x = np.array([[0.5, -2]], np.float32), rng.normal(size=(1, 3, 8, 6)).astype(np.float32)
    folded = with_condition(data, "condition", vector)
    count = Counter(n.op_type for n in onnx.load_from_string(folded).graph.node)["Conv"]
    assert count == (1 if case == "a sum that folds" else 3)
    expected = BACKEND.load(data, "g")({"x": x, "condition": vector})[0]
    assert np.allclose(BACKEND.load(folded, "g")({"x": x})[0], expected, atol=1e-5)


def tensor(graph: onnx.GraphProto, stem: str) -> onnx.TensorProto:
    return next(t for t in graph.initializer if t.name.startswith(stem))


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(n for n in graph.node if n.name == name)


def replace(graph: onnx.GraphProto, stem: str, array: np.ndarray) -> None:
    found = tensor(graph, stem)
    found.CopyFrom(numpy_helper.from_array(array, found.name))


ORDER = "g_s.outermost/Add/order"
UP, DOWN, WEIGHT = "g_s.blocks.0.inner.up.weight", "g_s.blocks.0.inner.down.weight", "g_s.blocks.0.expand.weight"


def share(graph: onnx.GraphProto) -> None:
    """Nine convolutions of one weight, each with a change of its own: far more weights than the file holds."""
    del graph.node[:-5]
    x = "features"
    for i in range(9):
        for made in (
            onnx.helper.make_node("Conv", [x, WEIGHT + ".big"], [f"plain{i}"]),
            onnx.helper.make_node("Conv", [x, "down"], [f"down{i}"]),
            onnx.helper.make_node("Mul", [f"down{i}", "gate"], [f"gated{i}"]),
            onnx.helper.make_node("Conv", [f"gated{i}", "up"], [f"up{i}"]),
            onnx.helper.make_node("Add", [f"plain{i}", f"up{i}"], [f"sum{i}"]),
            onnx.helper.make_node("Unsqueeze", ["condition", "axes"], ["gate"]),
        ):
            graph.node.append(made)
        x = f"sum{i}"
    del graph.initializer[:]
    arrays = {
        WEIGHT + ".big": np.ones((64, 64, 1, 1), np.float32),
        "down": np.ones((1, 64, 1, 1), np.float32),
        "up": np.ones((64, 1, 1, 1), np.float32),
        "axes": np.array([2, 3]),
    }
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    graph.output[0].name = x


MALFORMED: dict[str, tuple[Callable[[onnx.GraphProto], object], str]] = {
    "no weight": (lambda g: g.initializer.remove(tensor(g, WEIGHT)), "nothing makes"),
    "no matrix": (lambda g: g.initializer.remove(tensor(g, UP)), "nothing makes"),
    "no bias": (lambda g: g.initializer.remove(tensor(g, "g_s.blocks.0.expand.bias")), "nothing makes"),
    "other rank": (lambda g: replace(g, UP, np.zeros((16, 3, 1, 1), np.float32)), "does not fit"),
    "other outputs": (lambda g: replace(g, UP, np.zeros((17, 2, 1, 1), np.float32)), "does not fit"),
    "other inputs": (lambda g: replace(g, DOWN, np.zeros((2, 9, 1, 1), np.float32)), "does not fit"),
    "other bias": (lambda g: replace(g, "g_s.blocks.0.expand.bias", np.zeros(3, np.float32)), "does not fit"),
    "a bias of rank 2": (lambda g: replace(g, "g_s.blocks.0.expand.bias", np.zeros((16, 1), np.float32)), "not fit"),
    "a shape of more": (lambda g: tensor(g, WEIGHT).dims.__setitem__(0, 2**40), "than its shape says"),
    "a shape of 2^62": (lambda g: tensor(g, WEIGHT).dims.__setitem__(slice(0, 2), [2**31, 2**31]), "its shape says"),
    "a negative shape": (lambda g: tensor(g, WEIGHT).dims.__setitem__(slice(0, 2), [-16, -8]), "its shape says"),
    "cut weights": (lambda g: setattr(tensor(g, UP), "raw_data", b"123"), "its shape says"),
    "other parts": (lambda g: replace(g, node(g, "Split").input[1], np.full(14, 2**60)), "do not split"),
    "negative parts": (lambda g: replace(g, node(g, "Split").input[1], np.full(14, -1)), "do not split"),
    "fewer parts": (lambda g: replace(g, node(g, "Split").input[1], np.array([92])), "do not split"),
    "other gate": (lambda g: node(g, "g_s.blocks.0.inner/Mul").input.__setitem__(0, "Unsqueeze"), "no vector of 2"),
    "other shift": (lambda g: node(g, "g_s.blocks.0.inner/Add").input.__setitem__(1, "Unsqueeze_2"), "no vector of"),
    "an order of others": (lambda g: replace(g, ORDER, np.zeros(192, np.int64)), "no order of 192"),
    "an order of fewer": (lambda g: replace(g, ORDER, np.arange(191)), "no order of 192"),
    "an order of floats": (lambda g: replace(g, ORDER, np.zeros(192, np.float32)), "no order of 192"),
    "shared weights": (share, "share their weights"),
    "another input": (lambda g: setattr(g.input[1], "name", "beta"), "no input condition"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_graphs_are_refused_in_one_line(model: UGICM, head: bytes, case: str) -> None:
    change, words = MALFORMED[case]
    changed = onnx.load_from_string(head)
    change(changed.graph)
    vector = np.ones((1, 1), np.float32) if case == "shared weights" else vectors_of(model, 1.0)
    with pytest.raises(BundleError, match=words) as caught:
        with_condition(changed.SerializeToString(), "condition", vector, Path("b") / "g_s.onnx")
    message = str(caught.value)
    assert message.startswith("b/g_s.onnx: ") and "\n" not in message and len(message) < 300


@pytest.mark.parametrize("shape", [(1, 91), (91,), (2, 46), (0, 0), (1, 92, 1)])
def test_vectors_of_another_shape_are_refused(head: bytes, shape: tuple[int, ...]) -> None:
    with pytest.raises(UgicError) as caught:  # here, or by the library that gets it as a constant
        BACKEND.load(with_condition(head, "condition", np.ones(shape, np.float32)), "g_s")
    assert "\n" not in str(caught.value)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_files_are_refused_or_rewritten(head: bytes, data: st.DataObject) -> None:
    damaged = bytearray(head)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged)[: data.draw(st.one_of(st.just(len(head)), st.integers(0, len(head))))]
    try:
        assert len(with_condition(cut, "condition", np.ones((1, 92), np.float32))) < 4 * len(head)
    except BundleError as error:
        assert "\n" not in str(error)


# ---- in the codec


@pytest.mark.parametrize("condition", ["human", "machine", 0.4])
def test_views_are_those_of_the_general_graph(codec: Codec, photograph: np.ndarray, condition: str | float) -> None:
    data = codec.encode(photograph)
    folded = codec.decode(data, condition)
    gain = codec.bundle.inverse_gain[DEFAULT_QUALITY - 1 : DEFAULT_QUALITY]
    y_hat = decoded_latents(codec, data)
    features = codec.networks.whole("g_s_trunk", {"y_hat": y_hat, "inverse_gain": gain})
    general = BACKEND.load(codec.bundle.graph("g_s")[1], "g_s")
    vector = codec.condition(condition)
    expected = general({"features": features, "condition": vector})[0][0]
    assert apart(folded, expected) <= 1
    assert (folded != expected).mean() < 1e-3


def test_sessions_of_views_are_made_once_and_given_up(codec: Codec, photograph: np.ndarray) -> None:
    own = Codec(codec.bundle, codec.backend)
    data = own.encode(photograph[:64, :64])
    first = own.decode(data, 0.1)
    (session,) = own.networks._opened.views.values()
    gone = weakref.ref(session)
    assert np.array_equal(own.decode(data, 0.1), first) and list(own.networks._opened.views.values()) == [session]
    del session
    own.decode_views(data, ["human", "machine", 0.0, 1.0])  # two views by two names each
    assert len(own.networks._opened.views) == 3 and gone() is not None
    for beta in np.linspace(0.2, 0.8, VIEWS_KEPT):
        own.decode(data, float(beta))
        assert len(own.networks._opened.views) <= VIEWS_KEPT
    gc.collect()
    assert gone() is None
    assert np.array_equal(own.decode(data, 0.1), first)


def test_a_bundle_with_such_a_graph_is_refused_when_a_view_is_asked_for(codec: Codec) -> None:
    entry, model = codec.bundle.graph("g_s")
    changed = onnx.load_from_string(model)
    changed.graph.initializer.remove(tensor(changed.graph, UP))

    class Broken(Bundle):
        def graph(self, name: str) -> tuple[GraphEntry, bytes]:
            return (entry, changed.SerializeToString()) if name == "g_s" else super().graph(name)

    contents = {name: codec.bundle.file(name) for name in codec.bundle.manifest.files}
    broken = Codec(Broken(codec.bundle.path, codec.bundle.manifest, contents), codec.backend)
    data = codec.encode(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(BundleError, match="nothing makes 'g_s.blocks.0.inner.up.weight"):
        broken.decode(data, "machine")
