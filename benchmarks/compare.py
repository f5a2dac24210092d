"""`python -m benchmarks.compare [FOLDER]`: this runtime beside CompressAI, PyTorch (same weights), JPEG, WebP.

Everything runs in one process, on as many threads each, alternating, so that what else the machine does falls on all
alike; figures are medians and their ratios.

    python -m benchmarks.compare KODAK --checkpoint mbt2018-mean.pth.tar --bundle mbt2018-mean [--int8 B] [--compile]

Without a checkpoint, mbt2018-mean (128/192) with random weights is exported first, which takes minutes: the time of its
networks does not depend on them, the number of its bits does.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.export.checkpoint import load
from ugicm.export.compressai_zoo import architecture_of, load_zoo
from ugicm.export.state import state_of
from ugicm.export.to_onnx import export_bundle
from ugicm.models.entropy import compressai_module
from ugicm.runtime import range_coder
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.encoder.flow import SYMBOLS_A_SUBSTREAM
from ugicm.runtime.encoder.quality import DEFAULT_QUALITY
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.latents import sparse_symbols
from ugicm.runtime.measures.pictures import generated_image

Work = Callable[[], Any]


def alternate(works: dict[str, Work], repeat: int) -> dict[str, list[float]]:
    """Milliseconds of each, one after the other, `repeat` times after one that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for i in range(repeat + 1):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if i:
                times[name].append((time.perf_counter() - started) * 1e3)
    return times


