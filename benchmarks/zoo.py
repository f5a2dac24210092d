"""CompressAI's models, trained as floats, against their bundles: picture, bytes, and what integer scales cost.

    python -m benchmarks.zoo train mbt2018-mean IMAGES -o CHECKPOINT [--steps 2500]
    python -m benchmarks.zoo compare CHECKPOINT... --images IMAGES [--json OUT]

`train` trains a small model briefly with CompressAI's own loss, for want of its published weights. `compare` exports
each checkpoint and prints, over the images: bytes of a whole file against CompressAI's strings; bits of `y` under the
integer scale indexes against those under CompressAI's float ones, same symbols, same tables; PSNR of both pictures and
the largest difference between them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from ugicm import Codec
from ugicm.export.checkpoint import load
from ugicm.export.compressai_zoo import class_of
from ugicm.export.to_onnx import export_bundle
from ugicm.runtime.encoder import analysis
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.tables import TOTAL, Tables
from ugicm.training.config import Data
from ugicm.training.data import Crops, image_files

COMPARED = ("bmshj2018-hyperprior", "mbt2018-mean")
"""Those with scales in integers."""
STAGED = ("cheng2020-anchor-checkerboard",)
"""Those with a context: as many latents as channels, and guards in place of integer scales."""
FIRST = {"mbt2018-vbr": {"stage": 1}}
"""Of variable rate: only the first stage of their training, at the best level, without what quantises at others."""
MODELS = (*COMPARED, *STAGED, *FIRST)


def build(architecture: str, width: int, latent: int) -> Any:
    """A new model of CompressAI."""
    made = class_of(architecture)
    return made(width) if architecture in STAGED else made(width, latent)


class Halved(torch.nn.Module):
    """A transform whose convolutions run in bfloat16: about half the time where the processor has it."""

    def __init__(self, whole: torch.nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        """Of and to float32."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.whole(x).float()


def train(model: Any, crops: Crops, steps: int, weight: float, batch: int, rate: float = 1e-3, **options: Any) -> None:
    """Bits per pixel + weight * 255² * MSE, Adam with a linear fall to 0 over the second half; prints progress.

    Options are what the model is told beside the batch. Raises SystemExit where it diverges.
    """
    optimiser = torch.optim.Adam([p for n, p in model.named_parameters() if not n.endswith("quantiles")], lr=rate)
    quantiles = torch.optim.Adam([p for n, p in model.named_parameters() if n.endswith("quantiles")], lr=1e-2)
    started = time.monotonic()
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, 2 * (steps - step) / steps)
        x = crops.batch(batch, step, 1)[0]
        out = model(x, **options)
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        bpp = sum(-torch.log2(v).sum() for v in out["likelihoods"].values()) / pixels
        mse = (out["x_hat"] - x).square().mean() * 255**2
        if not torch.isfinite(bpp + mse):
            raise SystemExit(f"error: step {step + 1}: {float(bpp)} bpp, MSE {float(mse)}; try a smaller --rate")
        optimiser.zero_grad()
        (bpp + weight * mse).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        quantiles.zero_grad()
        model.aux_loss().backward()
        quantiles.step()
        if (step + 1) % 100 == 0:
            left = (time.monotonic() - started) / (step + 1) * (steps - step - 1) / 60
            print(f"step {step + 1}  {float(bpp):.3f} bpp  MSE {float(mse):.1f}  {left:.0f} min left", flush=True)


def code_length(symbols: np.ndarray, rows: np.ndarray, tables: Tables) -> float:
    """Bits of symbols under integer frequencies; a symbol outside its row's support counts as that row's escape."""
    starts = np.cumsum(tables.lengths) - tables.lengths
    at = symbols - tables.offsets[rows]
    escape = tables.lengths[rows] - 1
    at = np.where((at < 0) | (at > escape), escape, at)
    return float(-np.log2(tables.frequencies[starts[rows] + at] / TOTAL).sum())


@torch.no_grad()
def compare(checkpoint: Path, files: list[Path]) -> dict[str, Any]:
    """Means over the images, each of any size."""
    state = torch.load(checkpoint, weights_only=True)
    model = build(state["architecture"], state["width"], state["latent"])
    model.load_state_dict(state["state_dict"])
    model.eval().update(force=True)
    records = []
    with tempfile.TemporaryDirectory() as folder:
        export_bundle(load(checkpoint), Path(folder) / "bundle", console=Console())
        codec = Codec.from_bundle(Path(folder) / "bundle")
        for path in files:
            records.append(_one(model, codec, read_image(path)))
    means = {key: float(np.mean([r[key] for r in records])) for key in records[0]}
    means["largest difference"] = max(r["largest difference"] for r in records)
    means["file %"] = 100 * (sum(r["bytes"] for r in records) / sum(r["their bytes"] for r in records) - 1)
    means["integer %"] = 100 * (sum(r["bits"] for r in records) / sum(r["float bits"] for r in records) - 1)
    return {"architecture": state["architecture"], "images": len(records), **means}


