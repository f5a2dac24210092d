"""`ugicm benchmark [FOLDER]`: how long each stage takes on this machine, on images of yours or on generated ones."""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.commands.cli import Parser, add_entropy_option, run
from ugicm.runtime.errors import UsageError
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.processes.memory import keep_freed
from ugicm.runtime.tables import Tables

STAGES = {
    "read": "an image file to pixels",
    "g_a": "pixels to latents y",
    "h_a": "y to hyper-latents z",
    "exact": "z to scale indexes and means, in integers",
    "context": "means refined from the symbols of the anchors",
    "entropy": "symbols to bytes or back, checksum included",
    "g_s": "latents to pixels",
    "write": "pixels to a PNG file on disk",
    "encode": "pixels to the bytes of a .ugic file, all stages",
    "decode": "the bytes of a .ugic file to pixels, one view",
    "both views": "the bytes to the human and the machine view",
}
PER_MEGAPIXEL = ("{} ms/MP", "{} CPU ms/MP", "first {} ms/MP")
VERBS = ("encode", "decode")
SCALING = (0.1, 0.4, 1.0, 2.0, 6.0, 12.0, 24.0)  # megapixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm")


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one stage over all images and repetitions."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        return cls(len(values), float(np.mean(values)), p50, p90, p99)


def generated_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: noise whose amplitude falls with frequency as a photograph's does, and edges."""
    rng = np.random.default_rng(seed)
    side = 512
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    frequency[0, 0] = 1
    shared, *colours = (
        np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**1.2, (side, side)) for _ in range(4)
    )
    planes = np.stack([shared / shared.std() + 0.3 * c / c.std() for c in colours], -1)
    planes += np.where(planes[::-1, ::-1] > 0.5, 0.7, -0.3)
    tile = np.clip(128 + 48 * planes, 0, 255).astype(np.uint8)
    repeats = -(-height // side), -(-width // side), 1
    return np.ascontiguousarray(np.tile(tile, repeats)[:height, :width])


def sparse_symbols(count: int = 491_520, rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """(int32 symbols, uint8 rows): of few bits, as a low rate's; scales from 0.11 to 256, mostly near the least."""
    rng = np.random.default_rng(0)
    row = np.minimum(rng.exponential(6, count), rows - 1).astype(np.uint8)
    scale = 0.11 * (256 / 0.11) ** (row / (rows - 1))
    return np.rint(rng.normal(size=count) * scale).astype(np.int32), row


def stages(images: Sequence[np.ndarray], codec: Any, quality: int, repeat: int) -> dict[str, Latency]:
    """Latencies by stage; `codec` is a `runtime.Codec`."""
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    conditions: list[str | None] = ["human", "machine"] if len(codec.conditions) > 1 else [None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        for image in images:
            write_image(path, image)
            codec.decode_views(codec.encode(image, quality), conditions)  # sessions and tables are made once
            for _ in range(repeat):
                times["read"].append(_milliseconds(read_image, path)[0])
                spent, data = _milliseconds(codec.encode, image, quality)
                _collect(times, codec.timings, "encode", spent)
                spent, view = _milliseconds(codec.decode, data)
                _collect(times, codec.timings, "decode", spent)
                if len(conditions) > 1:
                    spent, _ = _milliseconds(codec.decode_views, data, conditions)
                    times["both views"].append(spent)
                times["write"].append(_milliseconds(write_image, path, view)[0])
    return {name: Latency.of(values) for name, values in times.items() if values}


def _collect(times: dict[str, list[float]], timings: dict[str, float], verb: str, spent: float) -> None:
    times[verb].append(spent)
    for name, value in timings.items():
        times.setdefault(name if name in ("g_a", "h_a", "g_s") else f"{name} ({verb})", []).append(value)


def _milliseconds(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work(*arguments)
    return (time.perf_counter() - started) * 1e3, result


def _thread_nanoseconds(work: Callable[..., Any], *arguments: Any) -> int:
    started = time.thread_time_ns()
    work(*arguments)
    return time.thread_time_ns() - started


def coder(tables: Tables, latents: Sequence[tuple[np.ndarray, np.ndarray]], repeat: int) -> dict[str, float]:
    """Nanoseconds a symbol of the entropy coder alone, grouping and scattering included: medians of the thread's time.

    Args:
        latents: int32 symbols and rows of each image.
    """
    from ugicm.runtime.symbols import SYMBOLS_A_SUBSTREAM

    jobs = []
    for symbols, rows in latents:
        symbols = np.where(tables.lengths[rows] > 0, symbols, 0).astype(np.int32)
        jobs.append((symbols, rows, range_coder.encode(symbols, rows, tables, -(-symbols.size // SYMBOLS_A_SUBSTREAM))))
    count = sum(symbols.size for symbols, _, _ in jobs)
    encode, decode = [], []
    for _ in range(repeat + 1):
        encode.append(
            sum(_thread_nanoseconds(range_coder.encode, s, r, tables, len(streams)) for s, r, streams in jobs)
        )
        decode.append(sum(_thread_nanoseconds(range_coder.decode, streams, r, tables) for _, r, streams in jobs))
    return {
        "symbols": count,
        "bits a symbol": sum(len(stream) for _, _, streams in jobs for stream in streams) * 8 / count,
        "encode ns": float(np.median(encode[1:])) / count,
        "decode ns": float(np.median(decode[1:])) / count,
    }


def latents(codec: Any, image: np.ndarray, quality: int) -> tuple[np.ndarray, np.ndarray]:
    """(symbols, rows) of `y` of an image."""
    ((y, z),) = codec.networks.analysed([image], quality)
    rows, mean = codec.networks.scales_and_means(z)
    return codec.networks.symbols(y, rows, mean).ravel(), rows.ravel()


def peak_megabytes() -> float:
    """The most memory that this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def one_size(
    bundle: Path | None, megapixels: float, quality: int, threads: int | None, repeat: int
) -> dict[str, float]:
    """Milliseconds a megapixel and memory at one size, in a process of its own: peaks never go down.

    The first run, which takes its memory from the system, stands apart from the median of the others. CPU milliseconds,
    of all threads, tell on a busy machine what a calm one would take.
    """
    from ugicm.runtime.codec import Codec

    keep_freed()  # as encode and decode do
    codec = Codec.from_bundle(bundle, threads=threads)
    # Multiples of the stride: else what is added to reach one would be measured, a fifth of 0.4 megapixels.
    stride = codec.bundle.manifest.stride
    width = max(1, round((megapixels * 1.5e6) ** 0.5 / stride)) * stride
    image = generated_image(max(1, round(megapixels * 1e6 / width / stride)) * stride, width)
    codec.decode(codec.encode(generated_image(64, 64), quality))
    base = peak_megabytes()
    exactly = image.shape[0] * image.shape[1] / 1e6
    spent = []
    for _ in range(1 + max(3, min(repeat, int(8 / megapixels)))):
        clock = [time.process_time()]
        encode, data = _milliseconds(codec.encode, image, quality)
        clock.append(time.process_time())
        decode, _ = _milliseconds(codec.decode, data)
        clock.append(time.process_time())
        spent.append((encode, decode, *(1e3 * np.diff(clock))))
    each = np.array(spent) / exactly
    later = np.median(each[1:], 0)
    return {
        "megapixels": exactly,
        "encode ms/MP": float(later[0]),
        "decode ms/MP": float(later[1]),
        "encode CPU ms/MP": float(later[2]),
        "decode CPU ms/MP": float(later[3]),
        "first encode ms/MP": float(each[0, 0]),
        "first decode ms/MP": float(each[0, 1]),
        "peak MB": peak_megabytes(),
        "before MB": base,
    }


_worker: Any = None


def _open_worker(bundle: Path | None) -> None:
    global _worker
    from ugicm.runtime.codec import Codec

    _worker = Codec.from_bundle(bundle, threads=1)


def _decode_one(data: bytes) -> int:
    return int(_worker.decode(data).size)


def throughput(bundle: Path | None, files: Sequence[bytes], workers: int, repeat: int) -> float:
    """Images a second that so many processes of one thread each decode, their start not counted."""
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _open_worker, (bundle,)) as pool:
        list(pool.map(_decode_one, list(files) * workers))  # every process has started and warmed up
        work = list(files) * repeat
        started = time.perf_counter()
        list(pool.map(_decode_one, work))
        return len(work) / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for. Returns the exit status."""
    parser = Parser(prog="ugicm benchmark", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="folder of images; default: two generated ones")
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    parser.add_argument("-q", "--quality", type=int, default=4, metavar="Q", help="of the encoder; default 4")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of an operator; default: all cores")
    parser.add_argument("--repeat", type=int, default=10, metavar="N", help="times each image is run; default 10")
    parser.add_argument("--scaling", action="store_true", help="time a megapixel and memory from 0.1 to 24 megapixels")
    parser.add_argument("--size", metavar="WxH", default="768x512", help="of generated images; default: 768x512")
    add_entropy_option(parser)
    parser.add_argument("--workers", type=int, metavar="N", help="decode in 1 and in N processes of one thread each")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="beside PyTorch, CompressAI, JPEG and WebP (from a checkout, with the export packages installed)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return run(parser, _benchmark, arguments)


def _benchmark(options: argparse.Namespace) -> int:
    from ugicm.runtime.codec import Codec

    if options.repeat < 1 or (options.workers is not None and options.workers < 1):
        raise UsageError("--repeat and --workers must be at least 1")
    images = _images(options.folder, options.size)
    if options.compare:
        try:
            compare = importlib.import_module("benchmarks.compare")
        except ImportError as error:
            raise UsageError(
                f"--compare runs in a checkout of the project with pip install '.[export]' ({error.name} is missing)"
            ) from error
        return int(compare.report(images, options.quality, options.threads, options.repeat, options.json))
    codec = Codec.from_bundle(options.bundle, threads=options.threads, entropy_workers=options.entropy_workers)
    found: dict[str, Any] = {
        "backend": codec.backend.name,
        "bundle": codec.bundle.manifest.architecture,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "images": len(images),
        "megapixels": sum(i.shape[0] * i.shape[1] for i in images) / 1e6,
        "quality": options.quality,
    }
    latencies = stages(images, codec, options.quality, options.repeat)
    found["latency ms"] = {name: asdict(latency) for name, latency in latencies.items()}
    each = found["megapixels"] / len(images)
    found["throughput"] = {
        verb: {"images/s": 1e3 / latencies[verb].mean, "MP/s": each * 1e3 / latencies[verb].mean} for verb in VERBS
    }
    for verb in VERBS:
        found[f"entropy / {verb}"] = latencies[f"entropy ({verb})"].p50 / latencies[verb].p50
    if "both views" in latencies:
        found["both views / one"] = latencies["both views"].p50 / latencies["decode"].p50
    own = [latents(codec, image, options.quality) for image in images]
    found["coder"] = {"this codec's latents": coder(codec.bundle.y_tables, own, options.repeat)}
    if codec.bundle.y_tables.rows == 64:
        found["coder"]["sparse symbols"] = coder(codec.bundle.y_tables, [sparse_symbols()], options.repeat)
    found["peak MB"] = peak_megabytes()
    if options.scaling:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
            found["scaling"] = [
                pool.submit(one_size, options.bundle, mp, options.quality, options.threads, options.repeat).result()
                for mp in SCALING
            ]
    if options.workers:
        files = [codec.encode(image, options.quality) for image in images]
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
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder; name a folder of images, or none for generated ones")
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise UsageError(f"{folder}: holds no images ({', '.join(SUFFIXES)})")
    return [read_image(path) for path in paths]


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
