"""Bundles to engines: every graph of the shipped bundle in every precision parses and builds; what engines expect."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.calibrations import calibrated
from ugicm import Codec
from ugicm.export import to_tensorrt
from ugicm.export.device_graphs import DeviceGraphError, device_graphs
from ugicm.export.sample_inputs import sample_inputs
from ugicm.runtime.backends.gpu.engines import DeviceGraphs, Index, Sizes, profiles
from ugicm.runtime.backends.gpu.tensorrt_api import open_api
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError, UsageError

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 has wheels for Linux x86-64 and Windows only")

SIZES = {"min": "64x64", "opt": "128x192", "max": "512x768"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy of the shipped bundle, to be written into."""
    folder = tmp_path_factory.mktemp("bundle") / "shipped"
    shipped = Codec.from_bundle().bundle.path
    shutil.copytree(shipped, folder, ignore=shutil.ignore_patterns("engines"))
    return Bundle.open(folder)


def convert(bundle: Bundle, precision: str, *more: str) -> int:
    sizes = [text for name, size in SIZES.items() for text in (f"--{name}", size)]
    return to_tensorrt.main([str(bundle.path), "--precision", precision, "--package", "tensorrt-rtx", *sizes, *more])


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def built(request: pytest.FixtureRequest, bundle: Bundle) -> DeviceGraphs:
    """Every engine of the shipped bundle, built as a user builds them."""
    assert convert(bundle, request.param) == 0
    return DeviceGraphs.open(bundle, request.param)


@pytest.fixture(scope="module", params=["tensorrt", "fp8"])
def quantised_bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, common: Path) -> Bundle:
    """The shipped bundle quantised in a form that TensorRT reads; a copy, to be written into."""
    folder = tmp_path_factory.mktemp(request.param) / "out"
    shutil.copytree(calibrated(request.param, common), folder)
    return Bundle.open(folder)


def test_every_graph_of_a_quantised_bundle_builds(quantised_bundle: Bundle, capsys: pytest.CaptureFixture[str]) -> None:
    precision = quantised_bundle.manifest.precision
    kind = {"int8": TensorProto.INT8, "fp8": TensorProto.FLOAT8E4M3FN}[precision]
    assert convert(quantised_bundle, precision) == 0, capsys.readouterr().err
    graphs = DeviceGraphs.open(quantised_bundle, precision)
    folder = engine_folder(graphs)
    assert {p.stem for p in folder.glob("*.engine")} == set(quantised_bundle.manifest.general)
    models = {name: onnx.load_model_from_string(graphs.model(name)).graph for name in graphs.index.graphs}
    quantised = [n for n, g in models.items() if any(node.op_type == "DequantizeLinear" for node in g.node)]
    assert quantised and "h_s" not in quantised
    for name in quantised:
        zeros = {node.input[2] for node in models[name].node if node.op_type == "QuantizeLinear"}
        assert {w.data_type for w in models[name].initializer if w.name in zeros} == {kind}
    assert convert(quantised_bundle, "fp16") == 2
    assert f"ask for --precision {precision}" in capsys.readouterr().err


def engine_folder(graphs: DeviceGraphs) -> Path:
    (folder,) = (p for p in graphs.folder.iterdir() if p.is_dir())
    return folder


def test_every_graph_builds_and_expects_what_the_runtime_gives(bundle: Bundle, built: DeviceGraphs) -> None:
    inputs = sample_inputs(bundle, 128, 192)
    folder = engine_folder(built)
    assert folder.name.startswith("tensorrt-rtx-")
    for name in bundle.manifest.general:
        entry = bundle.manifest.graphs[name]
        assert (folder / f"{name}.engine").stat().st_size > 10_000
        sidecar = json.loads((folder / f"{name}.json").read_text())
        assert sidecar["key"]["flags"] == ["strongly typed", "no TF32"]
        wanted = {"symbols_bytes" if n == "symbols" else n for n in entry.inputs}
        assert {tensor["name"] for tensor in sidecar["inputs"]} == wanted
        assert [tensor["name"] for tensor in sidecar["outputs"]] == list(entry.outputs)
        kinds = {t["name"]: t["dtype"] for t in (*sidecar["inputs"], *sidecar["outputs"])}
        for tensor, dtype in kinds.items():
            assert dtype == ("uint8" if tensor in ("image", "symbols_bytes", "scale_index") else "float32"), tensor
        for tensor, (least, usual, most) in sidecar["key"]["profile"].items():
            given = inputs[name]["symbols" if tensor == "symbols_bytes" else tensor]
            shape = (*given.shape, 2) if tensor == "symbols_bytes" else given.shape
            assert tuple(usual) == shape, (name, tensor)  # at --opt, exactly what the codec feeds
            assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))


