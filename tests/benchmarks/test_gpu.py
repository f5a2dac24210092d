"""The GPU benchmark from its first line to its last, on the CPU: what is missing becomes rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import gpu

CHECKPOINT = Path(__file__).parents[2] / "checkpoints" / "ugicm-fast.pt"


def test_it_runs_to_the_end_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rows.json"
    assert gpu.main(["--cpu", "--runs", "1", "--json", str(file), "--checkpoint", str(CHECKPOINT)]) == 0
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
