"""A larger analysis beside the plain one: the same codec, another encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small import lively, lively_exported
from ugicm import Codec
from ugicm.export.to_onnx import main
from ugicm.models.growth import grown
from ugicm.runtime.effort.search import LARGER, Analysis
from ugicm.training.checkpoint import save, weights_of


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory, common: Path) -> tuple[Path, Path]:
    """The bundle of a small model, and the same with a larger analysis that computes something else."""
    folder = tmp_path_factory.mktemp("analysis")
    codec, plain = lively_exported("fast", common)
    larger = grown(lively("fast"), analysis_quarter=1, analysis_fine=2)
    for name, parameter in larger.g_a.named_parameters():
        if name.endswith("project.bias"):
            torch.nn.init.normal_(parameter, std=0.05)
    save(folder / "larger.pt", weights_of(larger))
    assert main([str(codec), "-o", str(folder / "both"), "--analysis", str(folder / "larger.pt")]) == 0
    return plain, folder / "both"


def test_effort_uses_the_larger_analysis(bundles: tuple[Path, Path], photograph: np.ndarray) -> None:
    plain, both = (Codec.from_bundle(path, threads=1) for path in bundles)
    assert both.bundle.codec_id == plain.bundle.codec_id and LARGER in both.bundle.manifest.graphs
    assert both.encode(photograph, 2) == plain.encode(photograph, 2)
    files = [codec.encode(photograph, 2, effort=1) for codec in (plain, both)]
    assert files[0] != files[1]
    assert np.array_equal(plain.decode(files[1]), both.decode(files[1]))


def test_large_pictures_go_through_it_in_tiles(bundles: tuple[Path, Path], photograph: np.ndarray) -> None:
    codec = Codec.from_bundle(bundles[1], threads=1)
    whole, _ = Analysis(codec.networks, photograph, effort=1)(1)
    codec.networks.area.work, codec.networks.area.smallest = 1.0, 64 * 64
    tiled, _ = Analysis(codec.networks, photograph, effort=1)(1)
    assert np.allclose(whole, tiled, atol=1e-4)


@pytest.mark.parametrize(
    ("change", "more", "word"),
    [
        ("log_gain", [], "differs from the codec in more than g_a"),
        (None, ["--arch", "mbt2018"], "leave one out"),
        ("format", [], "of two checkpoints of ugicm.training"),
    ],
)
def test_another_codecs_analysis_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str | None, more: list[str], word: str
) -> None:
    model = lively("fast")
    save(tmp_path / "codec.pt", weights_of(model))
    other = weights_of(grown(model, analysis_fine=2))
    if change == "format":
        other = other["state_dict"]
    elif change is not None:
        other["state_dict"][change] += 1
    save(tmp_path / "other.pt", other)
    files = [str(tmp_path / name) for name in ("codec.pt", "out", "other.pt")]
    assert main([files[0], "-o", files[1], "--analysis", files[2], *more]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
