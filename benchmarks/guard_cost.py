"""`python -m benchmarks.guard_cost BUNDLE IMAGE… [--bands 12 11 10 9 8]`: what guarded rounding costs files, by band.

Encodes the images with bands in place of the bundle's own and prints the bits of all shifts, by the tables that coded
them, against the whole files. A wider band needs more shifts, and where none of a block's is free, smaller blocks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime import bitstream, staged
from ugicm.runtime.additions import Guard
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.held import held


@dataclass(frozen=True)
class Cost:
    """Of one file.

    Attributes:
        size: its bytes.
        guards: of these, the shifts; a fraction too.
        block: positions of a block.
    """

    size: int
    guards: float
    block: int


@contextmanager
def band(bits: int) -> Iterator[None]:
    """Files are encoded with a band of 2^-bits rows, whatever their bundle says."""
    with mock.patch.object(staged, "Guard", lambda own, block: Guard(bits, block)):
        yield


def cost(codec: Codec, image: np.ndarray, bits: int) -> Cost:
    """Of an image, (H, W, 3) uint8."""
    with band(bits):
        data = codec.encode(image)
    guard = bitstream.parse(data).guard
    if guard is None:
        raise SystemExit("error: a codec whose scales are integers; it has no guards")
    return Cost(len(data), held(codec, data).guards / 8, guard.block)


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.guard_cost", description=__doc__.split("\n")[0])
    p.add_argument("bundle", type=Path, help="of a codec with context")
    p.add_argument("images", type=Path, nargs="+")
    p.add_argument("--bands", type=int, nargs="+", default=[12, 11, 10, 9, 8], metavar="BITS")
    args = p.parse_args(arguments)
    codec, images = Codec.from_bundle(args.bundle, threads=1), [read_image(path) for path in args.images]
    schedule = codec.bundle.manifest.schedule
    table = Table("band", "blocks", "bytes", "guards", *(path.name for path in args.images))
    for bits in args.bands:
        costs = [cost(codec, image, bits) for image in images]
        size = sum(c.size for c in costs)
        table.add_row(
            f"2^-{bits}" + (", the bundle's" if schedule and schedule.band_bits == bits else ""),
            ", ".join(map(str, sorted({c.block for c in costs}))),
            f"{size:,}",
            f"{sum(c.guards for c in costs) / size:.3%}",
            *(f"{c.guards / c.size:.3%}" for c in costs),
        )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
