"""`python -m benchmarks.gpu [--json OUT]`: a bundle on a GPU: exactness first, then latency and throughput.

Compares PyTorch, ONNX Runtime's CUDA provider and TensorRT (-RTX) on the same graphs at 768×512, 1080p and 4K. A
missing package or GPU becomes a row that says so; after `--minutes` the rest is left out, in rows that say that. Times
are medians with CUDA events on inputs that lie on the GPU; whole decodes start from bytes and end with the image on
the GPU. `--cpu` takes the same way without a GPU, small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.gpu.exactness import exactness
from benchmarks.gpu.files import whole
from benchmarks.gpu.networks import networks
from benchmarks.gpu.rows import Bench, report
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.processes.cpus import processors

SIZES = {"768×512": (512, 768), "1080p": (1080, 1920), "4K": (2160, 3840)}
PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13",
    "cuda-python",
    "constriction",
    "numpy",
)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    p.add_argument("--bundle", type=Path, default=DEFAULT, help="default: the shipped one")
    p.add_argument("--checkpoint", type=Path, default=Path("checkpoints/ugicm-fast.pt"), help="for the rows of PyTorch")
    p.add_argument("--json", type=Path, metavar="FILE", help="write all rows there too")
    p.add_argument(
        "--minutes", type=float, default=6.5, help="what has not begun by then is left out; default %(default)s"
    )
    p.add_argument("--runs", type=int, default=50, help="of each network; default 50")
    p.add_argument("--files", type=int, default=200, help="for throughput; default 200")
    p.add_argument("--workers", type=int, help="processes for the entropy coder; default: the cores but one")
    p.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    p.add_argument("--cpu", action="store_true", help="the same way without a GPU: one small size, few runs")
    args = p.parse_args(arguments)
    args.sizes = {name: SIZES[name] for name in args.sizes}
    if args.cpu:
        args.sizes, args.runs, args.files = {"192×128": (128, 192)}, min(args.runs, 2), min(args.files, 3)
    args.workers = args.workers or (1 if args.cpu else max(1, processors() - 1))
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    bench = Bench(args, console)
    found = environment()
    for name, value in found.items():
        console.print(f"{name}: {value}", highlight=False, markup=False)
    bundle = Bundle.open(args.bundle)
    with tempfile.TemporaryDirectory() as folder:
        graphs = prepare(bench, bundle, Path(folder))
        for part in (exactness, whole, networks):
            with bench.attempt(part.__name__, "all"):
                bench.on_time()
                part(bench, bundle, graphs)
            save(args.json, found, bench)
    report(bench)
    missing = sum(row.value is None for row in bench.rows)
    console.print(f"{len(bench.rows) - missing} figures, {missing} rows without one")
    return 0


def environment() -> dict[str, Any]:
    """The facts that a reader needs to judge the figures."""
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": processors(),
    }
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    try:
        from ugicm.runtime.backends.gpu.cuda import call, open_device

        device = open_device()
        major, minor = device.capability
        found |= {
            "gpu": device.name,
            "compute capability": f"{major}.{minor}",
            "cuda driver": call("cudaDriverGetVersion"),
        }
    except Exception as error:
        found["gpu"] = f"none: {error}"
    return found


def prepare(bench: Bench, bundle: Bundle, root: Path) -> dict[str, DeviceGraphs]:
    """The device graphs of the bundle in fp32 and fp16."""
    made = {}
    for precision in ("fp32", "fp16"):
        with bench.attempt("networks", f"device graphs in {precision}"):
            bench.on_time()
            from ugicm.export.device_graphs import device_graphs
            from ugicm.export.to_tensorrt import parse_sizes, write_device_graphs

            biggest = [max(side) for side in zip(*bench.args.sizes.values(), strict=True)]
            middle = list(bench.args.sizes.values())[len(bench.args.sizes) // 2]
            text = ["x".join(map(str, size)) for size in (middle, biggest)]
            sizes = parse_sizes("64x64", *text, bundle.manifest.stride)
            graphs = device_graphs(bundle, precision)
            made[precision] = write_device_graphs(bundle, graphs, precision, sizes, None, root)
    return made


def save(path: Path | None, found: dict[str, Any], bench: Bench) -> None:
    """After each part, so that a run that is cut off leaves what it has."""
    if path is not None:
        path.write_text(
            json.dumps({"environment": found, "rows": [asdict(row) for row in bench.rows]}, indent=1) + "\n"
        )
