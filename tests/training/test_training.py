from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.small import small
from training import train as loop
from training.checkpoint import rebuild, weights_of
from training.data import Crops, image_files
from training.objectives import distortion, lambdas, preference_objective, psnr
from training.supervision import ImagenetTeacher, pad_same, semantic_distance


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        ramp = np.linspace(0, 255, 100)[:, None, None] * rng.random(3)
        pixels = (ramp + rng.normal(0, 5, (100, 90, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{'skip' if i == 2 else 'keep'}_{i}.png")
    return folder


def arguments(pictures: Path, run: Path, *more: str) -> list[str]:
    fixed = ["--crop", "64", "--batch", "2", "--qualities", "2", "--decay", "2", "--warmup", "1", "--threads", "1"]
    return [str(pictures), "-o", str(run), *fixed, *more]


def test_crops_are_the_same_for_the_same_step(pictures: Path) -> None:
    files = image_files(pictures, ["skip_*"])
    assert [f.name for f in files] == ["keep_0.png", "keep_1.png"]
    a, b = Crops(files, 64), Crops(files, 64)
    b.batch(2, 5, 1)
    assert torch.equal(a.batch(3, 7, 1), b.batch(3, 7, 1))
    assert not torch.equal(a.batch(3, 7, 1), a.batch(3, 8, 1))
    batch = a.batch(3, 7, 1)
    assert batch.shape == (3, 3, 64, 64) and batch.min() >= 0 and batch.max() <= 1


def test_weights_decide_how_often_a_file_is_drawn(pictures: Path) -> None:
    crops = Crops(image_files(pictures), 64, {"keep_*": 3.0})
    assert np.allclose(crops.share, [3 / 7, 3 / 7, 1 / 7])


def test_images_smaller_than_a_crop_are_enlarged(pictures: Path) -> None:
    assert Crops(image_files(pictures), 128).batch(1, 0, 0).shape == (1, 3, 128, 128)


def test_learning_rate_rises_stays_and_falls() -> None:
    rates = [loop.learning_rate(s, 1.0, 10, 100, 20) for s in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[50] == 1 and rates[90] == pytest.approx(0.5) and rates[100] == 0


def test_objectives() -> None:
    x = torch.zeros(2, 3, 4, 4)
    x_hat = x + torch.tensor([1 / 255, 2 / 255])[:, None, None, None]
    assert torch.allclose(distortion(x_hat, x), torch.tensor([1.0, 4.0]))
    assert psnr(x_hat, x)[0].item() == pytest.approx(48.13, abs=0.01)
    weights = lambdas(8)
    assert len(weights) == 8 and torch.allclose(weights[1:] / weights[:-1], weights[1] / weights[0])
    output = loop.Output(x_hat, torch.zeros(2), x)
    semantic = torch.tensor([5.0, 7.0])
    human = preference_objective(output, x, weights[:2], torch.zeros(2), semantic, 3.0, 0.3)
    assert human.item() == pytest.approx((weights[:2] * torch.tensor([1.0, 4.0])).mean().item())
    machine = preference_objective(output, x, weights[:2], torch.ones(2), semantic, 3.0, 0.0)
    assert machine.item() == pytest.approx(18.0)


def test_a_resumed_run_equals_an_uninterrupted_one(pictures: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert loop.main(arguments(pictures, whole, "--steps", "4")) == 0
    run = loop.Run(loop.parse(arguments(pictures, halves, "--steps", "4")))
    crops = Crops(image_files(pictures), 64)
    for _ in range(2):
        run.advance(crops.batch(2, run.step, 1))
    run.save()
    assert loop.main(arguments(pictures, halves, "--steps", "4")) == 0
    a, b = (torch.load(r / "checkpoint.pt", weights_only=True)["state_dict"] for r in (whole, halves))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert rebuild(torch.load(whole / "checkpoint.pt", weights_only=True)).config.qualities == 2


def test_half_precision_keeps_the_bounds_of_likelihoods() -> None:
    model = small("fast")
    again = rebuild(weights_of(model, half=True))
    buffers = dict(again.named_buffers())
    assert all(torch.equal(buffers[name], value) for name, value in model.named_buffers())
    assert torch.equal(again.log_gain, model.log_gain.half().float())


def test_training_lowers_the_loss(pictures: Path, tmp_path: Path) -> None:
    run = loop.Run(loop.parse(arguments(pictures, tmp_path / "run", "--steps", "1000")))
    batch = Crops(image_files(pictures), 64).batch(2, 0, 1)
    losses = [run.advance(batch)[0] for _ in range(12)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_a_loss_that_is_no_number_stops_and_keeps_the_batch(pictures: Path, tmp_path: Path) -> None:
    run = loop.Run(loop.parse(arguments(pictures, tmp_path / "run")))
    with pytest.raises(FloatingPointError, match="bad-batch.pt"):
        run.advance(torch.full((2, 3, 64, 64), float("nan")))
    assert (tmp_path / "run" / "bad-batch.pt").exists()


def test_missing_data_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert loop.main([str(tmp_path / "none"), "-o", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'none'}: no images there")


def write_teacher(path: Path) -> None:
    """A tiny network in the teacher's format: convolution, depthwise convolution, addition."""
    rng = np.random.default_rng(1)
    ops = [
        {"op": "conv", "w": "w0", "b": "b0", "stride": 2, "same": True, "act": 3, "in": [0], "out": 1},
        {"op": "dw", "w": "w1", "b": "b1", "stride": 1, "same": True, "act": 1, "in": [1], "out": 2},
        {"op": "add", "act": 0, "in": [1, 2], "out": 3},
        {"op": "gap", "act": 0, "in": [3], "out": 4},
        {"op": "conv", "w": "w0", "b": "b0", "stride": 1, "same": True, "act": 0, "in": [4], "out": 5},
    ]
    graph = json.dumps({"input": 0, "in_mul": 2.0, "in_add": -1.0, "ops": ops}).encode()
    shapes = {"w0": (4, 3, 3, 3), "b0": (4,), "w1": (4, 1, 3, 3), "b1": (4,)}
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    np.savez(path, graph=np.frombuffer(graph, np.uint8), **arrays)


def test_semantic_distance_has_gradients_and_is_zero_at_the_original(tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher.npz")
    teacher = ImagenetTeacher(tmp_path / "teacher.npz").double()
    x = torch.rand(2, 3, 6, 7, dtype=torch.float64)
    assert not semantic_distance(teacher, x, x).any()
    x_hat = (x + 0.1 * torch.randn_like(x)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: semantic_distance(teacher, v, x), (x_hat,))
    assert pad_same(torch.zeros(1, 1, 5, 6), 3, 2).shape == (1, 1, 7, 7)


def test_the_machine_stage_leaves_bits_and_human_view_alone(pictures: Path, tmp_path: Path) -> None:
    write_teacher(tmp_path / "teacher.npz")
    base = tmp_path / "base"
    assert loop.main(arguments(pictures, base, "--steps", "2")) == 0
    more = ["--stage", "machine", "--teacher", str(tmp_path / "teacher.npz"), "--init", str(base / "checkpoint.pt")]
    assert loop.main(arguments(pictures, tmp_path / "machine", "--steps", "3", *more)) == 0
    before, after = (rebuild(torch.load(r / "checkpoint.pt", weights_only=True)) for r in (base, tmp_path / "machine"))
    x, quality = torch.rand(1, 3, 64, 64), torch.tensor([1])
    with torch.no_grad():
        pairs = [[m(x, quality, torch.tensor([beta])) for m in (before, after)] for beta in (0.0, 1.0)]
    assert torch.equal(pairs[0][0].bits, pairs[0][1].bits)
    assert torch.equal(pairs[0][0].x_hat, pairs[0][1].x_hat)
    assert not torch.equal(pairs[1][0].x_hat, pairs[1][1].x_hat)


def test_the_log_has_a_row_every_hundred_steps(pictures: Path, tmp_path: Path) -> None:
    run = loop.Run(loop.parse(arguments(pictures, tmp_path / "run", "--steps", "100")))
    run.step = 98
    with (tmp_path / "log.csv").open("w", newline="") as log:
        loop.train(run, Crops(image_files(pictures), 64), [], csv.writer(log), log)
    rows = list(csv.reader((tmp_path / "log.csv").open()))
    assert len(rows) == 1 and rows[0][0] == "100"
