"""Bootstrapped means and average precisions. Resamples are of images, and the same for all that is compared."""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

CONFIDENCE = 0.95
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)


class Estimate(NamedTuple):
    """A value and its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


class Sampled(NamedTuple):
    """A value, and what it is in each of B resamples."""

    value: float
    resampled: np.ndarray

    def estimate(self) -> Estimate:
        tail = (1 - CONFIDENCE) / 2 * 100
        low, high = np.nanpercentile(self.resampled, [tail, 100 - tail])
        return Estimate(self.value, float(low), float(high))

    def minus(self, other: Sampled) -> Sampled:
        """The paired difference."""
        return Sampled(self.value - other.value, self.resampled - other.resampled)


def resamples(count: int, times: int, seed: int = 0) -> np.ndarray:
    """(times, count) int64: how often each of `count` images is drawn in each resample (Efron 1979)."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), times)
    return draws.astype(np.int64)


def sampled_mean(values: np.ndarray, draws: np.ndarray) -> Sampled:
    """The mean of (count,) values."""
    values = np.asarray(values, np.float64)
    return Sampled(float(values.mean()), draws @ values / len(values))


class Box(NamedTuple):
    """x, y, width, height in pixels, the class, and for a detection how sure it is."""

    x: float
    y: float
    width: float
    height: float
    category: int
    score: float = 1.0


class Precision(NamedTuple):
    """COCO's mean average precision at an overlap of 0.5, and averaged over overlaps of 0.5 to 0.95."""

    map50: Sampled
    map: Sampled


def average_precision(truth: list[list[Box]], found: list[list[Box]], draws: np.ndarray) -> Precision:
    """Of detections in some images, matched by pycocotools, at most 100 an image.

    Args:
        truth, found: boxes of each image.
        draws: (B, images) how often each image counts.
    """
    weights = np.concatenate([np.ones((1, len(truth)), np.int64), draws])
    classes = []
    for category in sorted({box.category for boxes in truth for box in boxes}):
        classes.append(_class_precision(*_matches(truth, found, category), weights))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a resample may lack every class: NaN, which estimates skip
        tables = np.nanmean(np.array(classes), axis=0)
    return Precision(Sampled(float(tables[0, 0]), tables[1:, 0]), Sampled(float(tables[0].mean()), tables[1:].mean(1)))


def _matches(
    truth: list[list[Box]], found: list[list[Box]], category: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one class: (T, D) whether each detection is right, (D,) its image, by falling score; (images,) true boxes."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress
        evaluation = COCOeval(_coco(truth, category), _coco(found, category), "bbox")
        evaluation.params.iouThrs = THRESHOLDS
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
    right, images, scores = [np.zeros((len(THRESHOLDS), 0), bool)], [], []
    for image, result in enumerate(evaluation.evalImgs):
        if result is not None:
            right.append(np.asarray(result["dtMatches"]).reshape(len(THRESHOLDS), -1) > 0)
            images += [image] * len(result["dtScores"])
            scores += list(result["dtScores"])
    order = np.argsort(-np.array(scores), kind="mergesort")
    counts = np.array([sum(box.category == category for box in boxes) for boxes in truth])
    return np.concatenate(right, 1)[:, order], np.array(images, np.int64)[order], counts


def _coco(boxes: list[list[Box]], category: int) -> COCO:
    coco = COCO()
    annotations: list[dict[str, object]] = []
    for image, entries in enumerate(boxes):
        for b in entries:
            if b.category == category:
                area = {"id": len(annotations) + 1, "area": b.width * b.height, "iscrowd": 0, "score": b.score}
                annotations.append({**area, "image_id": image, "category_id": 1, "bbox": [*b[:4]]})
    images = [{"id": image} for image in range(len(boxes))]
    coco.dataset = {"images": images, "categories": [{"id": 1}], "annotations": annotations}
    coco.createIndex()
    return coco


def _class_precision(right: np.ndarray, images: np.ndarray, counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B, T) interpolated average precision at 101 recalls; NaN where a resample has no true box."""
    total = (weights @ counts).astype(np.float64)
    out = np.full((len(weights), len(right)), np.nan)
    drawn = weights[:, images]
    for t, hits in enumerate(right):
        true, all_found = np.cumsum(drawn * hits, 1), np.cumsum(drawn, 1)
        precision = np.divide(true, all_found, out=np.zeros(true.shape), where=all_found > 0)
        precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        for b in np.flatnonzero(total):
            at = np.searchsorted(true[b] / total[b], RECALLS, side="left")
            inside = at < len(hits)
            out[b, t] = precision[b, at[inside]].sum() / len(RECALLS)
    return out