def zoo_model(checkpoint: Path) -> Any:
    """CompressAI's own module with the weights of a checkpoint, ready to code."""
    state = state_of(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    architecture = None if state is None else architecture_of(state)
    if state is None or architecture != "mbt2018-mean":
        raise SystemExit(f"{checkpoint}: not a state dict of mbt2018-mean")
    model: Any = load_zoo(state, architecture).module
    model.eval().update(force=True)
    return model


def random_checkpoint(folder: Path) -> tuple[Path, Path]:
    """mbt2018-mean (128/192) as its library initialises it, and its bundle."""
    torch.manual_seed(0)
    checkpoint, bundle = folder / "mbt2018-mean.pth.tar", folder / "mbt2018-mean"
    torch.save(compressai_module("models").MeanScaleHyperprior(128, 192).state_dict(), checkpoint)
    export_bundle(load(checkpoint), bundle, console=Console(stderr=True))
    return checkpoint, bundle


def tensor(image: np.ndarray, stride: int) -> torch.Tensor:
    """(1, 3, H, W) in [0, 1], padded at the bottom and right to multiples of the stride."""
    below, right = (-n % stride for n in image.shape[:2])
    padded = np.pad(image, ((0, below), (0, right), (0, 0)), mode="edge")
    return torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255


def pixels(x: torch.Tensor, shape: Sequence[int]) -> np.ndarray:
    """(H, W, 3) uint8 of a (1, 3, H, W) tensor, cropped."""
    whole = (x[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    return np.ascontiguousarray(whole[: shape[0], : shape[1]].numpy())


def pillow(image: np.ndarray, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, form, **options)
    return out.getvalue()


def unpillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@torch.no_grad()
def groups(
    image: np.ndarray, quality: int, model: Any, codecs: dict[str, Codec], fast: Codec, compiled: Any
) -> dict[str, dict[str, Work]]:
    """The pairs to compare; the others of a group are compared with its first."""
    x = tensor(image, 64)
    theirs = model.compress(x)
    decode: dict[str, Work] = {
        "CompressAI mbt2018-mean": lambda: pixels(
            model.decompress(theirs["strings"], theirs["shape"])["x_hat"], image.shape
        )
    }
    encode: dict[str, Work] = {"CompressAI mbt2018-mean": lambda: model.compress(tensor(image, 64))}
    for name, codec in codecs.items():
        data = codec.encode(image)
        decode[f"{name}, here"] = lambda codec=codec, data=data: codec.decode(data)  # type: ignore[misc]
        encode[f"{name}, here"] = lambda codec=codec: codec.encode(image)  # type: ignore[misc]
    ours = fast.encode(image, quality)
    jpeg, webp = pillow(image, "JPEG", quality=40), pillow(image, "WEBP", quality=40)
    decode |= {
        "ugicm-fast, here": lambda: fast.decode(ours),
        "JPEG, Pillow": lambda: unpillow(jpeg),
        "WebP, Pillow": lambda: unpillow(webp),
    }
    encode |= {
        "ugicm-fast, here": lambda: fast.encode(image, quality),
        "JPEG, Pillow": lambda: pillow(image, "JPEG", quality=40),
        "WebP, Pillow": lambda: pillow(image, "WEBP", quality=40),
    }
    y_hat = torch.round(model.g_a(x))
    eager: dict[str, Work] = {"PyTorch eager": lambda: model.g_s(y_hat)}
    if compiled is not None:
        eager["torch.compile"] = lambda: compiled(y_hat)
    inputs = {"y_hat": y_hat.numpy(), "inverse_gain": np.ones((1, y_hat.shape[1], 1, 1), np.float32)}
    for name, codec in codecs.items():
        eager[f"{name}, here"] = lambda codec=codec: codec.networks.whole("g_s", inputs)  # type: ignore[misc]
    return {"decode": decode, "encode": encode, "g_s of mbt2018-mean": eager}


def coders(fast: Codec) -> dict[str, dict[str, Work]]:
    """Both entropy coders on the same sparse symbols and scales, each with its own tables."""
    symbols, rows = sparse_symbols()
    tables = fast.bundle.y_tables
    symbols = np.where(tables.lengths[rows] > 0, symbols, 0).astype(np.int32)
    count = -(-symbols.size // SYMBOLS_A_SUBSTREAM)
    streams = range_encoder.encode(symbols, rows, tables, count)
    scales = compressai_module("models.google").get_scale_table()
    conditional = compressai_module("entropy_models").GaussianConditional(None)
    conditional.update_scale_table(scales, force=True)
    values = torch.from_numpy(symbols)[None, None, None].float()
    indexes = torch.from_numpy(rows.astype(np.int32))[None, None, None]
    strings = conditional.compress(values, indexes)
    assert torch.equal(conditional.decompress(strings, indexes), values)
    assert np.array_equal(range_coder.decode(streams, rows, tables), symbols)
    return {
        "entropy decode, 491,520 sparse symbols": {
            "CompressAI": lambda: conditional.decompress(strings, indexes),
            "here": lambda: range_coder.decode(streams, rows, tables),
        },
        "entropy encode, 491,520 sparse symbols": {
            "CompressAI": lambda: conditional.compress(values, indexes),
            "here": lambda: range_encoder.encode(symbols, rows, tables, count),
        },
    }


@torch.no_grad()
def measure(
    images: Sequence[np.ndarray],
    quality: int,
    threads: int | None,
    repeat: int,
    checkpoint: Path,
    bundles: dict[str, Path],
    compiling: bool = False,
) -> dict[str, dict[str, dict[str, float]]]:
    """Group → what → median ms over all images and repetitions, and how many times faster than the group's first."""
    torch.set_num_threads(threads or torch.get_num_threads())
    threads = torch.get_num_threads()
    model = zoo_model(checkpoint)
    codecs = {name: Codec.from_bundle(path, threads=threads) for name, path in bundles.items()}
    fast = Codec.from_bundle(threads=threads)
    compiled = torch.compile(model.g_s) if compiling else None
    times: dict[str, dict[str, list[float]]] = {}
    for i, image in enumerate(images):
        works = groups(image, quality, model, codecs, fast, compiled)
        if i == 0:
            works |= coders(fast)
        for group, members in works.items():
            for name, values in alternate(members, repeat).items():
                times.setdefault(group, {}).setdefault(name, []).extend(values)
    return {group: summary(rows) for group, rows in times.items()}


def summary(rows: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Of each the median ms, and how many times faster it is than the first, as the median of pairs."""
    base = next(iter(rows.values()))
    return {
        name: {
            "ms": statistics.median(values),
            "times faster": statistics.median(b / v for b, v in zip(base, values, strict=True)),
        }
        for name, values in rows.items()
    }


def show(found: dict[str, dict[str, dict[str, float]]], as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=1))
        return
    for group, rows in found.items():
        table = Table("", "median ms", "times as fast", title=group, title_justify="left")
        for name, row in rows.items():
            table.add_row(name, f"{row['ms']:.2f}", f"{row['times faster']:.2f}×")
        Console().print(table)


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n")[0])
    p.add_argument("folder", nargs="?", type=Path, help="folder of images; default: a generated one")
    p.add_argument("--checkpoint", type=Path, help="mbt2018-mean's state dict")
    p.add_argument("--bundle", type=Path, help="its bundle, as ugicm.export.to_onnx wrote it")
    p.add_argument("--int8", type=Path, help="its INT8 bundle, as ugicm.calibration.int8 wrote it")
    p.add_argument("--quality", type=int, default=DEFAULT_QUALITY, help="of ugicm-fast")
    p.add_argument("--threads", type=int, help="of each; default: all cores")
    p.add_argument("--repeat", type=int, default=10)
    p.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler")
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    if (args.checkpoint is None) != (args.bundle is None):
        p.error("--checkpoint and --bundle belong together")
    suffixes = {".png", ".jpg", ".webp"}
    files = [] if args.folder is None else sorted(f for f in args.folder.iterdir() if f.suffix.lower() in suffixes)
    images = [read_image(f) for f in files] or [generated_image(512, 768)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = args.checkpoint, args.bundle
        if checkpoint is None:
            checkpoint, bundle = random_checkpoint(Path(folder))
        bundles = {"mbt2018-mean": bundle, **({"mbt2018-mean INT8": args.int8} if args.int8 else {})}
        found = measure(images, args.quality, args.threads, args.repeat, checkpoint, bundles, args.compile)
    show(found, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
