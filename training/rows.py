"""`python -m ugicm.training.rows CHECKPOINT IMAGES -o OUT`: fits each scale row's mixture to rounded latents.

The last step before a checkpoint is exported. Training measures rates on noisy latents, with one mixture for all rows
of the scale table; what is coded is rounded, and narrow rows have other tails than wide ones. Symbols of all qualities
are counted by row, and each row's numbers are corrected by maximum likelihood, held near the learned ones where there
is little to count. No other weight changes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ugicm.models.entropy import SCALE_ROWS, LatentModel
from ugicm.models.ugicm import UGICM
from ugicm.training.checkpoint import save, weights_of
from ugicm.training.config import ConfigError
from ugicm.training.data import whole_images
from ugicm.training.run import load_checkpoint

REACH = 255
HOLD = 100.0  # bits that a correction of 1 costs: what a few hundred symbols can outweigh
STEPS = 500


@torch.no_grad()
def count(model: UGICM, images: Sequence[Tensor]) -> Tensor:
    """(64, 511) float64 counts of the symbols -255..255 by scale row, all qualities; what lies beyond is left out.

    `images`: (1, 3, H, W) in [0, 1], sides multiples of 64.
    """
    model.eval()
    counts = torch.zeros(SCALE_ROWS, 2 * REACH + 1, dtype=torch.float64)
    for x in images:
        for quality in range(model.config.qualities):
            y = model.analyse(x, torch.tensor([quality]))
            rows, means = model.scales_and_means(torch.round(model.h_a(y)))
            y_hat, means = model.quantise(y, means)
            symbols = torch.round(y_hat - means).long() + REACH
            index = torch.round(rows).clamp(0, SCALE_ROWS - 1).long()
            inside = (symbols >= 0) & (symbols <= 2 * REACH)
            places = (index * counts.shape[1] + symbols)[inside]
            counts += torch.bincount(places, minlength=counts.numel()).reshape(counts.shape)
    return counts


def bits(model: LatentModel, counts: Tensor, rows: Tensor) -> Tensor:
    """(n,) bits that the symbols of some scale rows take; `counts` (n, 511) are theirs, `rows` (n,) their indexes."""
    values = torch.arange(-REACH, REACH + 1, dtype=counts.dtype).expand_as(counts)
    places = rows.to(counts.dtype)[:, None].expand_as(counts)
    return -(counts * torch.log2(model(values, torch.zeros_like(values), places))).sum(1)


def fit(model: LatentModel, counts: Tensor) -> tuple[float, float]:
    """Sets the corrections; the bits of all symbols before and after."""
    model.double().eval().requires_grad_(False)
    rows = counts.sum(1).nonzero()[:, 0]  # the others stay uncorrected
    counts = counts[rows]
    before = float(bits(model, counts, rows).sum())
    # A third normal twice as wide, with next to nothing of the share.
    free = torch.tensor([0, 0, 0, 1e-3, 0.7], dtype=torch.float64).repeat(len(rows), 1).requires_grad_()
    start = free.detach().clone()
    optimiser = torch.optim.Adam([free], lr=0.02)
    none = torch.zeros(SCALE_ROWS, free.shape[1], dtype=torch.float64)
    for _ in range(STEPS):
        model.corrections = none.index_copy(0, rows, free)
        # Each row by its own size, so that rare rows are fitted as well as frequent ones.
        loss = ((bits(model, counts, rows) + HOLD * (free - start).square().sum(1)) / (counts.sum(1) + HOLD)).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.corrections = none.index_copy(0, rows, free.detach())
    after = float(bits(model, counts, rows).sum())
    model.float()
    return before, after


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m ugicm.training.rows", description=__doc__)
    p.add_argument("checkpoint", type=Path)
    p.add_argument("images", type=Path, help="folder of training images")
    p.add_argument("-o", "--output", type=Path, required=True, help="the checkpoint to write")
    p.add_argument("--exclude", nargs="*", default=[], metavar="PATTERN", help="file names to leave out")
    p.add_argument("--limit", type=int, default=48, help="at most so many images, evenly spread (default: 48)")
    args = p.parse_args(arguments)
    try:
        model = load_checkpoint(args.checkpoint)
        images = whole_images(args.images, args.limit, args.exclude)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    before, after = fit(model.latent_model, count(model, images))
    values = torch.load(args.checkpoint, weights_only=True)
    label = {"supervision": values["supervision"]} if "supervision" in values else {}
    save(args.output, {**weights_of(model), **label})
    print(f"wrote {args.output}: {100 * (after / before - 1):+.2f} % bits of y on {len(images)} images")
    return 0


if __name__ == "__main__":
    sys.exit(main())
