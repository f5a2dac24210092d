"""`python -m benchmarks.rate_distortion FOLDER -o OUT`: rate and distortion from real files, beside JPEG and WebP.

Every image is encoded at every quality, decoded from the bytes, and compared with its original; JPEG and WebP are
Pillow's, with their best effort (optimised Huffman tables, method 6). Curves are means over the images at each
setting; a codec's PSNR at a given rate is read off its curve, linearly in the logarithm of the rate. Two of
CompressAI's models stand beside them with the means over Kodak's images that it publishes: right for Kodak only.

Writes `rate-distortion.json` and `rate-distortion.png`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.training.curves import (
    JPEG_QUALITIES,
    WEBP_QUALITIES,
    Curve,
    at_rate,
    bd_rate,
    mean_curve,
    pillow_file,
    pillow_picture,
)

RATES = (0.25, 0.4)
# (bpp, PSNR in dB), means over Kodak, results/image/kodak/compressai-*_mse_cuda.json of CompressAI's repository.
PUBLISHED = {
    "mbt2018-mean": (
        (0.1239, 27.699),
        (0.1980, 29.359),
        (0.3072, 31.129),
        (0.4606, 32.951),
        (0.6617, 34.968),
        (0.9144, 36.911),
        (1.2342, 38.838),
        (1.6191, 40.633),
    ),
    "bmshj2018-hyperprior": (
        (0.1313, 27.582),
        (0.2089, 29.197),
        (0.3199, 30.972),
        (0.4784, 32.838),
        (0.6687, 34.526),
        (0.9388, 36.743),
        (1.2592, 38.584),
        (1.6602, 40.557),
    ),
}
KODAK = 24


def point(image: np.ndarray, decoded: np.ndarray, size: int) -> tuple[float, float, float]:
    """(bpp, PSNR in dB, MS-SSIM)."""
    return size * 8 / (image.shape[0] * image.shape[1]), psnr(image, decoded), ms_ssim(image, decoded)


def measure(codec: Codec, images: list[np.ndarray], console: Console) -> dict[str, Curve]:
    """The curves "ugic", "JPEG" and "WebP"."""
    settings = {
        "ugic": tuple(range(1, codec.qualities + 1)),
        "JPEG": JPEG_QUALITIES,
        "WebP": WEBP_QUALITIES,
    }
    points: dict[str, dict[int, list[tuple[float, float, float]]]] = {
        name: {s: [] for s in values} for name, values in settings.items()
    }
    for i, image in enumerate(images):
        console.print(f"image {i + 1} of {len(images)}", style="dim")
        for quality in settings["ugic"]:
            data = codec.encode(image, quality)
            points["ugic"][quality].append(point(image, codec.decode(data), len(data)))
        for kind in ("JPEG", "WebP"):
            for setting in settings[kind]:
                data = pillow_file(image, kind, setting)
                points[kind][setting].append(point(image, pillow_picture(data), len(data)))
    return {name: mean_curve(values) for name, values in points.items()}


def show(curves: dict[str, Curve], published: bool, console: Console) -> dict[str, object]:
    """Prints the tables; the summary for JSON. `published`: whether CompressAI's published points are comparable."""
    table = Table("quality", "bpp", "PSNR dB", "MS-SSIM", "JPEG dB", "WebP dB", "over JPEG", "over WebP")
    for p in curves["ugic"]:
        others = [at_rate(curves[kind], p["bpp"]) for kind in ("JPEG", "WebP")]
        cells = ["–" if o is None else f"{o:.2f}" for o in others]
        gains = ["–" if o is None else f"{p['psnr'] - o:+.2f}" for o in others]
        row = [f"{p['setting']:.0f}", f"{p['bpp']:.4f}", f"{p['psnr']:.2f}", f"{p['ms_ssim']:.4f}"]
        table.add_row(*row, *cells, *gains)
    console.print(table)
    equal = Table("bpp", "ugic dB", "JPEG dB", "WebP dB")
    rates: dict[str, dict[str, float | None]] = {}
    for bpp in RATES:
        rates[str(bpp)] = {name: at_rate(curve, bpp) for name, curve in curves.items()}
        cells = ["–" if v is None else f"{v:.2f}" for v in rates[str(bpp)].values()]
        equal.add_row(str(bpp), *cells)
    console.print(equal)
    anchors = {name: curves[name] for name in ("JPEG", "WebP")}
    if published:
        anchors |= {n: [{"bpp": r, "psnr": db} for r, db in points] for n, points in PUBLISHED.items()}
    bd = {name: bd_rate(anchor, curves["ugic"]) for name, anchor in anchors.items()}
    texts = (f"{kind} {'–' if v is None else f'{v:+.1f} %'}" for kind, v in bd.items())
    console.print(f"BD-rate (PSNR) against {', against '.join(texts)}")
    return {"equal_rate_psnr": rates, "bd_rate_percent": bd}


def plot(curves: dict[str, Curve], path: Path) -> None:
    """PSNR and MS-SSIM (in dB) over rate."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for name, curve in curves.items():
        style = {"linewidth": 2.4} if name == "ugic" else {"linestyle": "--"}
        bpp = [p["bpp"] for p in curve]
        axes[0].plot(bpp, [p["psnr"] for p in curve], marker="o", markersize=4, label=name, **style)
        similarity = [-10 * np.log10(max(1 - p["ms_ssim"], 1e-9)) for p in curve]
        axes[1].plot(bpp, similarity, marker="o", markersize=4, label=name, **style)
    for axis, label in zip(axes, ("PSNR (dB)", "MS-SSIM (dB)"), strict=True):
        axis.set(xlabel="bits per pixel", ylabel=label, xlim=(0, 2))
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=110)


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.rate_distortion", description=__doc__)
    p.add_argument("folder", type=Path, help="folder of lossless images, e.g. Kodak's")
    p.add_argument("-o", "--output", type=Path, default=Path("rd-output"), help="folder for the JSON and the plot")
    p.add_argument("--bundle", type=Path, help="default: the shipped one")
    p.add_argument("--threads", type=int)
    args = p.parse_args(arguments)
    console = Console()
    try:
        codec = Codec.from_bundle(args.bundle, threads=args.threads)
        files = sorted(args.folder.glob("*.png"))
        if not files:
            raise UgicError(f"{args.folder}: no PNG files there; give a folder of lossless images")
        curves = measure(codec, [read_image(f) for f in files], console)
    except UgicError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary = show(curves, len(files) == KODAK, console)
    args.output.mkdir(parents=True, exist_ok=True)
    result = {"images": len(files), "codec_id": codec.codec_id.hex(), "curves": curves, **summary}
    (args.output / "rate-distortion.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(curves, args.output / "rate-distortion.png")
    console.print(f"wrote {args.output}/rate-distortion.json and .png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