def test_every_engine_takes_batches_beside_single_images(bundle: Bundle, built: DeviceGraphs) -> None:
    """Up to 16, as a server hands them over; the real builder has accepted both profiles of every graph."""
    folder = engine_folder(built)
    for name in bundle.manifest.general:
        key = json.loads((folder / f"{name}.json").read_text())["key"]
        if name == "condition":  # of no images
            assert key["batches"] is None
            continue
        for tensor, shapes in key["batches"].items():
            one = key["profile"][tensor]
            images = (1, 1, 1) if tensor in ("gain", "inverse_gain", "anchor") else (2, 16, 16)
            assert tuple(shape[0] for shape in shapes) == images, (name, tensor)
            assert [shapes[i][1:] for i in (0, 2)] == [one[i][1:] for i in (0, 2)]
    image = json.loads((folder / "g_a.json").read_text())["key"]["batches"]["image"]
    assert image[1] == [16, 128, 192, 3]  # --opt, whose batch is small

    large = replace(built.index, sizes=Sizes((64, 64), (1088, 1920), (2176, 3840)))
    network = open_api("tensorrt-rtx").parse(built.model("g_a"), "g_a")
    one, batch = (found["image"] for found in profiles(network, large))
    assert one[1] == (1, 1088, 1920, 3) and batch[1] == (16, 512, 896, 3)  # less than 8 megapixels together
    assert profiles(network, replace(large, batch=1)) == [profiles(network, large)[0]]


def test_the_exact_path_is_fp32_in_every_precision_and_serves_the_golden_vectors(
    bundle: Bundle, built: DeviceGraphs
) -> None:
    model = onnx.load_model_from_string(built.model("h_s"))
    kinds = {w.data_type for w in model.graph.initializer}
    assert TensorProto.FLOAT16 not in kinds
    assert not any(
        node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.FLOAT16
        for node in model.graph.node
    )
    sidecar = json.loads((engine_folder(built) / "h_s.json").read_text())
    least, _, most = sidecar["key"]["profile"]["z"]
    for name, z in bundle.golden.items():
        if name.startswith("z"):
            assert all(a <= n <= b for a, n, b in zip(least, z.shape, most, strict=True))


def test_tf32_is_off_in_the_builder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    api = open_api("tensorrt-rtx")
    graphs = device_graphs(bundle, "fp32")
    network = api.parse(graphs["h_s"].model, "h_s")
    seen: list[bool] = []
    create = type(network.builder).create_builder_config

    def recorded(self: object) -> object:
        config = create(self)
        assert config.get_flag(api.module.BuilderFlag.TF32)  # on, unless somebody clears it
        configs.append(config)
        return config

    configs: list = []
    monkeypatch.setattr(type(network.builder), "create_builder_config", recorded)
    index = Index("", "fp32", 64, Sizes((64, 64), (64, 64), (128, 128)), None, {}, (1, 1))
    api.build(network, profiles(network, index))
    seen = [config.get_flag(api.module.BuilderFlag.TF32) for config in configs]
    assert seen == [False]


def test_engines_are_kept_while_their_key_is_the_same(
    bundle: Bundle, built: DeviceGraphs, caplog: pytest.LogCaptureFixture
) -> None:
    api = open_api("tensorrt-rtx")
    file = engine_folder(built) / "condition.engine"
    engine = built.engine(api, "condition", "any")
    assert not engine.built and engine.data == file.read_bytes()
    with caplog.at_level(logging.WARNING):
        moved = DeviceGraphs(built.folder, replace(built.index, workspace=2**28))
        assert moved.engine(api, "condition", "any").built
        assert "another workspace" in caplog.text
        assert built.engine(api, "condition", "any").built  # and back
        caplog.clear()
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
        assert built.engine(api, "condition", "any").built
        assert "its bytes changed" in caplog.text
        caplog.clear()
        (engine_folder(built) / "condition.json").write_text("{")
        assert built.engine(api, "condition", "any").built
        assert "malformed" in caplog.text
        caplog.clear()
        assert built.engine(api, "condition", "any", usable=lambda engine: False).built
        assert "does not load here" in caplog.text
        caplog.clear()
        other = engine_folder(built)
        assert built.engine(api, "condition", "sm_89").built
        assert "there is only one for" in caplog.text and other.name in caplog.text
        shutil.rmtree(built.folder / other.name.replace("-any", "-sm_89"))


def test_the_bundle_ignores_its_engines(bundle: Bundle, built: DeviceGraphs) -> None:
    again = Bundle.open(bundle.path)
    assert again.codec_id == bundle.codec_id
    assert "engines" not in json.dumps(sorted(again.manifest.files))


