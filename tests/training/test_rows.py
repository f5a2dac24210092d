from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.small import lively
from ugicm.models.entropy import LatentModel
from ugicm.training import rows
from ugicm.training.checkpoint import rebuild, save, weights_of


def heavy_tails(row: int) -> torch.Tensor:
    """(64, 511) counts: one row's, geometric on both sides."""
    counts = torch.zeros(64, 2 * rows.REACH + 1, dtype=torch.float64)
    counts[row] = 1e5 * 0.5 ** torch.arange(-rows.REACH, rows.REACH + 1).abs().double()
    return counts


def test_a_row_is_fitted_to_its_symbols_and_the_others_stay() -> None:
    model, counts = LatentModel(), heavy_tails(20)
    before, after = rows.fit(model, counts)
    p = counts[20] / counts.sum()
    entropy = -float((counts[20] * torch.log2(p.clamp(min=1e-300))).sum())
    assert entropy < after < before
    assert after - entropy < 0.2 * (before - entropy)
    moved = model.corrections.abs().sum(1) > 0
    assert moved[20] and int(moved.sum()) == 1


def test_training_does_not_see_corrections() -> None:
    model = LatentModel()
    model.corrections += 0.3
    values, places = torch.randn(4, 8), torch.rand(4, 8) * 40
    plain = LatentModel().train()(values, torch.zeros(4, 8), places)
    assert torch.equal(model.train()(values, torch.zeros(4, 8), places), plain)
    assert not torch.equal(model.eval()(values, torch.zeros(4, 8), places), plain)


def test_the_command_changes_nothing_else(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few steps it takes."""
    monkeypatch.setattr(rows, "STEPS", 20)
    model = lively("fast")
    save(tmp_path / "c.pt", weights_of(model) | {"supervision": "none"})
    assert rows.main([str(tmp_path / "c.pt"), str(pictures), "-o", str(tmp_path / "d.pt")]) == 0
    assert "% bits of y on" in capsys.readouterr().out
    old, new = (torch.load(tmp_path / name, weights_only=True) for name in ("c.pt", "d.pt"))
    assert new["supervision"] == "none"
    changed = {name for name, value in new["state_dict"].items() if not torch.equal(value, old["state_dict"][name])}
    assert changed == {"latent_model.corrections"}
    assert rebuild(new).latent_model.corrections.any()


def test_checkpoints_from_before_have_no_corrections() -> None:
    values = weights_of(lively("fast"))
    del values["state_dict"]["latent_model.corrections"]
    assert not rebuild(values).latent_model.corrections.any()


def test_mistakes_are_one_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rows.main([str(tmp_path / "none.pt"), str(pictures), "-o", str(tmp_path / "d.pt")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "d.pt").exists()
