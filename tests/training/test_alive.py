from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.small import lively
from ugicm.training import alive
from ugicm.training.checkpoint import save, weights_of


def test_dead_channels_are_counted(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = lively("fast")
    block = model.g_s.trunk[3]
    with torch.no_grad():
        block.expand.weight[:3] = 0
        block.expand.bias[:3] = torch.tensor([-1.0, 0.0, 1.0])
    above = alive.shares(model, [torch.rand(1, 3, 64, 64)])
    assert above["g_s.trunk.3.relu"][:3].tolist() == [0.0, 0.0, 1.0]
    assert not any(name.startswith("preference") for name in above)
    save(tmp_path / "c.pt", weights_of(model))
    assert alive.main([str(tmp_path / "c.pt"), str(pictures), "--limit", "1"]) == 0
    assert "g_s.trunk.3.relu" in capsys.readouterr().out


def test_mistakes_are_one_line(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert alive.main([str(tmp_path / "none.pt"), str(pictures)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
