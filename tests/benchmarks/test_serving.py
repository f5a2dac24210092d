"""The benchmark of servers and clusters where there are none."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import serving


def test_what_is_not_installed_is_left_out_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.util.find_spec
    missing = ("pytriton", "ray")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name in missing else real(name, *a))
    monkeypatch.setattr(sys, "argv", ["serving", str(tmp_path)])
    with pytest.raises(SystemExit, match="no pictures in it"):
        serving.main()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    assert serving.main() == 0
    printed = capsys.readouterr().out
    assert "1 files, 2 processes" in printed
    assert all(f"{name} is not installed: left out" in printed for name in missing)
