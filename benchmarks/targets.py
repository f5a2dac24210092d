"""`python -m benchmarks.targets FOLDER`: how near files come to the size or the quality that is asked for.

Of every image 6 bit rates and 6 PSNRs, spread over what its lowest and highest quality give, are asked for, and the
files are measured. Sizes of 50 qualities from the lowest to the highest have to rise. With `--effort` the targets are
met by searched files.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.metrics import psnr

TARGETS, QUALITIES = 6, 50
EXPLAINED = {
    "bpp miss": "per cent of the bit rate that was asked for",
    "PSNR miss": "dB from the PSNR that was asked for, human view",
    "falls": f"of {QUALITIES} qualities in order, how many give a smaller file than the one before",
}


def misses(codec: Codec, image: np.ndarray, effort: int) -> dict[str, Any]:
    """How far the files of an image are from its targets, signed, and how often its sizes fall.

    Args:
        image: (H, W, 3) uint8.
    """
    pixels = image.shape[0] * image.shape[1]
    ends = [codec.encode(image, quality, effort) for quality in (1, codec.qualities)]
    rates = np.geomspace(*(8 * len(data) / pixels for data in ends), TARGETS + 2)[1:-1]
    levels = np.linspace(*(psnr(image, codec.decode(data)) for data in ends), TARGETS + 2)[1:-1]
    bpp = [
        100 * (8 * len(codec.encode(image, effort=effort, target_bpp=float(rate))) / pixels / rate - 1)
        for rate in rates
    ]
    level = [
        psnr(image, codec.decode(codec.encode(image, effort=effort, target_psnr=float(wanted)))) - wanted
        for wanted in levels
    ]
    sizes = [len(codec.encode(image, float(quality))) for quality in np.linspace(1, codec.qualities, QUALITIES)]
    falls = int(np.count_nonzero(np.diff(sizes) < 0))
    return {"bpp": bpp, "psnr": [float(miss) for miss in level], "falls": falls}


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__.split("\n")[0])
    p.add_argument("folder", type=Path, help="of PNG images")
    p.add_argument("--bundle", type=Path, help="default: the shipped one")
    p.add_argument("--effort", type=int, default=0)
    p.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth image")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    codec = Codec.from_bundle(args.bundle, threads=args.threads)
    paths = sorted(args.folder.glob("*.png"))[:: args.every]
    found = {path.name: misses(codec, read_image(path), args.effort) for path in paths}
    if args.json:
        print(json.dumps(found, indent=1))
        return 0
    table = Table("image", "bpp miss, largest", "PSNR miss, largest", "falls")
    for name, one in found.items():
        table.add_row(name, f"{_largest(one['bpp']):.2f} %", f"{_largest(one['psnr']):.3f} dB", str(one["falls"]))
    largest = {kind: _largest([miss for one in found.values() for miss in one[kind]]) for kind in ("bpp", "psnr")}
    total = sum(one["falls"] for one in found.values())
    table.add_row("all", f"{largest['bpp']:.2f} %", f"{largest['psnr']:.3f} dB", str(total))
    console = Console()
    console.print(table)
    console.print(*(f"{name}: {meaning}" for name, meaning in EXPLAINED.items()), sep="\n")
    return 0


def _largest(values: list[float]) -> float:
    return max(map(abs, values))


if __name__ == "__main__":
    sys.exit(main())
