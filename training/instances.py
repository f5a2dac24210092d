"""Instances of an image, with annotations or without, and how an encoder gets to see them one by one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ugicm.training.config import ConfigError, Instances

LEAST_PIXELS = 0.25  # of a box, that its mask must cover to be of use after a crop has cut it


class Instance(NamedTuple):
    """One thing in a picture.

    Attributes:
        box: top, left, bottom, right in pixels, the last two exclusive.
        mask: bool, of the box's size; None where only the box is known.
    """

    box: tuple[int, int, int, int]
    mask: np.ndarray | None

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        top, left, bottom, right = self.box
        return bottom - top, right - left


def views(picture: Tensor, instances: Sequence[Instance], settings: Instances) -> Tensor:
    """(n, 3, size, size): each instance of a (3, H, W) picture cropped to its box and resized; (0, 3, …) for none.

    "masked" blanks, with mid-grey, what is not the instance; a box without a mask stays whole.
    """
    size = (settings.size, settings.size)
    found = []
    for instance in instances:
        top, left, bottom, right = instance.box
        crop = picture[None, :, top:bottom, left:right]
        if settings.view == "masked" and instance.mask is not None:
            mask = torch.tensor(instance.mask).to(crop)
            crop = crop * mask + 0.5 * (1 - mask)
        found.append(F.interpolate(crop, size, mode="bilinear", antialias=True, align_corners=False))
    return torch.cat(found) if found else picture.new_zeros((0, 3, *size))


class Window(NamedTuple):
    """A square crop: its corner and side in the image, what side it is brought to, and how it is turned."""

    top: int
    left: int
    side: int
    size: int
    flip: bool
    transpose: bool


def through_window(instances: Sequence[Instance], window: Window, settings: Instances) -> list[Instance]:
    """The instances as they appear in a crop of their image; those with too little left are dropped."""
    seen = []
    scale = window.size / window.side
    for instance in instances:
        top, left, bottom, right = instance.box
        inside = (
            max(top, window.top),
            max(left, window.left),
            min(bottom, window.top + window.side),
            min(right, window.left + window.side),
        )
        if min(inside[2] - inside[0], inside[3] - inside[1]) * scale < settings.least_side:
            continue
        mask = None
        if instance.mask is not None:
            mask = instance.mask[inside[0] - top : inside[2] - top, inside[1] - left : inside[3] - left]
        t, b = (round((inside[i] - window.top) * scale) for i in (0, 2))
        l, r = (round((inside[i] - window.left) * scale) for i in (1, 3))  # noqa: E741
        if mask is not None:
            mask = np.asarray(Image.fromarray(mask).resize((r - l, b - t), Image.Resampling.NEAREST))
            if mask.mean() < LEAST_PIXELS:
                continue
        if window.flip:
            l, r = window.size - r, window.size - l  # noqa: E741
            mask = None if mask is None else mask[:, ::-1]
        if window.transpose:
            t, l, b, r = l, t, r, b  # noqa: E741
            mask = None if mask is None else mask.T
        seen.append(Instance((t, l, b, r), None if mask is None else np.ascontiguousarray(mask)))
    return seen[: settings.most]


class CocoInstances:
    """Boxes and masks of a COCO file, by image file name.

    Args:
        path: a JSON file with "images" and "annotations" (polygons, run lengths or boxes alone).

    Raises:
        ConfigError: not such a file.
    """

    def __init__(self, path: Path) -> None:
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            self.path = path
            self.names = {image["file_name"]: image for image in values["images"]}
            self.annotations: dict[int, list[dict]] = {}
            for annotation in values["annotations"]:
                self.annotations.setdefault(annotation["image_id"], []).append(annotation)
        except (OSError, ValueError, KeyError, TypeError):
            raise ConfigError(f"{path}: not a COCO file; it needs images and annotations in JSON") from None

    def of(self, name: str, image: np.ndarray) -> list[Instance]:
        """The instances of an image file, largest first; none for a file that the annotations do not know.

        Boxes follow an image that was resized since it was annotated.
        """
        entry = self.names.get(name)
        if entry is None:
            return []
        height, width = image.shape[:2]
        found = []
        for annotation in self.annotations.get(entry["id"], []):
            x, y, w, h = annotation["bbox"]
            across, down = width / entry["width"], height / entry["height"]
            left, right = (int(np.clip(round(v * across), 0, width)) for v in (x, x + w))
            top, bottom = (int(np.clip(round(v * down), 0, height)) for v in (y, y + h))
            if right <= left or bottom <= top:
                continue
            mask = self._mask(annotation.get("segmentation"), entry["height"], entry["width"])
            if mask is not None:
                if mask.shape != (height, width):
                    mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
                mask = mask[top:bottom, left:right]
                mask = mask if mask.any() else None
            found.append(Instance((top, left, bottom, right), mask))
        return sorted(found, key=lambda i: -i.sides[0] * i.sides[1])

    def _mask(self, segmentation: object, height: int, width: int) -> np.ndarray | None:
        if not segmentation:
            return None
        from pycocotools import mask as rle

        try:
            if isinstance(segmentation, list):
                encoded = rle.merge(rle.frPyObjects(segmentation, height, width))
            elif isinstance(segmentation, dict) and isinstance(segmentation["counts"], list):
                encoded = rle.frPyObjects(segmentation, height, width)
            else:
                encoded = segmentation
            return rle.decode(encoded).astype(bool)
        except (TypeError, ValueError, KeyError, IndexError) as error:
            raise ConfigError(f"{self.path}: a segmentation that COCO does not know ({error})") from None


def propose(image: np.ndarray, most: int = 16) -> list[Instance]:
    """Regions of a (H, W, 3) uint8 image that may be things, the most salient first, without any supervision.

    Segments of Felzenszwalb and Huttenlocher (IJCV 2004) at two coarsenesses, of 1 to 50 % of the image, ranked by
    how much their mean colour (CIELAB) differs from that of their surroundings, by the root of their area, and by how
    little of the image's border they touch; of boxes that overlap by more than 0.7 (intersection over union) the better
    stays.
    """
    from skimage.color import rgb2lab
    from skimage.measure import regionprops
    from skimage.segmentation import felzenszwalb

    height, width = image.shape[:2]
    scale = min(1.0, 256 / max(height, width))
    small = image
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
    lab = rgb2lab(small)
    rated: list[tuple[float, tuple[int, int, int, int], np.ndarray]] = []
    for coarseness in (100, 400):
        labels = felzenszwalb(small, scale=coarseness, sigma=0.8, min_size=max(20, small[..., 0].size // 200))
        for region in regionprops(labels + 1):
            share = region.area / labels.size
            if 0.01 <= share <= 0.5:
                rated.append((_saliency(lab, region.bbox, region.image) * share**0.5, region.bbox, region.image))
    rated.sort(key=lambda entry: -entry[0])
    kept: list[tuple[tuple[int, int, int, int], np.ndarray]] = []
    for _, box, mask in rated:
        if all(_overlap(box, other) <= 0.7 for other, _ in kept):
            kept.append((box, mask))
    return [_enlarged(box, mask, height / small.shape[0], width / small.shape[1]) for box, mask in kept[:most]]


def _saliency(lab: np.ndarray, box: tuple[int, int, int, int], mask: np.ndarray) -> float:
    top, left, bottom, right = box
    margin = max(2, (bottom - top + right - left) // 8)
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    around = np.ones(lab[rows, columns].shape[:2], bool)
    around[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] &= ~mask
    if not around.any():
        return 0.0
    contrast = np.linalg.norm(lab[top:bottom, left:right][mask].mean(0) - lab[rows, columns][around].mean(0))
    height, width = lab.shape[:2]
    touched = (top == 0) + (left == 0) + (bottom == height) + (right == width)
    return float(contrast) * 0.5**touched


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(height, 0) * max(width, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _enlarged(box: tuple[int, int, int, int], mask: np.ndarray, down: float, across: float) -> Instance:
    top, left, bottom, right = (round(v * s) for v, s in zip(box, (down, across, down, across), strict=True))
    resized = Image.fromarray(mask).resize((right - left, bottom - top), Image.Resampling.NEAREST)
    return Instance((top, left, bottom, right), np.asarray(resized))
