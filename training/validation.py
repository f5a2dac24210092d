"""Evaluation while training: always the same images, qualities and betas, with estimated rates."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ugicm.models.ugicm import STRIDE, UGICM, Output
from ugicm.training.config import ConfigError, Validation
from ugicm.training.data import image_files, read_rgb
from ugicm.training.instances import Instance, propose
from ugicm.training.objectives import Batch, Terms, bits_per_pixel, psnr


class Row(NamedTuple):
    """Means over the images at one quality (1-based) and beta; `objective` with the fixed weights."""

    quality: int
    beta: float
    bpp: float
    psnr: float
    semantic: float
    objective: float

    def __str__(self) -> str:
        line = f"validation: quality {self.quality}  beta {self.beta:g}  {self.bpp:.4f} bpp  {self.psnr:.2f} dB"
        return line + (f"  semantic {self.semantic:.4f}" if self.semantic == self.semantic else "")


class Validator:
    """Evaluates a model on the images of a folder.

    Args:
        settings: which images, qualities and betas.
        terms: the objective, for the criterion.
        qualities: of the model.
        instances: whether instances are proposed for the images.

    Raises:
        ConfigError: the folder holds no image, or a quality or beta is out of range.
    """

    def __init__(self, settings: Validation, terms: Terms, qualities: int, instances: bool) -> None:
        self.settings = settings
        self.terms = terms
        if any(q > qualities for q in settings.qualities):
            raise ConfigError(f"validation.qualities: the model has qualities 1 to {qualities}")
        if any(not 0 <= beta <= 1 for beta in settings.betas):
            raise ConfigError("validation.betas: betas are 0 to 1")
        files = image_files(settings.folder)[: settings.images] if settings.folder else []
        self.images = [_whole(path) for path in files]
        self.instances: list[list[Instance]] = [
            propose(_pixels(x), terms.instances.most) if instances else [] for x in self.images
        ]

    @torch.no_grad()
    def __call__(self, model: UGICM, device: str) -> list[Row]:
        """A row for each quality and beta."""
        model.eval()
        rows = []
        for quality in self.settings.qualities:
            for beta in self.settings.betas:
                found = [
                    self._one(model, x.to(device), instances, quality, beta)
                    for x, instances in zip(self.images, self.instances, strict=True)
                ]
                rows.append(Row(quality, beta, *torch.tensor(found).mean(0).tolist()))
        return rows

    def _one(
        self, model: UGICM, x: Tensor, instances: list[Instance], quality: int, beta: float
    ) -> tuple[float, float, float, float]:
        index, view = torch.tensor([quality - 1], device=x.device), torch.tensor([beta], device=x.device)
        batch = Batch(x, index, view, [instances])
        output: Output = model(*batch[:3])
        terms, weights = self.terms(output, batch), self.terms.weights()
        total = sum(weights[name] * float(term) for name, term in terms.items())
        distance = self.terms.distance
        semantic = float(distance(output.x_hat.clamp(0, 1), x)) if distance is not None else float("nan")
        return float(bits_per_pixel(output, x)), float(psnr(output.x_hat, x)), semantic, total


def criterion(rows: list[Row]) -> float:
    """Least in the best checkpoint: the mean of the objective, with its fixed weights, over all rows."""
    return sum(row.objective for row in rows) / len(rows)


def _whole(path: Path) -> Tensor:
    """(1, 3, H, W), cropped to multiples of the codec's stride."""
    x = torch.from_numpy(read_rgb(path).copy()).permute(2, 0, 1)[None].float() / 255
    height, width = (n // STRIDE * STRIDE for n in x.shape[2:])
    if not height or not width:
        raise ConfigError(f"{path}: validation images need {STRIDE} pixels a side")
    return x[:, :, :height, :width]


def _pixels(x: Tensor) -> np.ndarray:
    return (x[0].permute(1, 2, 0) * 255).round().byte().numpy()
