"""`python -m benchmarks.published [IMAGE] [--checkpoint C]`: UG-ICM's network at its published size, end to end.

Exports the checkpoint, encodes a picture and decodes it in one view and in both, each in a process of its own, and says
what each took: minutes, and the peak of its memory. Without a checkpoint the weights are random, as PyTorch initialises
them: neither time nor memory depends on them, the bits do. `--one-view` is for checkpoints of other networks.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.spending import spend
from ugicm.runtime.files.images import write_image
from ugicm.runtime.measures.pictures import generated_image


def write_random(path: Path) -> None:
    """A checkpoint of the published widths, 117.8 million parameters, as PyTorch initialises it."""
    import torch

    from ugicm.models.mlic import MLIC, MLICConfig, older_residual

    torch.manual_seed(0)
    config = MLICConfig(first=192, preference=512, residual=older_residual(320, 10))
    torch.save({"state_dict": MLIC(config).state_dict()}, path)


def commands(
    checkpoint: Path, image: Path, folder: Path, threads: int | None, views: bool = True
) -> dict[str, list[str]]:
    """The steps to measure, in order; `folder` takes the bundle, the file and the pictures.

    Without `views` the codec has one view alone, which has no name.
    """
    ugicm = [sys.executable, "-m", "ugicm"]
    bundle, file = folder / "bundle", str(folder / "file.ugic")
    shared = ["--bundle", str(bundle), *([] if threads is None else ["--threads", str(threads)])]
    decode = [*ugicm, "decode", file, *shared]
    coding = {
        "export": [*ugicm, "export", str(checkpoint), "-o", str(bundle)],
        "encode": [*ugicm, "encode", str(image), "-o", file, *shared],
    }
    if not views:
        return {**coding, "decode": [*decode, "-o", str(folder / "one.png")]}
    return {
        **coding,
        "decode, one view": [*decode, "-o", str(folder / "one.png"), "--condition", "human"],
        "decode, both views": [*decode, "-o", str(folder / "two.png"), "--condition", "both"],
    }


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__.split("\n")[0])
    p.add_argument("image", nargs="?", type=Path, help="default: a generated one of 768×512")
    p.add_argument("--checkpoint", type=Path, help="of UG-ICM or MLIC++; default: random weights of the published size")
    p.add_argument("--one-view", action="store_true", help="the checkpoint is of a network without conditions")
    p.add_argument("--keep", type=Path, metavar="FOLDER", help="leaves bundle, file and pictures there")
    p.add_argument("--threads", type=int, help="of encode and decode; default: ONNX Runtime's choice")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if args.keep is None else args.keep
        folder.mkdir(parents=True, exist_ok=True)
        checkpoint, image = args.checkpoint, args.image
        if checkpoint is None:
            checkpoint = folder / "random.pth.tar"
            # Not here: what this process holds, its children begin with.
            writing = multiprocessing.get_context("spawn").Process(target=write_random, args=(checkpoint,))
            writing.start()
            writing.join()
        if image is None:
            image = folder / "image.png"
            write_image(image, generated_image(512, 768))
        steps = commands(checkpoint, image, folder, args.threads, not args.one_view)
        found = {name: spend(c) for name, c in steps.items()}
    if args.json:
        print(json.dumps({name: asdict(spent) for name, spent in found.items()}, indent=1))
        return 0
    table = Table("process", "wall s", "CPU s", "peak MB")
    for name, spent in found.items():
        table.add_row(name, f"{spent.wall_s:.1f}", f"{spent.cpu_s:.1f}", f"{spent.peak_mb:,.0f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
