"""Views: the graph without a condition, and weights that have it, against the general graph."""

from __future__ import annotations

import copy
import gc
import weakref
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from tests.runtime.steps import decoded_latents
from tests.small import lively, lively_exported
from ugicm import Codec
from ugicm.export.forms.views import inlined, view_graph
from ugicm.export.ugicm import HeadGraph
from ugicm.models.ugicm import UGICM
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder.quality import DEFAULT_QUALITY
from ugicm.runtime.errors import BundleError
from ugicm.runtime.graphs.run import VIEWS_KEPT
from ugicm.runtime.graphs.views import view_weights
from ugicm.runtime.onnx_bytes.check import check_graph
from ugicm.runtime.onnx_bytes.weights import graph_weights

GOLDEN = Path(__file__).parents[2] / "golden" / "v1" / "bundle"
BACKEND = OnnxRuntime(threads=1)
PLAIN = Counter(Conv=10, Relu=3, Add=3)  # of three blocks and the last layer


@pytest.fixture(scope="module")
def model() -> UGICM:
    return lively("fast").eval()


@pytest.fixture(scope="module")
def head(common: Path) -> bytes:
    """The small model's `g_s`, as export writes it."""
    return exported("fast", common)


def exported(backbone: str, common: Path) -> bytes:
    return (lively_exported(backbone, common)[1] / "g_s.onnx").read_bytes()


def vectors_of(model: UGICM, beta: float) -> np.ndarray:
    with torch.no_grad():
        return model.preference(torch.tensor([beta])).numpy()


def features(channels: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, channels, 12, 10)).astype(np.float32)


def apart(found: np.ndarray, expected: np.ndarray) -> int:
    assert found.shape == expected.shape and found.std() > 10
    return int(np.abs(found.astype(int) - expected.astype(int)).max())


def fold(model: bytes, vector: np.ndarray) -> bytes:
    """The graph with a condition in its weights, as one file."""
    found = view_graph(onnx.load_from_string(model))
    assert found is not None
    weights = view_weights(graph_weights(model, "g_s"), found[1], vector)
    given = check_graph(found[0].SerializeToString(), GOLDEN)
    assert {name: weights[name].shape for name in given} == given
    return inlined(found[0], weights).SerializeToString()


@pytest.mark.parametrize("beta", [0.0, 0.37, 1.0])
def test_it_is_the_plain_network_of_the_same_picture(model: UGICM, head: bytes, beta: float) -> None:
    vector, x = vectors_of(model, beta), features(8)
    folded = fold(head, vector)
    graph = onnx.load_from_string(folded).graph
    onnx.checker.check_model(onnx.load_from_string(folded), full_check=True)
    assert Counter(node.op_type for node in graph.node) >= PLAIN and len(graph.node) < 60
    assert Counter(node.op_type for node in graph.node)["Conv"] == PLAIN["Conv"]
    assert [i.name for i in graph.input] == ["features"]
    read = {name for node in graph.node for name in node.input}
    assert {t.name for t in graph.initializer} <= read
    assert len(view_graph(onnx.load_from_string(head))[0].SerializeToString()) < 10_000  # no weights twice
    found = BACKEND.load(folded, "g_s")({"features": x})[0]
    general = BACKEND.load(head, "g_s")({"features": x, "condition": vector})[0]
    graph_module = HeadGraph(model)
    with torch.no_grad():
        vectors = model.preference.split(torch.from_numpy(vector))
        theirs = graph_module.output(model.g_s.folded_head(vectors)(torch.from_numpy(x))).numpy()
    assert apart(found, general) <= 1 and apart(found, theirs) <= 1
    other = BACKEND.load(fold(head, vectors_of(model, 0.6)), "g_s")({"features": x})[0]
    assert apart(found, other) > 5


def test_nothing_added_is_the_very_same_weights(codec: Codec) -> None:
    model = codec.bundle.graph("g_s")[1]
    before = graph_weights(model, "g_s")
    vector = np.zeros_like(next(iter(codec.bundle.condition_vectors.values())))
    after = view_weights(before, codec.bundle.manifest.views, vector)
    for name, weight in after.items():
        assert np.array_equal(weight, before.get(name, np.zeros_like(weight)))


