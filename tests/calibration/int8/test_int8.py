"""INT8 bundles: made by the command line from the shipped codec, and used through the real codec."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.calibrations import TOLERANCE, calibrated, photographs
from ugicm import Codec
from ugicm.calibration.int8 import command as int8
from ugicm.calibration.int8.int8_bundle import view_model
from ugicm.calibration.int8.search import DB_A_DOUBLING
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.files.images import write_image
from ugicm.runtime.measures.metrics import psnr


@pytest.fixture(scope="module")
def bundle(common: Path) -> Path:
    return calibrated("cpu", common)


@pytest.fixture(scope="module")
def for_tensorrt(common: Path) -> Path:
    return calibrated("tensorrt", common)


@pytest.fixture(params=["bundle", "for_tensorrt"])
def either(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def test_no_seam_in_a_large_picture(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles overlap as far as features reach, which are bytes here, in either view."""
    from skimage import data

    whole, parts = Codec.from_bundle(bundle, threads=1), Codec.from_bundle(bundle, threads=1)
    parts.networks.area.work, parts.networks.area.smallest = 1.2e8, 0
    run, pieces = parts.networks.whole, list[int]()

    def watched(graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        out = run(graph, inputs)
        if graph == "g_s":
            pieces.append(out.size)
        return out

    monkeypatch.setattr(parts.networks, "whole", watched)
    features = whole.bundle.manifest.graphs["g_s_trunk"].outputs[0]
    trunk = onnx.load_model_from_string(whole.bundle.graph("g_s_trunk")[1])
    assert [o.type.tensor_type.elem_type for o in trunk.graph.output if o.name == features] == [onnx.TensorProto.UINT8]
    written = whole.encode(np.ascontiguousarray(data.astronaut()[:300, :290]), 4)
    for one, other in zip(*(c.decode_views(written, ["human", "machine"]) for c in (whole, parts)), strict=True):
        assert np.array_equal(one, other)
    assert max(pieces) < 320 * 320 * 3, "cut into tiles"


def test_it_is_the_same_codec(either: Path) -> None:
    before, after = Bundle.open(DEFAULT).manifest, Bundle.open(either).manifest
    assert (after.precision, after.codec_id) == ("int8", before.codec_id)
    untouched = ["tables.npz", "exact.npz", "golden.npz", "h_s.onnx", "context.onnx"]
    assert all(after.files[name] == before.files[name] for name in untouched)
    assert after.files["g_a.onnx"] != before.files["g_a.onnx"]


def test_effort_refines_as_a_float_network(bundle: Path) -> None:
    """The file is better in both decoders, at the price that the codec itself pays."""
    floating, integer = Codec.from_bundle(threads=1), Codec.from_bundle(bundle, threads=1)
    image = photographs()[0]

    def costs(data: bytes, price: float) -> list[float]:
        pictures = [codec.decode(data).astype(float) for codec in (integer, floating)]
        return [8 * len(data) + price * float(np.square(picture - image).sum()) for picture in pictures]

    less, plain, more = (integer.encode(image, quality) for quality in (4, 5, 6))
    free = [float(np.square(integer.decode(data).astype(float) - image).sum()) for data in (less, more)]
    price = 8 * (len(more) - len(less)) / (free[0] - free[1])
    refined = integer.encode(image, 5, effort=1)
    assert all(after < 0.99 * before for after, before in zip(costs(refined, price), costs(plain, price), strict=True))


def test_files_of_either_decode_in_the_other_within_the_tolerance(either: Path) -> None:
    """The mean over what was calibrated on: the tolerance holds for each half, twice it for both."""
    floating, integer = Codec.from_bundle(threads=1), Codec.from_bundle(either, threads=1)
    lost: dict[str, list[float]] = {"synthesis": [], "both": []}
    sizes = []
    for i, image in enumerate(photographs()):
        for quality in int8.chosen_qualities(i, 8):
            data, own = floating.encode(image, quality), integer.encode(image, quality)
            sizes.append((len(data), len(own)))
            assert own != data and not np.array_equal(integer.decode(data), floating.decode(data))
            for condition in ("human", "machine"):
                before = psnr(floating.decode(data, condition), image)
                assert psnr(floating.decode(own, condition), image) > before - 1
                lost["synthesis"].append(before - psnr(integer.decode(data, condition), image))
                lost["both"].append(before - psnr(integer.decode(own, condition), image))
    assert np.mean(lost["synthesis"]) < TOLERANCE + 1e-3
    floats, integers = np.sum(sizes, axis=0)
    bytes_lost = DB_A_DOUBLING * np.log2(integers / floats)  # files grow by what their half of the tolerance buys
    assert abs(bytes_lost) < TOLERANCE
    assert np.mean(lost["both"]) + bytes_lost < 2 * TOLERANCE + 0.02


def test_a_condition_between_and_any_size(either: Path) -> None:
    integer, floating = Codec.from_bundle(either, threads=1), Codec.from_bundle(threads=1)
    image = photographs()[0][:50, :71]
    data = integer.encode(image, 3)
    picture = integer.decode(data, 0.4)
    assert picture.shape == image.shape
    assert psnr(picture, floating.decode(data, 0.4)) > 35


def quantised_convolutions(graph: onnx.GraphProto) -> int:
    """How many have integers for both their input and their weights; a layer kept in float has the input alone."""
    made = {n.output[0]: n.op_type for n in graph.node}
    convolutions = [n for n in graph.node if n.op_type == "Conv"]
    return sum(all(made.get(name) == "DequantizeLinear" for name in n.input[:2]) for n in convolutions)


def test_onnx_runtime_makes_integer_kernels_of_the_cpu_form(bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    assert opened.view(opened.condition_vectors["machine"]) == (opened.graph("g_s.machine")[1], {})
    for name in ("g_a", "g_s_trunk", "g_s.human", "g_s.machine"):
        model = opened.graph(name)[1]
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(tmp_path / "optimised.onnx").graph
        constants = {t.name for t in optimised.initializer}
        fused = [node for node in optimised.node if node.op_type == "QLinearConv"]
        assert len(fused) == quantised_convolutions(onnx.load_from_string(model).graph) > 5
        assert all(node.input[8] in constants for node in fused)  # else another, slower kernel runs


def test_the_head_for_other_conditions_folds_in_float(bundle: Path) -> None:
    opened = Bundle.open(bundle)
    vector = opened.condition_vectors["machine"] / 2
    folded = onnx.load_from_string(view_model(opened, vector)).graph
    assert quantised_convolutions(folded) == 0
    # Nothing is left of the condition: one convolution where there were three.
    assert len([n for n in folded.node if n.op_type == "Conv"]) == 10


def test_the_tensorrt_form_has_what_tensorrt_reads_only(for_tensorrt: Path) -> None:
    manifest = Bundle.open(for_tensorrt).manifest
    for name in ("g_a", "h_a", "g_s_trunk", "g_s"):
        graph = onnx.load(for_tensorrt / f"{name}.onnx").graph
        constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        zeros = [constants[n.input[2]] for n in graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
        assert zeros and all(z.dtype == np.int8 and not z.any() for z in zeros)
        stored = [
            constants[n.input[0]] for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in constants
        ]
        assert all(w.dtype == np.int8 for w in stored)
        assert sum(quantised_convolutions(onnx.load(for_tensorrt / f"{n}.onnx").graph) for n in manifest.graphs) > 20


def test_it_prints_sensitivity_and_verdict_and_repeats_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", photographs()[0])
    outs = [tmp_path / "out", tmp_path / "again"]
    wide = ["--tolerance", "9", "--size", "64", "--threads", "1", "--repeat", "1"]
    for out in outs:
        assert int8.main([str(DEFAULT), str(tmp_path / "a.png"), "-o", str(out), *wide]) == 0
        said = capsys.readouterr().out
        assert "g_s.tail/Conv" in said and "synthesis: everything in INT8 loses" in said
        assert re.search(r"on this machine: ship (INT8|fp32)", said)
        assert "success" in said and not Bundle.open(out).manifest.model["int8"]["synthesis"]["float_layers"]
    first, second = ({p.name: p.read_bytes() for p in out.iterdir()} for out in outs)
    assert first == second
    assert int8.main([str(outs[0]), str(tmp_path / "a.png"), "-o", str(tmp_path / "twice")]) == 2
    assert "int8 bundle already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, t: [str(t / "none"), *a[1:]], "not a bundle"),
        (lambda a, t: [a[0], str(t / "none.png"), *a[2:]], "none.png"),
        (lambda a, t: [a[0], str(t / "empty"), *a[2:]], "holds no images"),
        (lambda a, t: [*a[:3], str(t / "full")], "holds something that is no bundle"),
        (lambda a, t: [*a[:3], str(t / "no" / "out")], "does not exist"),
        (lambda a, t: [*a, "--tolerance", "0"], "--tolerance"),
        (lambda a, t: [*a, "--repeat", "-1"], "--repeat"),
        (lambda a, t: [*a, "--form", "npu"], "--form"),
    ],
)
def test_errors_are_one_line(change, message, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    write_image(tmp_path / "a.png", photographs()[0])
    before = sorted(tmp_path.rglob("*"))
    arguments = [str(DEFAULT), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert int8.main(change(arguments, tmp_path)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error:") and said.count("\n") == 1 and message in said
    assert sorted(tmp_path.rglob("*")) == before


def test_tensorrt_parses_and_builds_its_form(for_tensorrt: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13: pip install 'ugicm[tensorrt]'")
    from ugicm.export.device_graphs import device_graphs

    graphs = device_graphs(Bundle.open(for_tensorrt), "int8")
    for name in ("g_a", "h_a", "g_s_trunk", "g_s"):
        logger = trt.Logger(trt.Logger.ERROR)
        builder = trt.Builder(logger)
        network = builder.create_network(0)
        parser = trt.OnnxParser(network, logger)
        assert parser.parse(graphs[name].model), [parser.get_error(i).desc() for i in range(parser.num_errors)]
        profile = builder.create_optimization_profile()
        for tensor in (network.get_input(i) for i in range(network.num_inputs)):
            spatial = range(1, 3) if tensor.shape[-1] == 3 else range(2, 4)
            sizes = [
                [n if n >= 0 else (64 * k if i in spatial else 1) for i, n in enumerate(tensor.shape)]
                for k in (1, 2, 4)
            ]
            profile.set_shape(tensor.name, *sizes)
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None
