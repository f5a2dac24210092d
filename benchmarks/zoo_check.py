"""`python -m benchmarks.zoo_check CHECKPOINT…`: files and pictures of CompressAI's models, here and there.

The same weights code pieces of a photograph of several sizes on both sides: bytes of our two substreams against those
of CompressAI's strings, the largest difference of the decoded pictures, the share of values that differ at all, and
the PSNR of both. A bundle stands beside its checkpoint, as `ugicm export` writes it. Where the next latent's mean
depends on the ones before, a single latent that lies on the edge between two symbols lets all after it be rounded
about other means: then many values differ, and the PSNR does not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compare import pixels, tensor
from benchmarks.zoo_speed import zoo_model
from ugicm import Codec
from ugicm.export.folder import bundle_of
from ugicm.runtime import bitstream
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.measures.pictures import generated_image

SIZES = ("1x1", "70x33", "769x513")


@torch.no_grad()
def check(checkpoint: Path, image: np.ndarray, sizes: list[tuple[int, int]], quality: int) -> list[list[str]]:
    """Cells of the table: a row a size, (height, width)."""
    architecture, model, level = zoo_model(checkpoint, quality)
    codec = Codec.from_bundle(bundle_of(checkpoint, checkpoint.parent), threads=torch.get_num_threads())
    m, rows = codec.bundle.manifest, []
    for height, width in sizes:
        piece = np.ascontiguousarray(image[:height, :width])
        data = codec.encode(piece, quality if level else 1)
        stream = bitstream.parse(data)
        ours = codec.decode(data)
        strings = model.compress(tensor(piece, m.stride), **level)
        theirs = pixels(model.decompress(**strings, **level)["x_hat"], piece.shape)
        coded, expected = len(stream.z) + sum(map(len, stream.y)), sum(len(s[0]) for s in strings["strings"])
        apart = np.abs(ours.astype(int) - theirs)
        rows.append(
            [
                f"{architecture} {m.hyper_channels}/{m.latent_channels}" + (f", quality {quality}" if level else ""),
                f"{width}×{height}",
                f"{coded:,}",
                f"{coded / expected - 1:+.2%}",
                str(apart.max()),
                f"{np.count_nonzero(apart) / apart.size:.1e}",
                f"{psnr(piece, ours):.2f}, {psnr(piece, theirs):.2f}",
            ]
        )
    return rows


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.zoo_check", description=__doc__.split("\n")[0])
    p.add_argument("checkpoints", type=Path, nargs="+", help="of CompressAI's models, their bundles beside them")
    p.add_argument("--image", type=Path, help="at least as large as the sizes; default: a generated one")
    p.add_argument("--sizes", nargs="+", default=list(SIZES), metavar="WIDTHxHEIGHT")
    p.add_argument("--quality", type=int, default=8, help="of variable-rate models")
    args = p.parse_args(arguments)
    sizes = [(int(height), int(width)) for width, _, height in (text.partition("x") for text in args.sizes)]
    whole = (max(h for h, _ in sizes), max(w for _, w in sizes))
    image = generated_image(*whole) if args.image is None else read_image(args.image)
    pad = [(0, max(0, n - s)) for n, s in zip(whole, image.shape, strict=False)]
    image = np.pad(image, (*pad, (0, 0)), mode="symmetric")
    table = Table("model, z/y", "size", "bytes", "of theirs", "largest difference", "share", "PSNR, theirs")
    for checkpoint in args.checkpoints:
        for row in check(checkpoint, image, sizes, args.quality):
            table.add_row(*row)
            print("\t".join(row), file=sys.stderr, flush=True)
    Console(width=120).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
