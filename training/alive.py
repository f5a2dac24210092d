"""`python -m ugicm.training.alive CHECKPOINT IMAGES`: which ReLUs of a codec's networks do anything.

A channel that is zero everywhere on all images at all qualities does nothing; once training has brought one there, an
ordinary ReLU gives it no gradient to come back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ugicm.models.ugicm import UGICM
from ugicm.training.config import ConfigError
from ugicm.training.data import whole_images
from ugicm.training.run import load_checkpoint


@torch.no_grad()
def shares(model: UGICM, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name of each ReLU → (channels,) share of positions where the channel is above zero, human view, all qualities.

    `images`: (1, 3, H, W) in [0, 1], sides multiples of 64.
    """
    sums: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, out: Tensor) -> None:
            above = (out > 0).float().mean((0, 2, 3)) if out.ndim == 4 else (out > 0).float().mean(0)
            sums[name] = sums.get(name, torch.zeros_like(above)) + above

        return hook

    watched = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ReLU) and not n.startswith("preference.")]
    handles = [module.register_forward_hook(watch(name)) for name, module in watched]
    model.eval()
    for x in images:
        for quality in range(model.config.qualities):
            model(x, torch.tensor([quality]), torch.zeros(1))
    for handle in handles:
        handle.remove()
    return {name: total / (len(images) * model.config.qualities) for name, total in sums.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m ugicm.training.alive", description=__doc__)
    p.add_argument("checkpoint", type=Path)
    p.add_argument("images", type=Path, help="folder of images")
    p.add_argument("--limit", type=int, default=6, help="at most so many images, evenly spread (default: 6)")
    args = p.parse_args(arguments)
    try:
        model = load_checkpoint(args.checkpoint)
        images = whole_images(args.images, args.limit)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    table = Table("ReLU", "channels", "dead", "above zero, mean")
    for name, above in shares(model, images).items():
        table.add_row(name, str(len(above)), str(int((above == 0).sum())), f"{float(above.mean()):.2f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
