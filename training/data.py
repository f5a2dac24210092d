"""Training images in memory, and random crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ugicm.models.ugicm import STRIDE
from ugicm.runtime.errors import ImageError
from ugicm.runtime.files.picture import read_picture
from ugicm.training.config import ConfigError, Data, Instances
from ugicm.training.instances import CocoInstances, Instance, Window, propose, through_window

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def image_files(folder: Path, exclude: Sequence[str] = ()) -> list[Path]:
    """The images directly in a folder, sorted by name, but for those whose name matches a pattern.

    Raises:
        ConfigError: the folder holds no image.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    found = [p for p in found if not any(fnmatch(p.name, pattern) for pattern in exclude)]
    if not found:
        raise ConfigError(f"{folder}: no images there; give a folder of PNG, JPEG or WebP files")
    return found


def read_rgb(path: Path) -> np.ndarray:
    """An image file as an (H, W, 3) uint8 array, upright and in sRGB as the codec reads it. Raises ConfigError."""
    try:
        return read_picture(path).on_white()
    except ImageError as error:
        raise ConfigError(f"{error}; remove or exclude it") from None


def whole_images(folder: Path, limit: int, exclude: Sequence[str] = ()) -> list[Tensor]:
    """At most `limit` images of a folder, evenly spread: (1, 3, H, W) float in [0, 1], cut to multiples of 64.

    Raises:
        ConfigError: no image there, one that is not readable, or none of 64 pixels a side.
    """
    files = image_files(folder, exclude)
    pixels = [read_rgb(path) for path in files[:: max(1, -(-len(files) // max(limit, 1)))]]
    cut = [p[: p.shape[0] // STRIDE * STRIDE, : p.shape[1] // STRIDE * STRIDE] for p in pixels]
    if not any(p.size for p in cut):
        raise ConfigError(f"{folder}: images need {STRIDE} pixels a side")
    return [torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in cut if p.size]


class Crops:
    """Random square crops: flips, and a random reduction that also hides the JPEG grid of the sources.

    Args:
        files: the images; all of them stay in memory.
        settings: size, weights and reductions.
        instances: where the instances of the images come from; none by default.

    Raises:
        ConfigError: a COCO file that is none.
    """

    def __init__(self, files: Sequence[Path], settings: Data, instances: Instances | None = None) -> None:
        self.settings = settings
        self.size = settings.crop
        self.names = [f.name for f in files]
        self.images = [self._at_least(read_rgb(f)) for f in files]
        weights = settings.weights.items()
        share = [next((w for pattern, w in weights if fnmatch(f.name, pattern)), 1.0) for f in files]
        if not sum(share):
            raise ConfigError("data.weights: every file has weight 0")
        self.share = np.asarray(share) / sum(share)
        self.instances = instances or Instances()
        annotations = self.instances.annotations
        self.coco = CocoInstances(annotations) if self.instances.source == "coco" and annotations else None
        self._found: dict[int, list[Instance]] = {}

    def _at_least(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        if scale <= 1:
            return image
        size = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def _instances(self, index: int) -> list[Instance]:
        """Those of a whole image; found when it is first drawn."""
        if index not in self._found:
            image = self.images[index]
            if self.coco is not None:
                self._found[index] = self.coco.of(self.names[index], image)
            else:
                self._found[index] = propose(image) if self.instances.source == "proposals" else []
        return self._found[index]

    def crop(self, rng: np.random.Generator) -> tuple[np.ndarray, list[Instance]]:
        """One (size, size, 3) uint8 crop, and the instances in it."""
        index = int(rng.choice(len(self.images), p=self.share))
        image = self.images[index]
        height, width = image.shape[:2]
        largest = min(min(height, width) / self.size, self.settings.largest_reduction)
        side = round(self.size * rng.uniform(1, largest)) if rng.random() < self.settings.reduced else self.size
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        window = Window(top, left, side, self.size, bool(rng.random() < 0.5), self._transposed(rng))
        out = image[top : top + side, left : left + side]
        if side != self.size:
            out = np.asarray(Image.fromarray(out).resize((self.size, self.size), Image.Resampling.BOX))
        if window.flip:
            out = out[:, ::-1]
        if window.transpose:
            out = out.swapaxes(0, 1)
        return out, through_window(self._instances(index), window, self.instances)

    def _transposed(self, rng: np.random.Generator) -> bool:
        """An encoder of things has never seen them lying on their side."""
        return bool(rng.random() < 0.5) and self.settings.transpose

    def batch(self, count: int, step: int, seed: int) -> tuple[Tensor, list[list[Instance]]]:
        """(count, 3, size, size) float in [0, 1], and the instances of each; the same for the same step and seed."""
        rng = np.random.default_rng((seed, step))
        crops = [self.crop(rng) for _ in range(count)]
        pixels = torch.from_numpy(np.stack([pixels for pixels, _ in crops]))
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255, [found for _, found in crops]