def _one(model: Any, codec: Codec, image: np.ndarray) -> dict[str, float]:
    x: Tensor = (
        torch.from_numpy(analysis.padded([image], codec.bundle.manifest.stride)[0].copy())
        .permute(2, 0, 1)[None]
        .float()
        / 255
    )
    data = codec.encode(image)
    found = codec.decode(data)
    expected = torch.round(model(x)["x_hat"].clamp(0, 1) * 255)[0].permute(1, 2, 0).numpy().astype(np.uint8)
    expected = expected[: image.shape[0], : image.shape[1]]
    y, z = analysis.analysed(codec.networks, image, 1)
    rows, mean = codec.networks.scales_and_means(z)
    symbols = analysis.symbols_of(codec.networks, y, rows, mean)
    medians = model.entropy_bottleneck._get_medians().reshape(1, -1, 1, 1)
    scales = model.h_s(torch.from_numpy(z) + medians)
    scales = scales.chunk(2, 1)[0] if codec.bundle.manifest.architecture == "mbt2018-mean" else scales
    float_rows = model.gaussian_conditional.build_indexes(scales).numpy()
    return {
        "bytes": len(data),
        "their bytes": sum(len(s[0]) for s in model.compress(x)["strings"]),
        "bits": code_length(symbols, rows, codec.bundle.y_tables),
        "float bits": code_length(symbols, float_rows, codec.bundle.y_tables),
        "other rows %": 100 * float(np.mean(rows != float_rows)),
        "bpp": 8 * len(data) / image.shape[0] / image.shape[1],
        "psnr": psnr(image, found),
        "their psnr": psnr(image, expected),
        "largest difference": float(np.abs(found.astype(int) - expected).max()),
        "pixels that differ %": 100 * float(np.mean(found != expected)),
    }


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0] if __doc__ else "")
    verbs = p.add_subparsers(dest="verb", required=True)
    t = verbs.add_parser("train")
    t.add_argument("architecture", choices=MODELS)
    t.add_argument("images", type=Path, help="folder of training images")
    t.add_argument("-o", "--output", type=Path, required=True)
    t.add_argument("--width", type=int, default=64, help="channels N (default: 64)")
    t.add_argument("--latent", type=int, default=96, help="channels M (default: 96)")
    t.add_argument("--steps", type=int, default=2500)
    t.add_argument("--weight", type=float, default=0.0067, help="lambda (default: 0.0067)")
    t.add_argument("--batch", type=int, default=8, help="crops of 128×128 (default: 8)")
    t.add_argument("--rate", type=float, default=1e-3, help="of learning (default: 1e-3)")
    t.add_argument("--threads", type=int, default=2)
    t.add_argument("--bf16", action="store_true", help="g_a and g_s in bfloat16 while training")
    c = verbs.add_parser("compare")
    c.add_argument("checkpoints", type=Path, nargs="+")
    c.add_argument("--images", type=Path, required=True, help="folder")
    c.add_argument("--limit", type=int, default=1000, help="at most so many images")
    c.add_argument("--json", type=Path)
    args = p.parse_args(arguments)
    files = image_files(args.images)
    if args.verb == "train":
        torch.set_num_threads(args.threads)
        torch.manual_seed(1)
        model = build(args.architecture, args.width, args.latent)
        g_a, g_s = model.g_a, model.g_s
        if args.bf16:
            model.g_a, model.g_s = Halved(g_a), Halved(g_s)
        options = FIRST.get(args.architecture, {})
        train(model, Crops(files, Data(crop=128)), args.steps, args.weight, args.batch, args.rate, **options)
        model.g_a, model.g_s = g_a, g_s
        fields = {"architecture": args.architecture, "width": args.width, "latent": args.latent}
        torch.save({**fields, "state_dict": model.state_dict()}, args.output)
        return 0
    records = [compare(path, files[: args.limit]) for path in args.checkpoints]
    keys = [k for k in records[0] if k not in ("architecture", "images", "bits", "float bits")]
    table = Table("mean over images", *(f"{r['architecture']} ({r['images']})" for r in records))
    for key in keys:
        table.add_row(key, *(f"{r[key]:.4g}" if not math.isclose(r[key] % 1, 0) else f"{r[key]:.0f}" for r in records))
    Console().print(table)
    if args.json:
        args.json.write_text(json.dumps(records, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