def test_changed_or_foreign_graphs_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    assert convert(bundle, "fp32", "--package", "none", "-o", str(tmp_path)) == 0
    root = tmp_path / bundle.manifest.codec_id
    graphs = DeviceGraphs.open(bundle, "fp32", root)
    file = graphs.folder / "g_s.onnx"
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(BackendError, match="changed since export"):
        graphs.model("g_s")
    with pytest.raises(BackendError, match="holds no device graphs; run: python -m ugicm.export.to_tensorrt"):
        DeviceGraphs.open(bundle, "fp16", root)
    index = graphs.folder / "graphs.json"
    values = json.loads(index.read_text())
    for change, message in (
        ({"codec_id": "0" * 16}, "was made for codec"),
        ({"graphs": {**values["graphs"], "g_s": {"sha256": "", "source": ""}}}, "from another bundle"),
        ({"sizes": {}}, "malformed"),
        ({"batch": 0}, "malformed"),
    ):
        index.write_text(json.dumps({**values, **change}))
        with pytest.raises(BackendError, match=message):
            DeviceGraphs.open(bundle, "fp32", root)


def test_parser_errors_name_the_node() -> None:
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])
    node = helper.make_node("StringNormalizer", ["x"], ["s"], name="strange/node")
    size = helper.make_node("Size", ["s"], ["k"], name="size")
    cast = helper.make_node("Cast", ["k"], ["y"], name="cast", to=TensorProto.FLOAT)
    source = helper.make_tensor_value_info("x", TensorProto.STRING, ["n"])
    model = helper.make_model(
        helper.make_graph([node, size, cast], "g", [source], [out]), opset_imports=[helper.make_opsetid("", 20)]
    )
    with pytest.raises(BackendError, match="refuses graph odd"):
        open_api("tensorrt-rtx").parse(model.SerializeToString(), "odd")
    floats = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1, 4, 4])
    deform = helper.make_node("MaxUnpool", ["x", "i"], ["y"], name="strange/node", kernel_shape=[2, 2], strides=[2, 2])
    ids = helper.make_tensor_value_info("i", TensorProto.INT64, [1, 1, 4, 4])
    model = helper.make_model(
        helper.make_graph([deform], "g", [floats, ids], [helper.make_tensor_value_info("y", 1, None)]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    with pytest.raises(BackendError, match=r"node strange/node \(MaxUnpool\)"):
        open_api("tensorrt-rtx").parse(model.SerializeToString(), "odd")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "fp8"], "python -m ugicm.calibration.int8 --form fp8"),
        (["--precision", "int8"], "python -m ugicm.calibration.int8"),
        (["--max", "64x64"], "out of order"),
        (["--opt", "big"], "not HEIGHTxWIDTH"),
        (["--workspace", "0"], "at least 1 MiB"),
        (["--batch", "0"], "--batch 0: use a number from 1 to 256"),
        (["--package", "tensorrt"], "pip install 'ugicm\\[tensorrt\\]'"),
    ],
)
def test_every_mistake_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import re

    assert to_tensorrt.main(["--package", "none", "-o", str(tmp_path), *arguments]) == 2
    captured = capsys.readouterr()
    assert re.search(message, captured.err) and len(captured.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_sizes_round_up_to_the_stride() -> None:
    assert to_tensorrt.parse_sizes("1x1", "1080x1920", "2160x3840", 64) == Sizes((64, 64), (1088, 1920), (2176, 3840))
    with pytest.raises(UsageError):
        to_tensorrt.parse_size("0x5", 64)


def test_progress_is_told(bundle: Bundle) -> None:
    api = open_api("tensorrt-rtx")
    network = api.parse(device_graphs(bundle, "fp32")["condition"].model, "condition")
    index = Index("", "fp32", 64, Sizes((64, 64), (64, 64), (64, 64)), None, {}, (1, 1))
    steps: list[tuple[str, int, int]] = []
    engine, _ = api.build(network, profiles(network, index), progress=lambda *step: steps.append(step))
    assert len(engine) > 10_000 and steps
    assert steps[-1][1] == steps[-1][2]


def test_a_strayed_graph_is_refused(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from ugicm.export import device_graphs as module

    def wrong(model: onnx.ModelProto) -> onnx.ModelProto:
        half = module.simulated(model)
        weight = max(half.graph.initializer, key=lambda w: w.ByteSize())
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float16(0.9), weight.name))
        return half

    monkeypatch.setattr(module, "to_half", wrong)
    with pytest.raises(DeviceGraphError, match="differs from fp32"):
        module.device_graphs(bundle, "fp16")
