"""`python -m ugicm.training.ablation DATA --init CHECKPOINT -o OUT`: what each part of an objective is worth.

From one checkpoint, with the same steps and batches: distortion alone; the global semantic loss; global and instance
losses; the latter two with fixed and with adaptive weights. (Distortion alone has nothing to balance.) With `--weights`
in place of these, the global semantic loss at each of the weights, balanced by the first of `--adaptive`. Each cell is
a run in a folder of its own, continued by the same command; its averaged weights are then measured on labelled images
by a classifier that never taught. Differences are paired with the cell trained for distortion alone, 95 % bootstrap
over images.

Pictures come from the training networks with rounded latents; `ugicm.training.evaluate` gives figures of real files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ugicm.models.conditioning import HUMAN, MACHINE
from ugicm.models.ugicm import STRIDE, UGICM
from ugicm.training.checkpoint import rebuild
from ugicm.training.config import Config, ConfigError
from ugicm.training.data import Crops, image_files, read_rgb
from ugicm.training.image_sets import labelled_files
from ugicm.training.judges import SqueezeNet
from ugicm.training.objectives import bits_per_pixel, psnr
from ugicm.training.run import Run
from ugicm.training.scores import resamples, sampled_mean
from ugicm.training.supervision import SemanticDistance, open_encoder
from ugicm.training.train import configured, parser, train

ALONE = "distortion alone"
MEASURES = ("top1", "semantic", "psnr_machine", "psnr_human", "bpp")


def cells(config: Config, methods: Sequence[str], weights: Sequence[float] = ()) -> dict[str, Config]:
    """Name → configuration of each cell."""

    def changed(method: str, **objective: Any) -> Config:
        more = {"objective": config.objective.model_copy(update=objective)}
        return config.model_copy(update=more | {"balance": config.balance.model_copy(update={"method": method})})

    alone: dict[str, Any] = {"global_weight": 0.0, "instance_weight": 0.0}
    if not weights:  # else the first of the weights is 0, and nothing else differs
        alone["betas"] = config.objective.betas.model_copy(update={"human": 1.0, "machine": 0.0, "between": 0.0})
    found = {ALONE: changed("fixed", **alone)}
    for weight in weights:
        found[f"global {weight:g}, {methods[0]}"] = changed(methods[0], instance_weight=0.0, global_weight=weight)
    for method in ("fixed", *methods) if not weights else ():
        found[f"global, {method}"] = changed(method, instance_weight=0.0)
        found[f"global + instance, {method}"] = changed(method)
    return found


def train_cell(config: Config, crops: Crops, folder: Path, console: Console) -> UGICM:
    """The averaged weights after the cell's last step; trained as far as that is still to be done."""
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(config, folder)
    if run.step < config.optimisation.steps:
        train(run, crops, None, lambda line, left: console.print(f"  {line}  {left:.0f} min left", highlight=False))
    return rebuild(torch.load(folder / "checkpoint.pt", weights_only=True))


@torch.no_grad()
def measure(
    model: UGICM, files: list[tuple[Path, int]], quality: int, judge: SqueezeNet, distance: SemanticDistance
) -> dict[str, list[float]]:
    """Measure → its value for each image, cropped centrally to multiples of the codec's stride."""
    found: dict[str, list[float]] = {name: [] for name in MEASURES}
    pictures = []
    index = torch.tensor([quality - 1])
    for path, _ in files:
        x = _whole(path)
        outputs = [model(x, index, torch.tensor([beta])) for beta in (HUMAN, MACHINE)]
        human, machine = (output.x_hat.clamp(0, 1) for output in outputs)
        found["bpp"].append(float(bits_per_pixel(outputs[0], x)))
        found["psnr_human"].append(float(psnr(human, x)))
        found["psnr_machine"].append(float(psnr(machine, x)))
        found["semantic"].append(float(distance(machine, x)))
        pictures.append((machine[0] * 255).round().byte().permute(1, 2, 0).numpy())
    classes = judge.classify(pictures)
    found["top1"] = [float(a == b) for a, (_, b) in zip(classes, files, strict=True)]
    return found


