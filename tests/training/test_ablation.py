from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.small import lively
from tests.training.test_evaluate import squeezenet
from tests.training.test_training import arguments
from ugicm.training import ablation
from ugicm.training.checkpoint import save, weights_of


def test_the_table_has_its_cells_and_a_second_run_trains_nothing(
    pictures: Path, tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (pictures / "LABELS.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("class_index", "file"), (1, "keep_0.png"), (2, "keep_1.png"), (3, "skip_2.png")])
    save(tmp_path / "init.pt", weights_of(lively("fast")))
    changes = ["optimisation.steps=2", "supervision.kind=imagenet", "supervision.depths=3", "instances.least_side=8"]
    command = [
        *arguments(pictures, tmp_path / "out", "stage2", *changes),
        *("--init", str(tmp_path / "init.pt"), "--teacher", str(teacher), "--labelled", str(pictures)),
        *("--classifier", str(squeezenet(tmp_path / "net.pth")), "--qualities", "2", "--resamples", "20"),
        *("--adaptive", "gradient-norm", "uncertainty"),
    ]
    assert ablation.main(command) == 0
    found = json.loads((tmp_path / "out" / "ablation.json").read_text())
    cells = found["qualities"]["2"]
    both = [
        f"{terms}, {m}" for m in ("fixed", "gradient-norm", "uncertainty") for terms in ("global", "global + instance")
    ]
    assert list(cells) == ["distortion alone", *both]
    assert found["images"] == 3 and found["teacher"] == "ImageNet-supervised (MobileNetV2)"
    alone = cells["distortion alone"]
    # Nothing has taught the fresh conditioning anything: both views are one picture.
    assert alone["psnr_human"]["estimate"] == alone["psnr_machine"]["estimate"]
    assert alone["semantic"]["difference"] == {"value": 0, "low": 0, "high": 0}
    assert alone["bpp"]["estimate"]["value"] > 0
    assert not any(cells[name]["bpp"]["difference"]["value"] for name in both)  # this stage trains no encoder
    others = [cells[name]["semantic"]["estimate"]["value"] for name in both]
    assert len(set(others)) > 1 and alone["semantic"]["estimate"]["value"] not in others

    weights = ablation.cells(ablation.configured(ablation.parse(command)), ["gradient-norm"], [0.5, 2])
    assert [(name, c.objective.global_weight) for name, c in weights.items()] == [
        ("distortion alone", 0),
        ("global 0.5, gradient-norm", 0.5),
        ("global 2, gradient-norm", 2),
    ]
    assert not any(c.objective.instance_weight for c in weights.values())
    assert len({c.objective.betas.model_dump_json() for c in weights.values()}) == 1

    def never(*_: object) -> None:
        raise AssertionError("a finished cell trained again")

    monkeypatch.setattr("ugicm.training.run.Run.advance", never)
    assert ablation.main(command) == 0
    assert json.loads((tmp_path / "out" / "ablation.json").read_text()) == found
    capsys.readouterr()
    assert ablation.main([*command, "--qualities", "9"]) == 2
    assert "--qualities: this codec has 1 to 2" in capsys.readouterr().err
