"""`python -m benchmarks.int8 FLOAT INT8 IMAGES [-o OUT]`: what an INT8 bundle costs and saves beside its float one.

Real files through the codec, at every quality: the float bundle's files decoded by both (the loss at equal
bitstream, of every condition), the INT8 bundle's own files, and the time of each graph on one image, alternating. The
images must not be those of the calibration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm.calibration.int8.command import paired_times
from ugicm.calibration.int8.samples import conditions_of
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import Codec
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.metrics import psnr


def measure(floating: Codec, integer: Codec, images: list[np.ndarray], quality: int) -> dict[str, float]:
    """Means over images: bpp and PSNR of the first condition, losses of each at the float bundle's bitstream."""
    rows: list[dict[str, float]] = []
    names = conditions_of(floating)
    for image in images:
        pixels = image.shape[0] * image.shape[1]
        data, own = floating.encode(image, quality), integer.encode(image, quality)
        before = [psnr(view, image) for view in floating.decode_views(data, names)]
        after = [psnr(view, image) for view in integer.decode_views(data, names)]
        row = {"bpp": 8 * len(data) / pixels, "psnr": before[0], "int8_bpp": 8 * len(own) / pixels}
        row["int8_psnr"] = psnr(integer.decode(own, names[0]), image)
        row.update({f"loss_{name or 'view'}": b - a for name, b, a in zip(names, before, after, strict=True)})
        rows.append(row)
    return {key: statistics.fmean(row[key] for row in rows) for key in rows[0]}


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=__doc__)
    p.add_argument("floating", type=Path, metavar="FLOAT", help="the float bundle")
    p.add_argument("integer", type=Path, metavar="INT8", help="what ugicm.calibration.int8 made of it")
    p.add_argument("images", type=Path, metavar="IMAGES", help="a folder")
    p.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    p.add_argument("--count", type=int, help="images used, default all")
    p.add_argument("--runs", type=int, default=60, help="of each graph")
    args = p.parse_args(arguments)
    console = Console()
    bundles = [Bundle.open(path) for path in (args.floating, args.integer)]
    backend = OnnxRuntime()
    floating, integer = (Codec(bundle, backend) for bundle in bundles)
    images = [read_image(path) for path in sorted(args.images.glob("*.png"))[: args.count]]
    if not images:
        console.print(f"error: {args.images}: holds no PNG files")
        return 2
    losses = [f"loss_{name or 'view'}" for name in conditions_of(floating)]
    heads = [f"{loss.removeprefix('loss_')}: loss dB" for loss in losses]
    table = Table("quality", "bpp", "PSNR dB", *heads, "int8 file: bpp", "PSNR dB", title="equal bitstream; own files")
    rows = []
    for quality in range(1, floating.qualities + 1):
        row = measure(floating, integer, images, quality)
        rows.append({"quality": quality, **row})
        cells = [f"{row['bpp']:.4f}", f"{row['psnr']:.3f}", *(f"{row[loss]:+.3f}" for loss in losses)]
        table.add_row(str(quality), *cells, f"{row['int8_bpp']:.4f}", f"{row['int8_psnr']:.3f}")
    mean = {loss: statistics.fmean(row[loss] for row in rows) for loss in losses}
    table.add_row("mean", "", "", *(f"{mean[loss]:+.3f}" for loss in losses), "", "")
    console.print(table)
    times = paired_times(*bundles, images[0], count=args.runs)
    timing = Table("graph", "fp32 ms", "int8 ms", "ratio", title=f"768×512, one thread, medians of {args.runs}")
    sums = {"encode": ("g_a", "h_a"), "decode": ("g_s_trunk", "g_s")}
    for title, graphs in sums.items():
        shown = {name: times[name] for name in graphs if name in times}
        shown[f"{title}: all"] = tuple(sum(t[i] for t in shown.values()) for i in (0, 1))  # type: ignore[assignment]
        for name, (a, b) in shown.items():
            timing.add_row(name, f"{a:.2f}", f"{b:.2f}", f"{a / b:.2f}×")
    console.print(timing)
    if args.output:
        report = {"codec": bundles[0].manifest.codec_id, "images": len(images), "rows": rows, "mean": mean, "ms": times}
        args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
