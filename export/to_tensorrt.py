"""`python -m ugicm.export.to_tensorrt BUNDLE [--precision fp16]`: graphs for GPUs, and TensorRT engines of them.

Writes device graphs to BUNDLE/engines/PRECISION, each checked in ONNX Runtime against the bundle's own; the backend
onnxruntime-cuda reads them, and TensorRT or TensorRT-RTX, where installed, builds its engines from them beside. An
engine is for one package, version and GPU; the runtime builds it again where those differ. With TensorRT-RTX neither
step needs a GPU. The exact path stays fp32 in every precision.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ugicm.export.device_graphs import DeviceGraph, DeviceGraphError, device_graphs
from ugicm.runtime.backends.gpu import tensorrt_api
from ugicm.runtime.backends.gpu.engines import (
    INDEX,
    PRECISIONS,
    VARIABLE,
    DeviceGraphs,
    Index,
    Size,
    Sizes,
    default_root,
)
from ugicm.runtime.backends.gpu.tensorrt import capability_here
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.errors import BackendError, UgicError, UsageError
from ugicm.runtime.files.output import remove_stale, write_atomically

LEAST, USUAL, MOST = "64x64", "1088x1920", "2176x3840"
BATCH, MOST_BATCH = 16, 256


def write_device_graphs(
    bundle: Bundle,
    graphs: dict[str, DeviceGraph],
    precision: str,
    sizes: Sizes,
    workspace: int | None,
    root: Path,
    batch: int = 1,
) -> DeviceGraphs:
    """Writes the graphs, then the index that names them; engines of it take a `batch` of images together, or one.

    Raises:
        OutputError: they cannot be written.
    """
    golden = bundle.golden if bundle.manifest.hyper_channels else {}
    reach = [z.shape[2:] for name, z in golden.items() if name.startswith("z")]
    index = Index(
        codec_id=bundle.manifest.codec_id,
        precision=precision,
        stride=bundle.manifest.stride,
        sizes=sizes,
        workspace=workspace,
        graphs={
            name: {"sha256": hashlib.sha256(graph.model).hexdigest(), "source": graph.source}
            for name, graph in graphs.items()
        },
        golden=(max([h for h, _ in reach], default=1), max([w for _, w in reach], default=1)),
        batch=batch,
    )
    folder = root / precision
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created ({error.strerror}); give another folder with -o") from error
    remove_stale(folder)
    for name, graph in graphs.items():
        write_atomically(folder / f"{name}.onnx", graph.model)
    write_atomically(folder / INDEX, index.to_json().encode())
    return DeviceGraphs.open(bundle, precision, root)


def parse_size(text: str, stride: int) -> Size:
    """(height, width) of "HxW", rounded up to multiples of the stride. Raises UsageError."""
    found = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not found or not all(1 <= int(side) <= 65535 for side in found.groups()):
        raise UsageError(f"size '{text}' is not HEIGHTxWIDTH in pixels, such as 1080x1920")
    height, width = (-(-int(side) // stride) * stride for side in found.groups())
    return height, width


def parse_sizes(least: str, usual: str, most: str, stride: int) -> Sizes:
    """The three sizes, in order. Raises UsageError."""
    sizes = Sizes(*(parse_size(text, stride) for text in (least, usual, most)))
    for axis in (0, 1):
        if not sizes.least[axis] <= sizes.usual[axis] <= sizes.most[axis]:
            raise UsageError(f"sizes are out of order: --min {least}, --opt {usual}, --max {most}")
    return sizes


def choose_package(name: str | None) -> tensorrt_api.Api | None:
    """The package asked for; of none in particular the first that is installed; None for "none".

    Raises:
        BackendError: not installed, or neither is.
    """
    if name == "none":
        return None
    if name is not None:
        return tensorrt_api.open_api(name)
    reasons = []
    for candidate in tensorrt_api.MODULES:
        try:
            return tensorrt_api.open_api(candidate)
        except BackendError as error:
            reasons.append(str(error))
    raise BackendError(f"{'; '.join(reasons)}; or give --package none for the graphs alone")


def build_engines(
    graphs: DeviceGraphs, api: tensorrt_api.Api, timing_cache: Path | None, console: Console
) -> dict[str, tuple[int, float, bool]]:
    """Builds what is not there yet: graph → (bytes, seconds, whether it was built now)."""
    capability = capability_here()
    console.print(f"{api.name} {api.version}, engines for {capability}")
    done = {}
    for name in sorted(graphs.index.graphs):
        started = time.perf_counter()
        with _progress(name, console) as progress:
            engine = graphs.engine(api, name, capability, timing_cache, progress)
        done[name] = (len(engine.data), time.perf_counter() - started, engine.built)
        if engine.built:
            console.print(f"built {name}: {len(engine.data) / 1e6:.1f} MB in {done[name][1]:.1f} s", highlight=False)
        else:
            console.print(f"kept {name}: its key is the same", highlight=False)
    return done


@contextmanager
def _progress(name: str, console: Console) -> Iterator[tensorrt_api.Progress]:
    """A line for each phase of a build that is under way."""
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed}/{task.total}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as display:
        tasks = {}

        def report(phase: str, step: int, steps: int) -> None:
            if phase not in tasks:
                tasks[phase] = display.add_task(f"{name}: {phase}", total=steps)
            display.update(tasks[phase], completed=step, total=steps, visible=step < steps)

        yield report


def _print_graphs(console: Console, graphs: dict[str, DeviceGraph], precision: str) -> None:
    table = Table("graph", "kB", "relative difference from the bundle's own")
    for name, graph in sorted(graphs.items()):
        difference = "none" if graph.difference == 0 else f"{graph.difference:.2g}"
        table.add_row(name, f"{len(graph.model) / 1000:.0f}", difference)
    console.print(f"device graphs in {precision}")
    console.print(table)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m ugicm.export.to_tensorrt", description=__doc__)
    p.add_argument("bundle", nargs="?", type=Path, default=DEFAULT, help="a bundle's folder; default: the shipped one")
    p.add_argument("--precision", choices=PRECISIONS, default="fp16", help="of the transforms; default: fp16")
    p.add_argument("--min", default=LEAST, metavar="HxW", help=f"smallest image; default: {LEAST}")
    p.add_argument("--opt", default=USUAL, metavar="HxW", help=f"the size to tune for; default: {USUAL}")
    p.add_argument("--max", default=MOST, metavar="HxW", help=f"largest image; default: {MOST}")
    p.add_argument(
        "--batch",
        type=int,
        default=BATCH,
        metavar="N",
        help=f"images of one size that go through an engine together at most, for servers; default: {BATCH}",
    )
    p.add_argument("--workspace", type=int, metavar="MiB", help="scratch memory the builder may plan with")
    p.add_argument("--timing-cache", type=Path, metavar="FILE", help="default: timing.cache beside the engines")
    p.add_argument(
        "--package",
        choices=(*tensorrt_api.MODULES, "none"),
        help="default: tensorrt, else tensorrt-rtx; none: the graphs alone, for onnxruntime-cuda",
    )
    p.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="to be named in UGICM_ENGINES; default: BUNDLE/engines"
    )
    return p.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    started = time.perf_counter()
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    try:
        if args.workspace is not None and args.workspace < 1:
            raise UsageError(f"--workspace {args.workspace}: give at least 1 MiB")
        if not 1 <= args.batch <= MOST_BATCH:
            raise UsageError(f"--batch {args.batch}: use a number from 1 to {MOST_BATCH}")
        api = choose_package(args.package)
        bundle = Bundle.open(args.bundle)
        sizes = parse_sizes(args.min, args.opt, args.max, bundle.manifest.stride)
        root = args.output / bundle.manifest.codec_id if args.output else default_root(bundle)
        made = device_graphs(bundle, args.precision)
        _print_graphs(console, made, args.precision)
        workspace = None if args.workspace is None else args.workspace * 2**20
        graphs = write_device_graphs(bundle, made, args.precision, sizes, workspace, root, args.batch)
        built = {} if api is None else build_engines(graphs, api, args.timing_cache, console)
    except (UgicError, DeviceGraphError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = f"{len(built)} engines" if built else f"{len(made)} graphs"
    backend = "onnxruntime-cuda" if api is None else api.name
    print(f"success {time.perf_counter() - started:.1f} s, {what} saved in {graphs.folder}")
    print(f"next: {next_step(args.bundle, args.output, backend, args.precision)}")
    return 0


def next_step(bundle: Path, output: Path | None, backend: str, precision: str) -> str:
    """The command that decodes with these graphs, as a shell takes it; `output` is what -o named."""
    engines = "" if output is None else f"{VARIABLE}={shlex.quote(str(output))} "
    known = "" if bundle == DEFAULT else f" --bundle {shlex.quote(str(bundle))}"
    return f"{engines}ugicm decode FILE.ugic -o OUT.png{known} --backend {backend} --precision {precision}"


if __name__ == "__main__":
    sys.exit(main())
