"""`python -m benchmarks.zoo_check CHECKPOINT…`: files and pictures of CompressAI's models, here and there.

The same weights code pieces of a photograph of several sizes on both sides: bytes of our two substreams against those
of CompressAI's strings, the largest difference of the decoded pictures, the share of values that differ at all, and
the PSNR of both. A bundle stands beside its checkpoint, as `ugicm export` writes it.

A latent that lies on the edge between two symbols is rounded either way by two encoders, and where the next latent's
mean depends on the ones before, all after it are rounded about other means. So three more numbers tell what rounding
did and what synthesis does: how many latents differ by more than half a step; the largest difference of the pictures
that our synthesis and CompressAI's make of the *same* latents, those of our file; and how far CompressAI's pictures in
float32 are from its own in float64. The exit status is 1 where pictures of the same latents are over one level apart.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

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
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.measures.pictures import generated_image

SIZES = ("1x1", "70x33", "769x513")


@dataclass(frozen=True)
class Coded:
    """What a codec makes of a picture.

    Attributes:
        picture: (H, W, 3) uint8.
        latents: (1, M, h, w), what `g_s` of CompressAI reads.
        sizes: bytes of what is coded.
    """

    picture: np.ndarray
    latents: np.ndarray
    size: int

    def apart(self, other: Coded) -> np.ndarray:
        """Levels between the pictures."""
        return np.abs(self.picture.astype(int) - other.picture)


def ours(codec: Codec, model: Any, piece: np.ndarray, quality: int) -> Coded:
    """A picture through a file of ours; `model` is CompressAI's, of the same weights."""
    data, seen, images = codec.encode(piece, quality), list[np.ndarray](), Networks.images

    def seeing(networks: Networks, y_hat: Any, *rest: Any) -> Any:
        seen.append(np.array(y_hat))
        return images(networks, y_hat, *rest)

    with mock.patch.object(Networks, "images", seeing):
        picture = codec.decode(data)
    stream, m = bitstream.parse(data), codec.bundle.manifest
    latents = seen[-1] * codec.bundle.inverse_gain[quality - 1 : quality]
    if not m.hyper_channels:
        latents = latents + model.entropy_bottleneck._get_medians().numpy().reshape(1, -1, 1, 1)
    return Coded(picture, latents, len(stream.z) + sum(map(len, stream.y)))


def theirs(model: Any, piece: np.ndarray, stride: int, level: dict[str, int], dtype: torch.dtype) -> Coded:
    """A picture through CompressAI's strings, all of it in a float type."""
    with _default(dtype):
        strings = model.compress(tensor(piece, stride).to(dtype), **level)
        seen: list[torch.Tensor] = []
        handle = model.g_s.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        picture = pixels(model.decompress(**strings, **level)["x_hat"], piece.shape)
        handle.remove()
    return Coded(picture, seen[-1].numpy(), sum(len(s[0]) for s in strings["strings"]))


@contextmanager
def _default(dtype: torch.dtype) -> Iterator[None]:
    """Of what PyTorch makes without being told a type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@dataclass(frozen=True)
class Found:
    """Of one model and size.

    Attributes:
        model: its name and widths.
        here, there, exact: ours, CompressAI's in float32, and in float64.
        same: the largest difference, in levels, of the two syntheses of our latents.
        step: of the latents' quantiser.
        quality: PSNR of both pictures, as text.
    """

    model: str
    here: Coded
    there: Coded
    exact: Coded
    same: int
    step: float
    quality: str

    def cells(self) -> list[str]:
        """A row of the table."""
        apart, height_width = self.here.apart(self.there), self.here.picture.shape
        return [
            self.model,
            f"{height_width[1]}×{height_width[0]}",
            f"{self.here.size:,}",
            f"{self.here.size / self.there.size - 1:+.2%}",
            str(apart.max()),
            f"{np.count_nonzero(apart) / apart.size:.1e}",
            f"{self.others(self.here):,} of {self.there.latents.size:,}",
            str(self.same),
            f"{self.exact.apart(self.there).max()}, {self.others(self.exact):,}",
            self.quality,
        ]

    def others(self, coded: Coded) -> int:
        """How many latents are not CompressAI's in float32, by more than half a step."""
        return int(np.count_nonzero(np.abs(coded.latents - self.there.latents) > self.step / 2))


@torch.no_grad()
def check(checkpoint: Path, image: np.ndarray, sizes: list[tuple[int, int]], quality: int) -> list[Found]:
    """What was found at each size, (height, width)."""
    architecture, model, level = zoo_model(checkpoint, quality)
    codec = Codec.from_bundle(bundle_of(checkpoint, checkpoint.parent), threads=torch.get_num_threads())
    m, found, double = codec.bundle.manifest, [], copy.deepcopy(model).double()
    asked = quality if level else 1
    name = f"{architecture} {m.hyper_channels}/{m.latent_channels}" + (f", quality {quality}" if level else "")
    for height, width in sizes:
        piece = np.ascontiguousarray(image[:height, :width])
        here = ours(codec, model, piece, asked)
        there, exact = (
            theirs(of, piece, m.stride, level, dtype) for of, dtype in ((model, torch.float32), (double, torch.float64))
        )
        again = pixels(model.g_s(torch.from_numpy(here.latents.astype(np.float32))), piece.shape)
        same = int(np.abs(here.picture.astype(int) - again).max())
        step = float(codec.bundle.inverse_gain[asked - 1].max())
        said = f"{psnr(piece, here.picture):.2f}, {psnr(piece, there.picture):.2f}"
        found.append(Found(name, here, there, exact, same, step, said))
    return found


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
    headings = ("model, z/y", "size", "bytes", "of theirs", "largest difference", "share", "other latents")
    table = Table(*headings, "same latents", "theirs, float64", "PSNR, theirs")
    farthest = 0
    for checkpoint in args.checkpoints:
        for found in check(checkpoint, image, sizes, args.quality):
            farthest = max(farthest, found.same)
            table.add_row(*found.cells())
            print("\t".join(found.cells()), file=sys.stderr, flush=True)
    Console(width=150).print(table)
    return 1 if farthest > 1 else 0


if __name__ == "__main__":
    sys.exit(main())
