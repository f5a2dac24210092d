from __future__ import annotations

import csv
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.small import lively, small
from ugicm.models.fast import Block
from ugicm.models.ugicm import Output
from ugicm.training import train as loop
from ugicm.training.checkpoint import rebuild, save, weights_of
from ugicm.training.config import Betas, ConfigError, Data, Optimisation, check, read
from ugicm.training.data import Crops, image_files
from ugicm.training.objectives import distortion, draw_betas, draw_qualities, lambdas, psnr
from ugicm.training.run import Run, choose_trained, learning_rate

SMALL = [
    "data.crop=64",
    "data.batch=2",
    "network.qualities=2",
    "network.widths={latent: 8, hyper: 4, fine: 8, coarse: 8, hyper_width: 8, preference_hidden: 8}",
    "optimisation.decay=2",
    "optimisation.warmup=1",
    "optimisation.bf16_until=0",
    "validation.qualities=[2]",
]


def arguments(pictures: Path, run: Path, stage: str, *changes: str) -> list[str]:
    return [str(pictures), "-o", str(run), "--config", stage, "--threads", "1", "--set", *SMALL, *changes]


def open_run(pictures: Path, folder: Path, stage: str, *changes: str) -> tuple[Run, Crops]:
    folder.mkdir(exist_ok=True)
    config = check(read(stage, [*SMALL, *changes]), stage)
    return Run(config, folder), Crops(image_files(pictures), config.data, config.instances)


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as handle:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(handle)]


def test_crops_are_the_same_for_the_same_step(pictures: Path) -> None:
    files = image_files(pictures, ["skip_*"])
    assert [f.name for f in files] == ["keep_0.png", "keep_1.png"]
    a, b = (Crops(files, Data(crop=64)) for _ in range(2))
    b.batch(2, 5, 1)
    first, again, other = a.batch(3, 7, 1)[0], b.batch(3, 7, 1)[0], a.batch(3, 8, 1)[0]
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (3, 3, 64, 64) and first.min() >= 0 and first.max() <= 1


def test_weights_decide_how_often_a_file_is_drawn(pictures: Path) -> None:
    crops = Crops(image_files(pictures), Data(crop=64, weights={"keep_*": 3.0}))
    assert np.allclose(crops.share, [3 / 7, 3 / 7, 1 / 7])


def test_images_smaller_than_a_crop_are_enlarged(pictures: Path) -> None:
    assert Crops(image_files(pictures), Data(crop=128)).batch(1, 0, 0)[0].shape == (1, 3, 128, 128)


