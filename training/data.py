"""Training images in memory, and random crops of them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


def image_files(folder: Path, exclude: Sequence[str] = ()) -> list[Path]:
    """The images directly in a folder, sorted by name, but for those whose name matches a pattern.

    Raises:
        FileNotFoundError: the folder holds no image.
    """
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) if folder.is_dir() else []
    found = [p for p in found if not any(fnmatch(p.name, pattern) for pattern in exclude)]
    if not found:
        raise FileNotFoundError(f"{folder}: no images there; give a folder of PNG, JPEG or WebP files")
    return found


def read_rgb(path: Path) -> np.ndarray:
    """An image file as an (H, W, 3) uint8 array."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


class Crops:
    """Random square crops: flips, and a random reduction that also hides the JPEG grid of the sources.

    Args:
        files: the images; all of them stay in memory.
        size: side of a crop in pixels.
        weights: pattern → weight of the files whose name matches; 1 where none does.
    """

    def __init__(self, files: Sequence[Path], size: int, weights: dict[str, float] | None = None) -> None:
        self.size = size
        self.images = [self._at_least(read_rgb(f)) for f in files]
        share = [next((w for pattern, w in (weights or {}).items() if fnmatch(f.name, pattern)), 1.0) for f in files]
        self.share = np.asarray(share) / sum(share)

    def _at_least(self, image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        scale = self.size / min(height, width)
        if scale <= 1:
            return image
        size = (max(self.size, round(width * scale)), max(self.size, round(height * scale)))
        return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        """One (size, size, 3) uint8 crop."""
        image = self.images[rng.choice(len(self.images), p=self.share)]
        height, width = image.shape[:2]
        largest = min(min(height, width) / self.size, 2.0)
        side = round(self.size * rng.uniform(1, largest)) if rng.random() < 0.5 else self.size
        top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
        out = image[top : top + side, left : left + side]
        if side != self.size:
            out = np.asarray(
                Image.fromarray(out).resize((self.size, self.size), Image.Resampling.BOX, reducing_gap=None)
            )
        if rng.random() < 0.5:
            out = out[:, ::-1]
        if rng.random() < 0.5:
            out = out.swapaxes(0, 1)
        return out

    def batch(self, count: int, step: int, seed: int) -> Tensor:
        """(count, 3, size, size) float in [0, 1]; the same for the same step and seed, whatever came before."""
        rng = np.random.default_rng((seed, step))
        crops = np.stack([self.crop(rng) for _ in range(count)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous().float() / 255
