"""Graphs in double precision: what PyTorch computes in float64, and where exports turn to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.compressai_models import lively_variable, photograph
from tests.zoo_bundles import exported
from ugicm import Codec
from ugicm.export import guarding
from ugicm.export.device_graphs import DeviceGraphError, device_graphs
from ugicm.export.double import FLOATS, DoubleError, for_runtime
from ugicm.export.to_onnx import main as export
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands.info import describe_bundle

DOUBLE = TensorProto.DOUBLE


def model_of(
    nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], **weights: np.ndarray
) -> onnx.ModelProto:
    """Doubles of any four sizes."""

    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, DOUBLE, [None] * 4)

    stored = [numpy_helper.from_array(v, k) for k, v in weights.items()]
    graph = helper.make_graph(nodes, "g", [value(i) for i in inputs], [value(o) for o in outputs], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)  # type: ignore[no-any-return]


@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(0, 3),
    st.booleans(), st.integers(0, 2**32 - 1),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_a_convolution_is_that_of_float64(
    height: int, width: int, stride: int, dilation: int, groups: int, pad: int, bias: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    kernel = rng.standard_normal((2 * groups, 3, height, width))
    weights = {"w": kernel} | ({"b": rng.standard_normal(2 * groups)} if bias else {})
    node = helper.make_node(
        "Conv", ["x", *weights], ["index"], strides=[stride] * 2, dilations=[dilation] * 2, group=groups,
        pads=[pad, 0, 1, pad],
    )  # fmt: skip
    x = rng.standard_normal((2, 3 * groups, 9, 8))
    model = for_runtime(model_of([node], ["x"], ["index"], **weights))
    padded = torch.nn.functional.pad(torch.from_numpy(x), (0, pad, pad, 1))
    arrays = [torch.from_numpy(v) for v in weights.values()]
    expected = torch.nn.functional.conv2d(padded, *arrays, stride=stride, dilation=dilation, groups=groups)
    (found,) = run(model, x=x)
    assert found.dtype == np.float32 and found.shape == tuple(expected.shape)
    assert np.abs(found - expected.numpy()).max() <= 1e-6 * max(1, float(expected.abs().max()))
    model.graph.output[0].name = model.graph.node[-1].input[0]  # before it is rounded
    model.graph.output[0].type.tensor_type.elem_type = DOUBLE
    assert np.abs(run(model, x=x)[0] - expected.numpy()).max() <= 1e-12 * max(1, float(expected.abs().max()))


def test_arrays_of_the_runtime_stay_floats_and_others_are_doubles() -> None:
    nodes = [helper.make_node("LeakyRelu", ["z"], ["a"], alpha=0.1), helper.make_node("Add", ["a", "c"], ["hyper"])]
    model = for_runtime(model_of(nodes, ["z"], ["hyper"], c=np.full((1, 1, 1, 1), 0.1)))
    (found,) = run(model, z=np.array([[[[-3.0, 2.0]]]], np.float32))
    assert found.dtype == np.float64 and np.array_equal(found.flat, [-3 * 0.1 + 0.1, 2 + 0.1])
    assert "z" in FLOATS and "hyper" not in FLOATS
    steep = helper.make_node("LeakyRelu", ["z"], ["hyper"], alpha=-2.0)
    with pytest.raises(DoubleError, match="slope of -2"):
        for_runtime(model_of([steep], ["z"], ["hyper"]))
    unknown = helper.make_node("Conv", ["z", "hyper"], ["index"])
    with pytest.raises(DoubleError, match="constant kernels"):
        for_runtime(model_of([unknown], ["z", "hyper"], ["index"]))


def test_a_gelu_is_that_of_float64() -> None:
    x = np.concatenate([np.linspace(-12, 12, 200_001), [-1e300, -0.0, 1e300, 1e-300]]).reshape(1, 1, 1, -1)
    (found,) = run(for_runtime(model_of([helper.make_node("Gelu", ["x"], ["hyper"])], ["x"], ["hyper"])), x=x)
    expected = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert np.abs(found - expected).max() <= 1e-12
    bent = helper.make_node("Gelu", ["x"], ["hyper"], approximate="tanh")
    with pytest.raises(DoubleError, match="approximation"):
        for_runtime(model_of([bent], ["x"], ["hyper"]))


@pytest.fixture(scope="module", params=["mbt2018-mean-vbr", "mbt2018-vbr"])
def doubled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A codec whose scales stray too far for any band, as export is told, and its bundle beside it."""
    folder = tmp_path_factory.mktemp("double")
    widths = (6, 9, False) if request.param == "mbt2018-mean-vbr" else (6, 9)
    torch.save({"state_dict": lively_variable(request.param, *widths).state_dict()}, folder / "c.pth.tar")
    measure = guarding.measure_deviation

    def farther(*args: object, double: bool, **options: object) -> object:
        found = measure(*args, double=double, latents=0, **options)  # type: ignore[arg-type]
        return found if double else found._replace(largest=0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guarding, "measure_deviation", farther)
        assert export([str(folder / "c.pth.tar"), "-o", str(folder / "c")]) == 0
    return folder


def test_a_codec_too_loud_for_floats_decodes_the_same_everywhere(doubled: Path) -> None:
    bundle = Bundle.open(doubled / "c")
    assert bundle.manifest.schedule is not None and bundle.manifest.schedule.band_bits == 12
    codec = Codec(bundle, OnnxRuntime(threads=1))
    image = photograph(70, 90)
    data = codec.encode(image, quality=5)
    for level in LEVELS:
        other = Codec(bundle, OnnxRuntime(threads=2, level=level))
        assert np.abs(other.decode(data).astype(int) - codec.decode(data)).max() <= 1
        assert other.encode(image, quality=5) == data


def test_a_bundle_says_that_its_stages_are_doubles_and_gpus_refuse_it(doubled: Path) -> None:
    assert describe_bundle(doubled / "c")["double"]
    with pytest.raises(DeviceGraphError, match="double precision, which CPUs alone run"):
        device_graphs(Bundle.open(doubled / "c"), "fp16")


def test_the_search_spends_effort_on_it_too(doubled: Path) -> None:
    codec = Codec(Bundle.open(doubled / "c"), OnnxRuntime(threads=1))
    image = photograph(64, 64)
    files = {quality: codec.encode(image, quality=quality, effort=1) for quality in range(1, 9)}
    assert all(codec.decode(file).shape == image.shape for file in files.values())
    # Of random weights some pictures leave nothing to search for.
    assert any(file != codec.encode(image, quality=quality) for quality, file in files.items()), "nothing was searched"


def test_double_precision_can_be_asked_for_and_makes_files_smaller(
    staged_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], common: Path
) -> None:
    assert export([str(staged_checkpoint), "-o", str(tmp_path / "b"), "--stages", "fp64"]) == 0
    asked, plain = (
        Codec(Bundle.open(p), OnnxRuntime(threads=1)) for p in (tmp_path / "b", staged_checkpoint.with_name("bundle"))
    )
    assert describe_bundle(tmp_path / "b")["double"] and not describe_bundle(plain.bundle.path)["double"]
    image = photograph(96, 96)
    assert len(asked.encode(image)) <= len(plain.encode(image))
    assert np.abs(asked.decode(asked.encode(image)).astype(int) - plain.decode(plain.encode(image))).max() <= 1
    checkpoint = exported("bmshj2018-hyperprior", common)
    assert export([str(checkpoint), "-o", str(tmp_path / "c"), "--stages", "fp64"]) == 2
    assert "need no stages" in capsys.readouterr().err and not (tmp_path / "c").exists()
