"""A sample of the damage that the benchmark does: every damaged file of two codecs is refused or gives its picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.corruption import main
from ugicm.runtime.bundle import DEFAULT


def test_no_damage_gives_another_picture(
    staged_checkpoint: Path, photograph: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(photograph[:128, :128]).save(tmp_path / "a.png")
    bundles = [str(DEFAULT), str(staged_checkpoint.with_name("bundle"))]
    counts = ["--changes", "200", "--truncations", "50", "--forgeries", "200", "--side", "128"]
    assert main([str(tmp_path), "--bundle", *bundles, *counts]) == 0
    out = capsys.readouterr().out
    assert "CorruptFileError" in out and "DesynchronisedError" in out and "ANOTHER" not in out