def test_learning_rate_rises_stays_and_falls() -> None:
    settings = Optimisation(lr=1, warmup=10, steps=100, decay=20)
    rates = [learning_rate(s, settings) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[50] == 1 and rates[90] == pytest.approx(0.5) and rates[100] == 0


def test_distortion_and_lambdas() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x_hat = x + torch.tensor([1 / 255, 2 / 255])[:, None, None, None]
    assert torch.allclose(distortion(x_hat, x), torch.tensor([1.0, 4.0]))
    assert psnr(x_hat, x)[0].item() == pytest.approx(48.13, abs=0.01)
    values = lambdas(8)
    assert len(values) == 8 and torch.allclose(values[1:] / values[:-1], values[1] / values[0])


def test_betas_come_in_their_shares_and_between_is_between() -> None:
    generator = torch.Generator().manual_seed(0)
    betas = torch.stack([draw_betas(8, Betas(human=3, machine=4, between=1), generator) for _ in range(50)])
    assert ((betas == 0).sum(1) == 3).all() and ((betas == 1).sum(1) == 4).all()
    inside = betas[(betas > 0) & (betas < 1)]
    assert len(inside) == 50 and 0.35 < inside.mean() < 0.65
    odd = torch.stack([draw_betas(3, Betas(human=1, machine=1), generator) for _ in range(200)])
    assert 0.42 < odd.mean() < 0.58
    quality = draw_qualities(4000, [0, 3, 1], 3, generator)
    assert not (quality == 0).any() and 2800 < int((quality == 1).sum()) < 3200


def test_a_batch_without_machine_views_has_no_semantic_term_and_no_nan(pictures: Path, teacher: Path) -> None:
    more = ["supervision.kind=imagenet", f"supervision.weights={teacher}", "supervision.depths=3"]
    run, crops = open_run(pictures, pictures / "run", "stage1", *more)
    for beta, names in ((0.0, {"rate", "distortion"}), (1.0, {"rate", "distortion", "global"})):
        losses = run.advance(run.batch(crops)._replace(beta=torch.full((2,), beta)))
        assert set(run.terms.weights()) & set(losses) == names
        assert all(math.isfinite(v) for v in losses.values())


def test_an_interpolated_objective_lies_between(pictures: Path, teacher: Path) -> None:
    more = ["supervision.kind=imagenet", f"supervision.weights={teacher}", "supervision.depths=3"]
    run, crops = open_run(pictures, pictures / "run", "stage2", *more, "instances.least_side=8", "instances.size=32")
    batch = run.batch(crops)
    x_hat = (batch.x + 0.05 * torch.randn_like(batch.x)).clamp(0, 1)
    output = Output(x_hat, torch.zeros(2), x_hat)
    found = []
    for beta in (0.0, 0.3, 1.0):
        terms = run.terms(output, batch._replace(beta=torch.full((2,), beta)))
        found.append({name: float(terms.get(name, 0.0)) for name in ("distortion", "global", "instance")})
    assert found[0]["global"] == 0 and found[2]["instance"] > 0
    for name in found[0]:
        assert found[1][name] == pytest.approx(0.7 * found[0][name] + 0.3 * found[2][name], rel=1e-4)


def test_a_run_that_is_killed_continues_its_loss_curve(pictures: Path, tmp_path: Path) -> None:
    """SIGKILL at whatever step it has come to; logs of windows of 3 steps that no save falls on."""
    changes = ["optimisation.steps=40", "log_every=3", "save_minutes=0", "validation.every=10"]
    more = ["--validation", str(pictures)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert loop.main([*arguments(pictures, whole, "stage0", *changes), *more]) == 0
    command = [sys.executable, "-m", "ugicm.training.train", *arguments(pictures, killed, "stage0", *changes), *more]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2])
    log = killed / "log.csv"
    deadline = time.monotonic() + 120
    while not (log.exists() and len(log.read_text().splitlines()) > 2) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(int.from_bytes(os.urandom(1), "little") / 2000)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert int(rows(log)[-1]["step"]) < 39 and (killed / "state.pt").exists()
    assert loop.main([*arguments(pictures, killed, "stage0", *changes), *more]) == 0
    assert rows(killed / "log.csv") == rows(whole / "log.csv") and len(rows(log)) == 13
    assert rows(killed / "validation.csv") == rows(whole / "validation.csv")
    for name in ("checkpoint.pt", "best.pt"):
        a, b = (weights(folder / name) for folder in (whole, killed))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_a_checkpoint_rebuilds_and_says_what_supervised_it(pictures: Path, tmp_path: Path, teacher: Path) -> None:
    changes = ["optimisation.steps=2", "supervision.kind=imagenet", "supervision.depths=3"]
    assert loop.main([*arguments(pictures, tmp_path / "run", "stage1", *changes), "--teacher", str(teacher)]) == 0
    saved = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert saved["supervision"] == "ImageNet-supervised (MobileNetV2)"
    assert rebuild(saved).config.qualities == 2


def test_half_precision_keeps_the_bounds_of_likelihoods() -> None:
    model = small("fast")
    again = rebuild(weights_of(model, half=True))
    buffers = dict(again.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())
    assert torch.equal(again.log_gain, model.log_gain.half().float())


@pytest.mark.parametrize("method", ["fixed", "uncertainty", "gradient-norm"])
def test_training_lowers_the_loss(pictures: Path, tmp_path: Path, teacher: Path, method: str) -> None:
    more = ["supervision.kind=imagenet", f"supervision.weights={teacher}", "supervision.depths=3"]
    run, crops = open_run(pictures, tmp_path / "run", "stage1", *more, f"balance.method={method}")
    batch = run.batch(crops)._replace(beta=torch.tensor([0.0, 1.0]))
    losses = [run.advance(batch) for _ in range(30)]
    totals = [sum(row[name] for name in ("rate", "distortion", "global")) for row in losses]
    assert np.mean(totals[-3:]) < np.mean(totals[:3])


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(pictures: Path, tmp_path: Path) -> None:
    run, crops = open_run(pictures, tmp_path / "run", "stage0")
    batch = run.batch(crops)
    with pytest.raises(FloatingPointError, match="rate is nan at step 0; its batch is in bad-batch.pt"):
        run.advance(batch._replace(x=torch.full((2, 3, 64, 64), float("nan"))))
    kept = torch.load(tmp_path / "run" / "bad-batch.pt", weights_only=True)
    assert torch.equal(kept["quality"], batch.quality) and kept["x"].isnan().all()


