"""A folder of checkpoints: each becomes a bundle or a line that says why not, and none stops the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.compressai_models import lively, photograph
from ugicm import Codec
from ugicm.export.to_onnx import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two names of one small model, something broken, and what is no checkpoint."""
    path = tmp_path_factory.mktemp("zoo")
    for name in ("b.pth.tar", "b.pt"):
        torch.save(lively("bmshj2018-factorized", 4, 6).state_dict(), path / name)
    (path / "a.pth").write_bytes(b"no checkpoint")
    (path / "README.md").write_text("weights")
    Image.fromarray(photograph(70, 33)).save(path / "picture.png")
    return path


def test_each_is_a_row_or_a_reason(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "-o", str(tmp_path / "out"), "--picture", str(folder / "picture.png")]) == 2
    found = capsys.readouterr()
    head, rule, row = found.out.splitlines()
    assert rule == "|" + "---|" * (head.count("|") - 1) and row.count("|") == head.count("|")
    assert row.startswith("| b.pt | bmshj2018-factorized | 0, 6 | ") and " none needed | 1 | " in row
    errors = found.err.splitlines()
    assert [line.startswith("error: ") for line in errors] == [True] * 3
    assert f"{folder / 'a.pth'}: not a checkpoint" in errors[0]
    assert f"{folder / 'b.pth.tar'}: b.pt has the bundle {tmp_path / 'out' / 'b'}" in errors[1]
    assert errors[2] == "error: 2 checkpoints not exported, see above"
    picture = photograph(70, 33)
    data = Codec.from_bundle(tmp_path / "out" / "b", threads=1).encode(picture)
    assert f"| {len(data):,} |" in row and np.asarray(Image.open(folder / "picture.png")).shape == (70, 33, 3)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "mbt2018"], "--arch is of one checkpoint"),
        (["--part", "decoder", "--picture", "x.png"], "--picture needs both halves"),
        (["--picture", "nowhere.png"], "nowhere.png"),
        (["-o", "a.pth"], "is a file; name a folder with -o"),
    ],
)
def test_what_cannot_be_is_one_line(
    folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main([str(folder), *arguments]) == 2
    found = capsys.readouterr()
    assert words in found.err and found.err.count("\n") == 1 and not found.out


def test_a_folder_without_checkpoints_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert "holds no checkpoint; they end in .pth" in capsys.readouterr().err
