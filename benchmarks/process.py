"""`python -m benchmarks.process [IMAGE]`: decoding one file as a whole process, Python's start included.

`ugicm decode` of a .ugic file beside a script that decodes with CompressAI's mbt2018-mean
(`benchmarks/compressai_decode.py`): both read a file, decode it and write a PNG at the same compression level, in
processes that start alternately, on as many cores. CompressAI's weights are random, as its library initialises them:
the time of its networks does not depend on them. Its tables are in the state dict already.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compare import tensor
from benchmarks.compressai_decode import pack
from benchmarks.spending import spend
from ugicm import Codec
from ugicm.models.entropy import compressai_module
from ugicm.runtime.encoder.quality import DEFAULT_QUALITY
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.pictures import generated_image

OURS, THEIRS, PYTHON = "ugicm decode", "script with CompressAI", "python -c pass"
EXPLAINED = {
    "wall_s": "seconds from the start of the process to its end",
    "cpu_s": "seconds of all its threads, user and system",
    "times_faster": f"wall time of the {THEIRS} over this one's, median of the rounds",
}


@torch.no_grad()
def write_files(image: np.ndarray, quality: int, folder: Path) -> dict[str, list[str]]:
    """The files that each side decodes, and the commands that do it; the pictures appear as ours.png and theirs.png."""
    torch.manual_seed(0)
    model = compressai_module("models").MeanScaleHyperprior(128, 192).eval()
    model.update(force=True)
    torch.save(model.state_dict(), folder / "theirs.pth.tar")
    coded = model.compress(tensor(image, 64))
    (y,), (z,) = coded["strings"]
    height, width = image.shape[:2]
    (folder / "theirs.bin").write_bytes(pack(width, height, tuple(coded["shape"]), y, z))
    (folder / "ours.ugic").write_bytes(Codec.from_bundle().encode(image, quality))
    theirs = [str(folder / name) for name in ("theirs.pth.tar", "theirs.bin", "theirs.png")]
    return {
        THEIRS: [sys.executable, "-m", "benchmarks.compressai_decode", *theirs],
        OURS: [sys.executable, "-m", "ugicm", "decode", str(folder / "ours.ugic"), "-o", str(folder / "ours.png")],
        PYTHON: [sys.executable, "-c", "pass"],
    }


def measure(commands: dict[str, list[str]], repeat: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds; each command runs once a round, and the first round does not count."""
    rounds = [{name: spend(command) for name, command in commands.items()} for _ in range(repeat + 1)][1:]
    found = {}
    for name in commands:
        # Not its memory: this process, which holds PyTorch, is what theirs begins with.
        found[name] = {key: statistics.median(getattr(r[name], key) for r in rounds) for key in ("wall_s", "cpu_s")}
        found[name]["times_faster"] = statistics.median(r[THEIRS].wall_s / r[name].wall_s for r in rounds)
    return found


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.process", description=__doc__.split("\n")[0])
    p.add_argument("image", nargs="?", type=Path, help="default: a generated one of 768×512")
    p.add_argument("--quality", type=int, default=DEFAULT_QUALITY)
    p.add_argument("--repeat", type=int, default=7)
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    image = generated_image(512, 768) if args.image is None else read_image(args.image)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(write_files(image, args.quality, Path(folder)), args.repeat)
    if args.json:
        print(json.dumps({"explained": EXPLAINED, "found": found}, indent=1))
        return 0
    table = Table("process", "wall s", "CPU s", "times faster")
    for name, row in found.items():
        table.add_row(name, f"{row['wall_s']:.3f}", f"{row['cpu_s']:.3f}", f"{row['times_faster']:.2f}×")
    console = Console()
    console.print(table)
    for name, words in EXPLAINED.items():
        console.print(f"{name}: {words}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
