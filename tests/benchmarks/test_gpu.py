"""The GPU benchmark from its first line to its last, on the CPU: what is missing becomes rows."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest

from benchmarks.gpu import command as gpu
from tests.runtime.backends.stand_ins import Cuda
from tests.small import small
from ugicm.runtime.backends.gpu import cuda, onnxruntime_cuda
from ugicm.runtime.backends.gpu.device import LoadedGraph
from ugicm.runtime.backends.gpu.onnxruntime_cuda import BoundSession
from ugicm.runtime.backends.onnxruntime import session_options
from ugicm.training.checkpoint import save, weights_of


def test_it_runs_to_the_end_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, checkpoint = tmp_path / "rows.json", tmp_path / "small.pt"
    save(checkpoint, weights_of(small("fast")))
    assert gpu.main(["--cpu", "--runs", "1", "--json", str(file), "--checkpoint", str(checkpoint)]) == 0
    found = json.loads(file.read_text())
    rows = found["rows"]
    assert found["environment"]["cores"] >= 1
    measured = {(r["section"], r["subject"], r["metric"]) for r in rows if r["value"] is not None}
    for subject in ("onnxruntime (CPU)", "torch (cpu), TF32 off"):
        assert ("exactness", subject, "scale indexes that differ") in measured
    assert all(r["value"] == 0 for r in rows if r["section"] == "exactness" and r["value"] is not None)
    cpu = "onnxruntime (CPU) fp32"
    for verb in ("encode", "decode"):
        assert {("networks", cpu, verb), ("codec", cpu, f"{verb}, one file"), ("throughput", cpu, verb)} <= measured
    assert ("networks", "torch eager fp32", "decode") in measured
    missing = [r for r in rows if r["value"] is None]
    assert all(r["note"] for r in missing)
    assert any("tensorrt" in r["subject"] and "pip install" in r["note"] for r in missing)
    unexpected = ("AttributeError", "NameError", "TypeError", "KeyError", "ImportError", "AssertionError")
    assert not [r for r in missing if r["note"].startswith(unexpected)]
    printed = capsys.readouterr().out
    assert "ugicm[" in printed  # the tables do not take it for markup
    assert f"{len(rows) - len(missing)} figures" in printed


def test_what_comes_too_late_is_left_out_by_name(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    assert gpu.main(["--cpu", "--minutes", "0", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert rows and all(r["value"] is None and "minutes are over" in r["note"] for r in rows)


class BoundOnHost(onnxruntime_cuda.OnnxRuntimeCuda):
    """The backend with sessions of the CPU provider on the stand-in's memory."""

    def __init__(self, graphs: object = None, capture: bool = True, tf32: bool = False) -> None:
        self._library, self._graphs, self._capture, self._tf32 = onnxruntime, graphs, capture, tf32
        self.device = cuda.open_device()

    def load(self, model: bytes, name: str, weights: object = None) -> LoadedGraph:
        model = model if self._graphs is None else self._graphs.model(name)  # type: ignore[attr-defined]

        def make(capture: bool) -> object:
            return onnxruntime.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])

        return LoadedGraph(self.device, BoundSession(make, self.device, ("cpu", 0), name, False), name)


def test_the_rows_of_a_gpu_on_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way that a GPU would take, so that it is taken at the first try there; the figures mean nothing."""
    library = Cuda()
    monkeypatch.setattr(cuda, "_library", lambda: library)
    monkeypatch.setattr(onnxruntime_cuda, "OnnxRuntimeCuda", BoundOnHost)
    monkeypatch.setattr(gpu, "SIZES", {"768×512": (64, 128)})
    cuda.open_device.cache_clear()
    file = tmp_path / "rows.json"
    try:
        assert gpu.main(["--runs", "2", "--files", "2", "--workers", "1", "--json", str(file)]) == 0
    finally:
        cuda.open_device.cache_clear()
    found = json.loads(file.read_text())
    assert found["environment"]["gpu"] == "stand-in"
    measured = {(r["section"], r["subject"], r["metric"]): r for r in found["rows"] if r["value"] is not None}
    for form in ("qdq", "float"):
        assert (
            measured["exactness", f"onnxruntime-cuda, {form} form, TF32 off", "scale indexes that differ"]["value"] == 0
        )
    for subject in ("onnxruntime-cuda fp32", "onnxruntime-cuda fp16 with CUDA graphs"):
        assert "MiB more" in measured["networks", subject, "decode"]["note"]
        assert measured["stages", subject, "g_s"]["value"] > 0  # what the stand-in's events say
    assert "entropy coder" in measured["codec", "onnxruntime-cuda fp16", "decode, one file"]["note"]
    assert measured["throughput", "onnxruntime-cuda fp16", "decode"]["value"] > 0
    refused = {r["subject"]: r["note"] for r in found["rows"] if r["value"] is None}
    assert "PyTorch sees no GPU" in refused["torch eager fp32"]
    assert not [note for subject, note in refused.items() if subject.startswith("onnxruntime-cuda")]