def _whole(path: Path) -> torch.Tensor:
    pixels = read_rgb(path)
    height, width = (n // STRIDE * STRIDE for n in pixels.shape[:2])
    if not height or not width:
        raise ConfigError(f"{path}: images need {STRIDE} pixels a side")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    x = torch.from_numpy(pixels[top : top + height, left : left + width].copy())
    return x.permute(2, 0, 1)[None].float() / 255


def summarise(results: dict[str, dict[str, list[float]]], times: int) -> dict[str, Any]:
    """Cell → measure → its estimate, and that of its paired difference to distortion alone."""
    draws = resamples(len(results[ALONE]["top1"]), times)
    sampled = {cell: {m: sampled_mean(np.array(v), draws) for m, v in row.items()} for cell, row in results.items()}
    return {
        cell: {
            m: {"estimate": s.estimate()._asdict(), "difference": s.minus(sampled[ALONE][m]).estimate()._asdict()}
            for m, s in row.items()
        }
        for cell, row in sampled.items()
    }


def show(summary: dict[str, Any], quality: int, console: Console) -> None:
    """Prints one quality's table: each value, and its difference to distortion alone."""
    table = Table("trained with", "top-1", "semantic", "machine dB", "human dB", "bpp", title=f"quality {quality}")
    for cell, row in summary.items():
        texts = []
        for name in MEASURES:
            value, d = row[name]["estimate"]["value"], row[name]["difference"]
            more = "" if cell == ALONE else f" ({d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}])"
            texts.append(f"{value:.3f}{more}")
        table.add_row(cell, *texts)
    console.print(table, highlight=False)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = parser("python -m ugicm.training.ablation", __doc__, "stage2")
    p.add_argument("--labelled", type=Path, required=True, help="folder of images with LABELS.csv")
    p.add_argument("--classifier", type=Path, required=True, help="SqueezeNet 1.0 state dict that judges")
    p.add_argument("--adaptive", nargs="+", default=["gradient-norm"], choices=["gradient-norm", "uncertainty"])
    p.add_argument("--weights", type=float, nargs="+", default=[], help="of the global semantic loss, a cell each")
    p.add_argument("--qualities", type=int, nargs="+", default=[1, 2], help="that are measured (default: 1 2)")
    p.add_argument("--limit", type=int, help="at most so many labelled images, evenly spread")
    p.add_argument("--resamples", type=int, default=1000)
    return p.parse_args(arguments)


def ablate(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Quality → cell → measures. Raises ConfigError, FloatingPointError."""
    config = configured(args)
    if config.init is None or not config.objective.semantic:
        raise ConfigError("an ablation needs a checkpoint (--init) and a configuration with a semantic distance")
    assert config.data.folder is not None
    files, judge = labelled_files(args.labelled, args.limit), SqueezeNet(args.classifier)
    encoder = open_encoder(config.supervision)
    assert encoder is not None
    distance = SemanticDistance(encoder, config.supervision)
    crops = Crops(image_files(config.data.folder, config.data.exclude), config.data, config.instances)
    results: dict[int, dict[str, Any]] = {quality: {} for quality in args.qualities}
    for cell, settings in cells(config, args.adaptive, args.weights).items():
        folder = args.output / cell.replace(" + ", "-").replace(", ", "-").replace(" ", "-")
        console.print(cell, style="bold")
        model = train_cell(settings, crops, folder, console)
        for quality in args.qualities:
            if not 1 <= quality <= model.config.qualities:
                raise ConfigError(f"--qualities: this codec has 1 to {model.config.qualities}")
            results[quality][cell] = measure(model, files, quality, judge, distance)
    summary = {str(quality): summarise(found, args.resamples) for quality, found in results.items()}
    for quality in args.qualities:
        show(summary[str(quality)], quality, console)
    return {"steps": config.optimisation.steps, "images": len(files), "teacher": encoder.label, "qualities": summary}


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        found = ablate(args, Console(width=None if sys.stdout.isatty() else 150))
    except (ConfigError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    (args.output / "ablation.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {args.output / 'ablation.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
