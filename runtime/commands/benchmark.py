"""`ugicm benchmark [FOLDER]`: how long each stage takes on this machine, on images of yours or on generated ones."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.runtime.commands.cli import Parser, add_entropy_option, add_threads_option, run
from ugicm.runtime.encoder.quality import default_quality
from ugicm.runtime.errors import UsageError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.coding import coder
from ugicm.runtime.measures.latency import STAGES, stages
from ugicm.runtime.measures.latents import latents, sparse_symbols
from ugicm.runtime.measures.pictures import generated_image
from ugicm.runtime.measures.scaling import peak_megabytes, scaling
from ugicm.runtime.measures.throughput import throughput
from ugicm.runtime.processes.cpus import processors

PER_MEGAPIXEL = ("{} ms/MP", "{} CPU ms/MP", "first {} ms/MP")
VERBS = ("encode", "decode")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for. Returns the exit status."""
    parser = Parser(prog="ugicm benchmark", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of images; default: two generated ones")
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    parser.add_argument("-q", "--quality", type=int, metavar="Q", help="of the encoder; default 4, or the best")
    add_threads_option(parser)
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="times each image is run; default 10")
    parser.add_argument("--scaling", action="store_true", help="time a megapixel and memory from 0.1 to 24 megapixels")
    parser.add_argument("--size", metavar="WxH", default="768x512", help="of generated images; default: 768x512")
    add_entropy_option(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="decode in 1 and in N processes of one thread each")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return run(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> int:
    from ugicm.runtime.codec import Codec

    if options.repeat < 1 or (options.workers is not None and options.workers < 1):
        raise UsageError("--repeat and --workers must be at least 1")
    images = _images(options.folder, options.size)
    codec = Codec.from_bundle(options.bundle, threads=options.threads, entropy_workers=options.entropy_workers)
    quality = default_quality(codec.qualities) if options.quality is None else options.quality
    found: dict[str, Any] = {
        "backend": codec.backend.name,
        "bundle": codec.bundle.manifest.architecture,
        "cores": processors(),
        "images": len(images),
        "megapixels": sum(i.shape[0] * i.shape[1] for i in images) / 1e6,
        "quality": quality,
    }
    latencies = stages(images, codec, quality, options.repeat)
    found["latency ms"] = {name: asdict(latency) for name, latency in latencies.items()}
    each = found["megapixels"] / len(images)
    found["throughput"] = {
        verb: {"images/s": 1e3 / latencies[verb].mean, "MP/s": each * 1e3 / latencies[verb].mean} for verb in VERBS
    }
    for verb in VERBS:
        found[f"entropy / {verb}"] = latencies[f"entropy ({verb})"].p50 / latencies[verb].p50
    if "both views" in latencies:
        found["both views / one"] = latencies["both views"].p50 / latencies["decode"].p50
    own = [latents(codec, image, quality) for image in images]
    found["coder"] = {"this codec's latents": coder(codec.bundle.y_tables, own, options.repeat)}
    if codec.bundle.y_tables.rows == 64:
        found["coder"]["sparse symbols"] = coder(codec.bundle.y_tables, [sparse_symbols()], options.repeat)
    found["peak MB"] = peak_megabytes()
    if options.scaling:
        found["scaling"] = list(scaling(options.bundle, quality, options.threads, options.repeat))
    if options.workers:
        files = [codec.encode(image, quality) for image in images]
        found["workers"] = {
            str(n): throughput(options.bundle, files, n, 2 * options.repeat) for n in sorted({1, options.workers})
        }
    print(json.dumps(found, indent=1) if options.json else _text(found), end="\n" if options.json else "")
    return 0


def _images(folder: Path | None, size: str) -> list[np.ndarray]:
    if folder is None:
        try:
            width, height = map(int, size.split("x"))
            if min(width, height) < 1:
                raise ValueError
            return [generated_image(height, width, seed) for seed in (0, 1)]
        except ValueError:
            raise UsageError(f"'{size}' is no size of an image; give WIDTHxHEIGHT, such as 1920x1080") from None
    if not os.path.isdir(folder):
        raise UsageError(f"{folder}: no such folder; name a folder of images, or none for generated ones")
    paths = sorted(p for p in _listed(folder) if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return [read_image(path) for path in paths]


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {error.strerror}") from error


def _text(found: dict[str, Any]) -> str:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    with console.capture() as captured:
        console.print(
            f"{found['bundle']} on {found['backend']}, {found['cores']} cores; {found['images']} images, "
            f"{found['megapixels']:.2f} MP in all, quality {found['quality']}"
        )
        table = Table("stage", "p50 ms", "p90", "p99", "what it does")
        for name, x in found["latency ms"].items():
            words = STAGES[name.split(" (")[0]]
            table.add_row(name, f"{x['p50']:.2f}", f"{x['p90']:.2f}", f"{x['p99']:.2f}", words)
        console.print(table)
        for verb, x in found["throughput"].items():
            console.print(f"{verb}: {x['images/s']:.1f} images/s, {x['MP/s']:.2f} MP/s, one after the other")
        shares = ", ".join(f"{found[f'entropy / {verb}']:.1%} of {verb}" for verb in VERBS)
        console.print(f"the entropy coder takes {shares}")
        if "both views / one" in found:
            console.print(f"both views take {found['both views / one']:.2f} of the time of one")
        for name, x in found["coder"].items():
            console.print(
                f"entropy coder on {name}: {x['decode ns']:.1f} ns a symbol to decode, {x['encode ns']:.1f} to encode "
                f"({x['symbols']:,} symbols, {x['bits a symbol']:.2f} bits each; one thread, grouping included)"
            )
        console.print(f"peak memory of this process: {found['peak MB']:.0f} MB, Python and libraries included")
        if "scaling" in found:
            table = Table("MP", "encode ms/MP", "CPU", "first", "decode ms/MP", "CPU", "first", "peak MB", "before")
            for row in found["scaling"]:
                times = (f"{row[key.format(verb)]:.1f}" for verb in VERBS for key in PER_MEGAPIXEL)
                table.add_row(f"{row['megapixels']:.1f}", *times, f"{row['peak MB']:.0f}", f"{row['before MB']:.0f}")
            console.print(table)
            large = [row for row in found["scaling"] if row["megapixels"] > 0.3]
            for verb, key in product(VERBS, PER_MEGAPIXEL[:2]):
                each = np.array([row[key.format(verb)] for row in large])
                apart = np.abs(each / np.median(each) - 1).max()
                console.print(
                    f"{key.format(verb)}, 0.4 to 24 MP: slowest size {each.max() / each.min():.2f} of fastest, "
                    f"none more than {apart:.0%} from the median"
                )
        for n, rate in found.get("workers", {}).items():
            console.print(f"{n} process(es) of one thread: {rate:.2f} images decoded a second")
    return captured.get()


if __name__ == "__main__":
    sys.exit(main())
