"""Sets of images that a codec is evaluated on, and what is known of them."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.training.config import ConfigError
from ugicm.training.data import image_files, read_rgb
from ugicm.training.scores import Box
from ugicm.training.segmenter import Segmenter


@dataclass(frozen=True)
class Images:
    """A set of images with what is known of them.

    Attributes:
        name: "images", "labelled", "detect" or "segment".
        pictures: (H, W, 3) uint8 each.
        truth: class index, or boxes, of each; empty without.
        digest: of files and truth.
    """

    name: str
    pictures: list[np.ndarray]
    truth: list[Any]
    digest: str


def plain_images(folder: Path, limit: int | None) -> Images:
    """The images of a folder."""
    return _images("images", image_files(folder)[:limit], [])


def labelled_files(folder: Path, limit: int | None) -> list[tuple[Path, int]]:
    """Files and classes of a folder with `LABELS.csv` (columns class_index, file). Raises ConfigError."""
    path = folder / "LABELS.csv"
    try:
        with path.open(newline="", encoding="utf-8") as handle:
            rows = [(folder / row["file"], int(row["class_index"])) for row in csv.DictReader(handle)]
    except (OSError, KeyError, ValueError, TypeError):
        raise ConfigError(f"{path}: a CSV file with the columns class_index and file is needed") from None
    return _spread(rows, limit)


def labelled_images(folder: Path, limit: int | None) -> Images:
    """The images of `labelled_files`."""
    return _images("labelled", *_columns(labelled_files(folder, limit)))


def boxed_images(folder: Path, limit: int | None) -> Images:
    """Images of `images/` with boxes of `labels/NAME.txt` (class, centre and size as shares). Raises ConfigError."""
    rows = []
    for path in image_files(folder / "images"):
        label = folder / "labels" / f"{path.stem}.txt"
        try:
            lines = [line.split() for line in label.read_text().splitlines() if line.strip()] if label.exists() else []
            rows.append((path, [(int(line[0]), *map(float, line[1:5])) for line in lines]))
        except (OSError, ValueError, IndexError):
            raise ConfigError(f"{label}: lines of class and four numbers are needed") from None
    images = _images("detect", *_columns(_spread(rows, limit)))
    boxes = []
    for picture, entries in zip(images.pictures, images.truth, strict=True):
        h, w = picture.shape[:2]
        boxes.append([Box((x - a / 2) * w, (y - b / 2) * h, a * w, b * h, c) for c, x, y, a, b in entries])
    if not any(boxes):
        raise ConfigError(f"{folder / 'labels'}: no boxes for the images; name the label files like them")
    return Images(images.name, images.pictures, boxes, images.digest)


def segmented_images(folder: Path, limit: int | None, segmenter: Segmenter) -> Images:
    """Images in which a segmenter finds something. Raises ConfigError where it finds nothing in any."""
    files = [path for path in _spread(image_files(folder), limit) if segmenter.found(segmenter.classes(read_rgb(path)))]
    if not files:
        raise ConfigError(f"{folder}: the segmenter finds nothing in these images; give others")
    return _images("segment", files, [])


def _spread(rows: list[Any], limit: int | None) -> list[Any]:
    """At most `limit` rows, evenly spread: labelled files come sorted by class."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[int(i)] for i in np.linspace(0, len(rows) - 1, limit)]


def _columns(rows: list[tuple[Path, Any]]) -> tuple[list[Path], list[Any]]:
    return [path for path, _ in rows], [truth for _, truth in rows]


def _images(name: str, files: list[Path], truth: list[Any]) -> Images:
    if not files:
        raise ConfigError(f"--{name}: no images there")
    digest = hashlib.sha256(repr(truth).encode())
    for path in files:
        digest.update(path.name.encode() + str(path.stat().st_size if path.exists() else 0).encode())
    return Images(name, [read_rgb(path) for path in files], truth, digest.hexdigest())