@pytest.mark.parametrize("backbone", ["bmshj2018", "the first release"])
def test_a_condition_that_does_not_go_into_weights_has_no_view(
    backbone: str, photograph: np.ndarray, common: Path
) -> None:
    """Such a graph takes the condition as an input, whichever it is."""
    if backbone == "bmshj2018":
        assert view_graph(onnx.load_from_string(exported(backbone, common))) is None
        return
    bundle = Bundle.open(GOLDEN)
    assert not bundle.folds
    codec = Codec(bundle, BACKEND)
    human, other, machine = codec.decode_views(codec.encode(photograph), ["human", 0.4, "machine"])
    assert apart(human, other) > 0 and apart(other, machine) > 0


def test_a_tensor_that_something_else_reads_stays(head: bytes) -> None:
    changed = onnx.load_from_string(head)
    middle = next(n for n in changed.graph.node if n.name == "g_s.blocks.1.inner/Mul").output[0]
    changed.graph.output.append(onnx.helper.make_tensor_value_info(middle, TensorProto.FLOAT, None))
    assert view_graph(changed) is None


def test_a_sum_of_two_such_convolutions_of_other_inputs_is_left(head: bytes) -> None:
    changed = onnx.load_from_string(head)
    down = next(n for n in changed.graph.node if n.name == "g_s.blocks.1.inner.down/Conv")
    down.input[0] = "features"
    assert view_graph(changed) is None


# ---- in the bundle


def changed(codec: Codec, **join: object) -> Bundle:
    """The shipped bundle with the first of its joins changed."""
    bundle = copy.copy(codec.bundle)
    first, *rest = bundle.manifest.views
    bundle.manifest = replace(bundle.manifest, views=(replace(first, **join), *rest))
    return bundle


@pytest.mark.parametrize(
    "join",
    [
        {"weight": "nothing"},
        {"down": "nothing"},
        {"gate": (0, 3)},
        {"gate": (10**6, 10**6 + 16)},
        {"shift": (0, 3)},
        {"order": "g_s.blocks.0.depthwise.bias"},
        {"units": "nothing"},
        {"up": "g_s.blocks.0.depthwise.weight"},
    ],
    ids=str,
)
def test_joins_that_do_not_fit_are_one_error(codec: Codec, join: dict[str, object]) -> None:
    with pytest.raises(BundleError) as caught:
        changed(codec, **join).view(codec.bundle.condition_vectors["machine"])
    assert "\n" not in str(caught.value)


def test_a_condition_of_another_length_is_one_error(codec: Codec) -> None:
    with pytest.raises(BundleError):
        codec.bundle.view(np.ones((1, 5), np.float32))


def test_weights_are_given_to_the_view_graph_alone(codec: Codec, tmp_path: Path) -> None:
    view = codec.bundle.graph("g_s.view")[1]
    assert check_graph(view, tmp_path)
    manifest = codec.bundle.manifest
    graphs = {**manifest.graphs, "g_s": manifest.graphs["g_s.view"]}
    contents = {name: codec.bundle.file(name) for name in manifest.files}
    with pytest.raises(BundleError, match="outside of the file"):
        Bundle(tmp_path, replace(manifest, graphs=graphs), contents)


@pytest.mark.parametrize("key, value", [("location", "/etc/passwd"), ("offset", "0"), ("location", "")])
def test_a_weight_anywhere_else_is_refused(codec: Codec, tmp_path: Path, key: str, value: str) -> None:
    model = onnx.load_from_string(codec.bundle.graph("g_s.view")[1])
    tensor = next(t for t in model.graph.initializer if t.external_data)
    if key == "location":
        tensor.external_data[0].value = value
    else:
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(BundleError, match="outside of the file"):
        check_graph(model.SerializeToString(), tmp_path)


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
