"""Codecs with context on GPUs: every graph parses and builds; only the transforms are halved; files are the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.runtime.backends.host_device import HostBackend
from ugicm import Codec
from ugicm.export import to_tensorrt
from ugicm.export.sample_inputs import sample_inputs
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.bundle import Bundle

HALVED = {"g_a", "h_a", "g_s"}


@pytest.fixture(scope="module")
def bundle(staged_checkpoint: Path) -> Bundle:
    return Bundle.open(staged_checkpoint.with_name("bundle"))


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def graphs(request: pytest.FixtureRequest, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> DeviceGraphs:
    """Device graphs, and engines where TensorRT-RTX is installed, for pictures of at least 128×192."""
    folder = tmp_path_factory.mktemp("engines")
    try:
        import tensorrt_rtx  # noqa: F401

        package = "tensorrt-rtx"
    except ImportError:
        package = "none"
    sizes = ["--min", "128x192", "--opt", "128x192", "--max", "256x384"]
    arguments = [str(bundle.path), "--precision", request.param, "--package", package, *sizes, "-o", str(folder)]
    assert to_tensorrt.main(arguments) == 0
    return DeviceGraphs.open(bundle, request.param, folder / bundle.manifest.codec_id)


def test_stages_stay_fp32(graphs: DeviceGraphs) -> None:
    for name in graphs.index.graphs:
        kinds = {w.data_type for w in onnx.load_model_from_string(graphs.model(name)).graph.initializer}
        assert (TensorProto.FLOAT16 in kinds) == (graphs.index.precision == "fp16" and name in HALVED), name


def test_every_graph_builds_and_takes_golden_vectors(bundle: Bundle, graphs: DeviceGraphs) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 has wheels for Linux x86-64 and Windows only")
    inputs = sample_inputs(bundle, 128, 192)
    (folder,) = (p for p in graphs.folder.iterdir() if p.is_dir())
    for name, entry in bundle.manifest.graphs.items():
        sidecar = json.loads((folder / f"{name}.json").read_text())
        assert {t["name"] for t in sidecar["inputs"]} == set(entry.inputs)
        assert [t["name"] for t in sidecar["outputs"]] == list(entry.outputs)
        for tensor, (least, usual, most) in sidecar["key"]["profile"].items():
            assert tuple(usual) == inputs[name][tensor].shape, (name, tensor)
            if tensor == "z" or name.startswith("stage"):  # golden vectors begin at one position of z
                assert max(least[2:], default=0) <= 4
            assert all(a <= b <= c for a, b, c in zip(least, usual, most, strict=True))


def test_a_device_decodes_the_same_symbols(bundle: Bundle, graphs: DeviceGraphs, photograph: np.ndarray) -> None:
    device, host = Codec(bundle, HostBackend(graphs)), Codec.from_bundle(bundle.path, threads=1)  # type: ignore[arg-type]
    for one, other in ((host, device), (device, host)):
        data = one.encode(photograph)
        found, expected = (np.asarray(c.decode(data)).astype(int) for c in (other, one))
        assert np.abs(found - expected).max() <= (1 if graphs.index.precision == "fp32" else 4)


def test_a_decoders_bundle_has_device_graphs_too(bundle: Bundle) -> None:
    from dataclasses import replace

    graphs = {name: entry for name, entry in bundle.manifest.graphs.items() if name not in ("g_a", "h_a")}
    contents = {name: bundle.file(name) for name in bundle.manifest.files}
    inputs = sample_inputs(Bundle(bundle.path, replace(bundle.manifest, part="decoder", graphs=graphs), contents))
    assert inputs.keys() == graphs.keys() and np.abs(inputs["g_s"]["y_hat"]).max() > 0
