"""`python -m benchmarks.zoo_speed CHECKPOINT…`: models of CompressAI here and there, bytes to picture and back.

Both run in one process on the same weights, in turn, on as many threads each, so that what else the machine does falls
on both; figures are medians and their ratios. A bundle stands beside its checkpoint, as `ugicm export` writes it; where
BUNDLE.int8 stands there too, as `ugicm.calibration.int8` writes it, it is measured in the same turns. Of a
codec decoded in wavefronts, the steps are counted and their time is split: the graph, the range coder with guarded
rounding, and all else (gathering, bookkeeping), each a share of what the stages take on one more run.

    python -m benchmarks.zoo_speed mbt2018.pth.tar cheng2020-anchor.pth.tar --image kodim05.png --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compare import Work, alternate, pixels, tensor
from ugicm import Codec
from ugicm.export.checkpoint import TAKEN
from ugicm.export.checkpoint_file import read
from ugicm.export.compressai_zoo import VARIABLE, architecture_of, load_zoo
from ugicm.export.folder import bundle_of
from ugicm.export.state import state_of
from ugicm.runtime import staged_coder
from ugicm.runtime.files.images import read_image
from ugicm.runtime.guard import Rounding
from ugicm.runtime.measures.pictures import generated_image
from ugicm.runtime.schedule import WAVEFRONT
from ugicm.runtime.wavefront import Front

CODER = ((Rounding, ("rows", "shifts")), (staged_coder.StagedDecoder, ("shifts", "symbols")))


def zoo_model(checkpoint: Path, quality: int) -> tuple[str, Any, dict[str, int]]:
    """The architecture, CompressAI's own module with its tables updated, and what its methods are told besides."""
    state = state_of(read(checkpoint, TAKEN))
    architecture = None if state is None else architecture_of(state)
    if state is None or architecture is None:
        raise SystemExit(f"error: {checkpoint}: no model of CompressAI")
    model: Any = load_zoo(state, architecture).module
    level = {"s": quality - 1} if architecture in VARIABLE else {}
    model.update(force=True, **({"scale": model.Gain[quality - 1]} if level else {}))
    return architecture, model, level


def steps(codec: Codec, data: bytes, size: tuple[int, int]) -> dict[str, float]:
    """Of a codec in wavefronts: how many steps a picture takes, milliseconds of one, and shares of them."""
    m = codec.bundle.manifest
    if m.schedule is None or all(stage.positions != WAVEFRONT for stage in m.schedule.stages):
        return {}
    height, width = (-(-n // m.stride) * m.stride // m.latent_stride for n in size)
    count = sum(1 for _ in Front({}, set(), (1, height, width), np.float32).steps())
    coding = 0.0

    def timed(work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            nonlocal coding
            started = time.perf_counter()
            found = work(*args, **options)
            coding += time.perf_counter() - started
            return found

        return run

    with ExitStack() as patched:
        for kind, names in CODER:
            for name in names:
                patched.enter_context(mock.patch.object(kind, name, timed(getattr(kind, name))))
        started = time.perf_counter()
        codec.networks.timings.clear()
        codec.decode(data)
        total = time.perf_counter() - started
    took = {name: ms / 1e3 for name, ms in codec.networks.timings.items()}
    rest = total - took.get("g_s", 0.0)  # synthesis is none of the steps
    return {
        "steps": count,
        "ms a step": 1e3 * rest / count,
        "graphs": took.get("stages", 0.0) / rest,
        "coder": coding / rest,
    }


@torch.no_grad()
def measure(checkpoint: Path, image: np.ndarray, threads: int, repeat: int, quality: int) -> list[dict[str, Any]]:
    """Of each bundle: medians in ms, ratios of pairs, bytes of both, and of wavefronts what a step takes."""
    torch.set_num_threads(threads)
    architecture, model, level = zoo_model(checkpoint, quality)
    bundle = bundle_of(checkpoint, checkpoint.parent)
    paths = [path for path in (bundle, bundle.with_name(f"{bundle.name}.int8")) if path.exists()]
    codecs = {path.name: Codec.from_bundle(path, threads=threads) for path in paths}
    stride, asked = codecs[bundle.name].bundle.manifest.stride, quality if level else 1
    theirs = model.compress(tensor(image, stride), **level)
    files = {name: codec.encode(image, asked) for name, codec in codecs.items()}
    encode: dict[str, Work] = {"theirs": lambda: model.compress(tensor(image, stride), **level)}
    decode: dict[str, Work] = {"theirs": lambda: pixels(model.decompress(**theirs, **level)["x_hat"], image.shape)}
    for name, codec in codecs.items():
        encode[name] = lambda codec=codec: codec.encode(image, asked)  # type: ignore[misc]
        decode[name] = lambda codec=codec, data=files[name]: codec.decode(data)  # type: ignore[misc]
    times = {verb: alternate(works, repeat) for verb, works in (("encode", encode), ("decode", decode))}
    found = []
    for name, codec in codecs.items():
        row: dict[str, Any] = {
            "model": f"{architecture}, INT8" if codec.bundle.manifest.precision == "int8" else architecture,
            "bytes": len(files[name]),
            "their bytes": sum(len(strings[0]) for strings in theirs["strings"]),
        }
        for verb, ms in times.items():
            ratio = statistics.median(a / b for a, b in zip(ms["theirs"], ms[name], strict=True))
            medians = {who: statistics.median(ms[of]) for who, of in (("theirs", "theirs"), ("ours", name))}
            row[verb] = {**medians, "times as fast": ratio}
        found.append(row | steps(codec, files[name], image.shape[:2]))
    return found


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.zoo_speed", description=__doc__.split("\n")[0])
    p.add_argument("checkpoints", type=Path, nargs="+", help="of CompressAI's models, their bundles beside them")
    p.add_argument("--image", type=Path, help="default: a generated one of 768×512")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=3)
    p.add_argument("--quality", type=int, default=4, help="of variable-rate models")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    image = generated_image(512, 768) if args.image is None else read_image(args.image)
    rows: list[dict[str, Any]] = []
    table = Table(
        "model", "bytes, theirs", "encode ms, theirs", "×", "decode ms, theirs", "×", "steps, ms, graphs, coder"
    )
    for checkpoint in args.checkpoints:
        rows += measure(checkpoint, image, args.threads, args.repeat, args.quality)
    for r in rows:
        cells = [r["model"], f"{r['bytes']:,}, {r['their bytes']:,}"]
        for verb in ("encode", "decode"):
            v = r[verb]
            cells += [f"{v['ours']:.0f}, {v['theirs']:.0f}", f"{v['times as fast']:.1f}"]
        split = (
            f"{r['steps']}, {r['ms a step']:.2f}, graphs {r['graphs']:.0%}, coder {r['coder']:.0%}"
            if "steps" in r
            else ""
        )
        table.add_row(*cells, split)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
