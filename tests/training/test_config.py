from __future__ import annotations

from pathlib import Path

import pytest

from ugicm.training.config import Config, ConfigError, check, names, read


def config(name: str, *changes: str) -> Config:
    return check(read(name, changes), name)


def test_the_stages_come_along() -> None:
    assert names() == ["adapters", "analysis", "stage0", "stage1", "stage2"]
    assert config("stage0").objective.betas.machine == 0
    assert config("stage1", "supervision.weights=clip.pt").train == ["*"]
    last = config("stage2", "supervision.weights=clip.pt")
    assert not last.objective.rate and last.objective.instance_weight and last.objective.betas.between


def test_changes_are_yaml() -> None:
    changed = config("stage0", "optimisation.lr=1e-4", "data.exclude=[a_*, b_*]", "network.widths.latent=8")
    assert changed.optimisation.lr == 1e-4
    assert changed.data.exclude == ["a_*", "b_*"]
    assert changed.network.widths == {"latent": 8}
    assert changed.data.batch == config("stage0").data.batch


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("stage9", [], "no such configuration; give a file or one of adapters, analysis, stage0, stage1, stage2"),
        ("stage0", ["optimisation.stps=3"], "optimisation.stps: Extra inputs"),
        ("stage0", ["data.crop=100"], "data.crop: must be a multiple of 64"),
        ("stage0", ["nonsense"], "give section.key=value"),
        ("stage0", ["train.a=1"], "train is not a section"),
        ("stage0", ["objective.betas.human=0"], "shares must not all be 0"),
        ("stage2", [], "supervision.weights: the encoder's file is missing"),
        ("stage2", ["supervision.weights=x", "instances.source=none"], "needs instances.source"),
        ("stage2", ["supervision.weights=x", "instances.source=coco"], "a COCO file is missing"),
        ("stage1", ["supervision.kind=none"], "needs supervision.kind"),
    ],
)
def test_mistakes_are_one_line_that_says_where(name: str, changes: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        config(name, *changes)
    assert says in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_files_that_are_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="bad.yaml"):
        config(str(path))