def test_bfloat16_autocast_trains(pictures: Path, tmp_path: Path) -> None:
    run, crops = open_run(pictures, tmp_path / "run", "stage0", "optimisation.bf16_until=2")
    assert all(math.isfinite(run.advance(run.batch(crops))["loss"]) for _ in range(3))
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def test_the_second_stage_leaves_bits_alone(pictures: Path, tmp_path: Path, teacher: Path) -> None:
    base = tmp_path / "base"
    assert loop.main(arguments(pictures, base, "stage0", "optimisation.steps=2")) == 0
    more = ["--teacher", str(teacher), "--init", str(base / "checkpoint.pt")]
    changes = ["optimisation.steps=3", "supervision.kind=imagenet", "supervision.depths=3"]
    trained = {"all": 'train=["g_s.*", "preference.*"]', "conditioning": 'train=["preference.*"]'}
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([1])
    views = {}
    for name, patterns in trained.items():
        folder = tmp_path / name
        assert loop.main([*arguments(pictures, folder, "stage2", *changes, patterns), *more]) == 0
    for folder in (base, *(tmp_path / name for name in trained)):
        model = rebuild(torch.load(folder / "checkpoint.pt", weights_only=True))
        with torch.no_grad():
            views[folder.name] = [model(x, quality, torch.tensor([beta])) for beta in (0.0, 1.0)]
    for name in trained:
        assert torch.equal(views["base"][0].bits, views[name][0].bits)
        assert not torch.equal(views["base"][1].x_hat, views[name][1].x_hat)
    # The human view is the unconditioned network: it changes only with the shared weights.
    assert torch.equal(views["base"][0].x_hat, views["conditioning"][0].x_hat)
    assert not torch.equal(views["base"][0].x_hat, views["all"][0].x_hat)


def test_patterns_choose_what_trains() -> None:
    model = small("fast")
    choose_trained(model, ["g_s.blocks.*", "preference.*"])
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith(("g_s.blocks.", "preference.")) for name in trained)
    with pytest.raises(ConfigError, match="no parameter is named 'g_x.*'.*g_a, g_s, h_a"):
        choose_trained(model, ["g_x.*"])


@pytest.mark.parametrize(
    ("stage", "changes", "says"),
    [
        ("stage0", ["init=absent.pt"], "absent.pt: no such checkpoint"),
        ("stage0", ["objective.rate=false"], "needs an encoder that does not train"),
        ("stage0", ["objective.quality_shares=[1]"], "2 numbers are needed"),
        ("stage0", ["train=[preference.*, g_s.*.up.*]", "objective.rate=false"], "human views do not use"),
        ("stage2", ["supervision.weights=absent.npz"], "absent.npz: no such file"),
        ("stage2", ["supervision.kind=imagenet", "supervision.weights=README.md"], "not an encoder's file"),
        ("stage0", ["validation.qualities=[3]", "validation.folder=."], "has qualities 1 to 2"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, changes: list[str], says: str
) -> None:
    assert loop.main(arguments(pictures, tmp_path / "run", stage, *changes)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and says in error and error.count("\n") == 1
    assert not list((tmp_path / "run").glob("*.pt"))


def test_missing_data_and_another_runs_folder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert loop.main(arguments(tmp_path / "none", tmp_path / "run", "stage0")) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: no images there")
    assert loop.main(arguments(pictures, tmp_path / "run", "stage0", "optimisation.steps=1")) == 0
    assert loop.main(arguments(pictures, tmp_path / "run", "stage0", "network.qualities=3")) == 2
    assert "of a run with another model" in capsys.readouterr().err
    (tmp_path / "run" / "state.pt").write_bytes(b"damaged")
    assert loop.main(arguments(pictures, tmp_path / "run", "stage0")) == 2
    assert "not the state of a run" in capsys.readouterr().err


def test_adapters_leave_the_human_view_alone(pictures: Path, tmp_path: Path, teacher: Path) -> None:
    save(tmp_path / "init.pt", weights_of(lively("fast")))
    changes = ["supervision.kind=imagenet", f"supervision.weights={teacher}", "supervision.depths=3"]
    run, crops = open_run(pictures, tmp_path / "run", "adapters", *changes, f"init={tmp_path / 'init.pt'}")
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([1])

    def views() -> list[torch.Tensor]:
        with torch.no_grad():
            return [run.model.eval()(x, quality, torch.tensor([beta])).x_hat for beta in (0.0, 0.4, 1.0)]

    before = views()
    assert torch.equal(before[0], before[1]) and torch.equal(before[0], before[2])  # the conditioning is fresh
    for _ in range(3):
        run.advance(run.batch(crops))
    after = views()
    assert torch.equal(before[0], after[0])
    assert not torch.equal(after[0], after[1]) and not torch.equal(after[1], after[2])


def test_a_grown_analysis_learns_alone(pictures: Path, tmp_path: Path) -> None:
    save(tmp_path / "init.pt", weights_of(lively("fast")))
    changes = [f"init={tmp_path / 'init.pt'}", "grow={analysis_fine: 4, analysis_quarter: 1}"]
    run, crops = open_run(pictures, tmp_path / "run", "analysis", *changes)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    for _ in range(2):
        run.advance(run.batch(crops))
    moved = {name for name, value in run.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("g_a.") for name in moved)
    assert any(name.startswith("g_a.0.quarter.") for name in moved)
    assert all(not block.training for block in run.model.g_s.modules() if isinstance(block, Block))
