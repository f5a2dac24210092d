from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ugicm.training.scores import Box, average_precision, resamples, sampled_mean


def scene(rng: np.random.Generator, images: int = 8) -> tuple[list[list[Box]], list[list[Box]]]:
    """True boxes of three classes, and detections: most near one, some missing, some wrong."""
    truth, found = [], []
    for _ in range(images):
        boxes = [
            Box(*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2), int(rng.integers(3)))
            for _ in range(rng.integers(0, 5))
        ]
        near = [
            Box(*(np.array(b[:4]) + rng.normal(0, 2, 4)), b.category, float(rng.random()))
            for b in boxes
            if rng.random() < 0.8
        ]
        near += [Box(*rng.uniform(1, 60, 4), int(rng.integers(4)), float(rng.random())) for _ in range(3)]
        truth.append(boxes)
        found.append(near)
    return truth, found


def coco_says(truth: list[list[Box]], found: list[list[Box]]) -> tuple[float, float]:
    """(mAP50, mAP) of pycocotools from beginning to end."""

    def data(rows: list[list[Box]]) -> COCO:
        coco = COCO()
        flat = [(i, b) for i, boxes in enumerate(rows) for b in boxes]
        annotations = [
            {
                "id": n + 1,
                "image_id": i,
                "category_id": b.category,
                "bbox": list(b[:4]),
                "area": b.width * b.height,
                "iscrowd": 0,
                "score": b.score,
            }
            for n, (i, b) in enumerate(flat)
        ]
        images = [{"id": i} for i in range(len(rows))]
        coco.dataset = {"images": images, "categories": [{"id": c} for c in range(3)], "annotations": annotations}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(data(truth), data(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[1]), float(evaluation.stats[0])


def test_average_precision_is_cocos() -> None:
    for seed in range(4):
        truth, found = scene(np.random.default_rng(seed))
        precision = average_precision(truth, found, resamples(len(truth), 3))
        assert (precision.map50.value, precision.map.value) == pytest.approx(coco_says(truth, found), abs=1e-9)


def test_a_resample_counts_its_images_as_often_as_it_draws_them() -> None:
    truth, found = scene(np.random.default_rng(9), images=4)
    draws = np.array([[2, 0, 1, 1], [0, 0, 4, 0]])
    sampled = average_precision(truth, found, draws).map50.resampled
    for row, value in zip(draws, sampled, strict=True):
        drawn = [i for i, times in enumerate(row) for _ in range(times)]
        assert value == pytest.approx(coco_says([truth[i] for i in drawn], [found[i] for i in drawn])[0], abs=0.02)


def test_nothing_found_is_zero() -> None:
    truth, _ = scene(np.random.default_rng(1))
    assert average_precision(truth, [[] for _ in truth], resamples(len(truth), 2)).map.value == 0


def test_intervals_of_a_mean_are_those_of_the_normal_distribution() -> None:
    values = np.random.default_rng(2).normal(3, 2, 400)
    estimate = sampled_mean(values, resamples(400, 4000)).estimate()
    assert estimate.value == pytest.approx(values.mean())
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.02)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.02)


def test_paired_differences_are_narrower_than_unpaired_ones() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 5, 200)
    draws = resamples(200, 1000)
    other = sampled_mean(base + 0.5 + rng.normal(0, 0.1, 200), draws)
    difference = other.minus(sampled_mean(base, draws)).estimate()
    assert 0.45 < difference.low < difference.value < difference.high < 0.55
