"""`python -m benchmarks.round_trip FOLDER CHECKPOINT`: files against the model's own estimate, and exact symbols.

For every image and quality: the decoded size is right, the decoded symbols are the encoded ones (the file's checksum
says so), and the real file is compared with the rate that the checkpoint's likelihoods estimate in PyTorch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.files.images import read_image
from ugicm.training.checkpoint import rebuild
from ugicm.training.objectives import bits_per_pixel

SIZES = ((1, 1), (1, 500), (63, 65), (64, 64), (769, 513))


def estimated_bpp(model: torch.nn.Module, image: np.ndarray, quality: int) -> float:
    """The rate of an image whose sides are multiples of 64, by the model's likelihoods of the rounded latents."""
    x = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return float(bits_per_pixel(model(x, torch.tensor([quality - 1]), torch.zeros(1)), x))


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.round_trip", description=__doc__)
    p.add_argument("folder", type=Path, help="folder of PNG images, sides multiples of 64 (Kodak's are)")
    p.add_argument("checkpoint", type=Path, help="the checkpoint that the bundle was exported from")
    p.add_argument("--bundle", type=Path, help="default: the shipped one")
    args = p.parse_args(arguments)
    console = Console()
    codec = Codec.from_bundle(args.bundle)
    model = rebuild(torch.load(args.checkpoint, weights_only=True))
    images = [read_image(f) for f in sorted(args.folder.glob("*.png"))]
    table = Table("quality", "images", "real bpp", "estimated bpp", "real − estimated", "worst image")
    wrong = 0
    for quality in range(1, codec.qualities + 1):
        real, estimated = [], []
        for image in images:
            data = codec.encode(image, quality)
            wrong += codec.decode(data).shape != image.shape
            real.append(len(data) * 8 / (image.shape[0] * image.shape[1]))
            estimated.append(estimated_bpp(model, image, quality))
        ratio = np.array(real) / np.array(estimated) - 1
        worst = ratio[np.abs(ratio).argmax()]
        mean = np.mean(real) / np.mean(estimated) - 1
        table.add_row(
            str(quality),
            str(len(images)),
            f"{np.mean(real):.4f}",
            f"{np.mean(estimated):.4f}",
            f"{mean:+.2%}",
            f"{worst:+.2%}",
        )
    console.print(table)
    for height, width in SIZES:
        crop = np.tile(images[0], (2, 2, 1))[:height, :width]
        sizes = []
        for quality in range(1, codec.qualities + 1):
            data = codec.encode(crop, quality)
            wrong += codec.decode(data).shape != crop.shape
            sizes.append(str(len(data)))
        console.print(f"{width}×{height}: decoded size right, bytes by quality {' '.join(sizes)}")
    console.print(f"wrong sizes: {wrong}; every symbol checksum matched")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
