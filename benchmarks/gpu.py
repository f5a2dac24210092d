"""`python -m benchmarks.gpu [--json OUT]`: what a GPU makes of a bundle: exactness first, then latency and throughput.

Compares PyTorch, ONNX Runtime's CUDA provider and TensorRT (-RTX) on the same graphs at 768×512, 1080p and 4K. Whatever
is missing becomes a row that says so; after `--minutes` the rest is left out, in rows that say that. Times are medians
with CUDA events on inputs that lie on the GPU; whole decodes start from bytes and end with the image on the GPU.
`--cpu` takes the same way without a GPU, small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.admission import Exact, graph_runner, reference_runner
from ugicm.runtime.backends.gpu.device import SYMBOLS, SYMBOLS_BYTES, DeviceArray, DeviceGraph
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.catalogue import DEFAULT
from ugicm.runtime.errors import UgicError
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.processes.cpus import processors
from ugicm.runtime.processes.parallel_coder import ParallelCoder

SIZES = {"768×512": (512, 768), "1080p": (1080, 1920), "4K": (2160, 3840)}
NETWORKS = {"encode": ("g_a", "h_a", "h_s", "context"), "decode": ("h_s", "context", "g_s_trunk", "g_s")}
SIDES = {"encode": "encoder", "decode": "decoder"}
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


@dataclass
class Row:
    """One line of the tables.

    Attributes:
        section: "exactness", "networks", "stages", "codec" or "throughput".
        subject: what ran.
        size: of the images.
        metric, value, unit: what was measured; None where it could not be.
        note: why there is no value, or what a reader should know.
    """

    section: str
    subject: str
    size: str
    metric: str
    value: float | None
    unit: str
    note: str = ""


class Bench:
    """Rows, a deadline and a clock."""

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args, self.console = args, console
        self.rows: list[Row] = []
        self._deadline = time.monotonic() + 60 * args.minutes

    def add(self, *row: Any) -> None:
        self.rows.append(Row(*row))
        r = self.rows[-1]
        value = "–" if r.value is None else f"{r.value:,.4g} {r.unit}"
        self.console.print(
            f"{r.section}: {r.subject}, {r.size} {r.metric}: {value} {r.note}", highlight=False, markup=False
        )

    def on_time(self) -> None:
        """Raises TimeoutError after the deadline."""
        if time.monotonic() >= self._deadline:
            raise TimeoutError(f"left out: the {self.args.minutes:g} minutes are over")

    @contextlib.contextmanager
    def attempt(self, section: str, subject: str, size: str = "") -> Iterator[None]:
        """What fails in here becomes a row that says why."""
        try:
            yield
        except Exception as error:  # every library has exceptions of its own, and none may end the benchmark
            reason = str(error).strip().splitlines() or [""]
            self.add(section, subject, size, "", None, "", f"{type(error).__name__}: {reason[0]}"[:300])


# ---- exactness


def torch_runner(network: ExactNetwork, device: str, tf32: bool) -> Exact:
    """The integers as PyTorch convolutions of integer-valued floats."""
    import torch
    from torch.nn import functional

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array.astype(np.float32)).to(device)

    layers = [
        (
            tensor(la.weight),
            *(tensor(v)[:, None, None] for v in (la.bias, np.exp2(-la.shift.astype(float)), la.low, la.high)),
            la,
        )
        for la in network.layers
    ]

    def run(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = tf32
        try:
            x = tensor(z)
            if network.ones:
                x = torch.cat([x, torch.full_like(x[:, :1], network.ones)], 1)
            for weight, bias, scale, low, high, layer in layers:
                x = functional.conv2d(x, weight, padding=weight.shape[2] // 2) + bias
                x = torch.minimum(torch.maximum(torch.round(x * scale), low), high)
                if layer.table is not None:
                    x = tensor(layer.table)[(x - low[0]).long()]
                x = functional.pixel_shuffle(x, layer.upsample) if layer.upsample > 1 else x
        finally:
            torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        scales, means = x[:, : network.scale_channels], x[:, network.scale_channels :]
        if network.scale_table is not None:
            scales = tensor(network.scale_table)[scales.long()]
        index = scales.to(torch.uint8).cpu().numpy()
        return index, means.cpu().numpy() * 2.0**-network.mean_fraction_bits if network.mean_channels else None

    return run


def exactness(bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs]) -> None:
    """Scale indexes and means of every runtime against the integers in numpy: how many differ."""
    network = bundle.exact
    if network is None:
        bench.add("exactness", "h_s", "", "", None, "", "this codec has no exact path")
        return
    rng = np.random.default_rng(3)
    draws = [bundle.golden[name].astype(np.int32) for name in sorted(bundle.golden) if name.startswith("z")]
    shape = (1, network.z_channels, 2, 3) if bench.args.cpu else (1, network.z_channels, 17, 30)
    for spread in (1, 2, 4, 16) * (1 if bench.args.cpu else 3):
        z = np.rint(rng.normal(0, spread, shape))
        draws.append(np.clip(z, -network.input_limit, network.input_limit).astype(np.int32))
    reference = reference_runner(network)
    expected = [reference(z) for z in draws]
    count = sum(index.size for index, _ in expected)
    for subject, make in exact_runners(bench, bundle, graphs, network):
        with bench.attempt("exactness", subject):
            bench.on_time()
            run, different, means = make(), 0, 0
            for z, (index, mean) in zip(draws, expected, strict=True):
                found, found_mean = run(z)
                different += int(np.count_nonzero(found != index))
                if mean is not None:
                    means += int(np.count_nonzero(np.asarray(found_mean) != mean))
            bench.add(
                "exactness", subject, "", "scale indexes that differ", different, f"of {count:,}", f"means: {means}"
            )


def exact_runners(
    bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs], network: ExactNetwork
) -> Iterator[tuple[str, Callable[[], Exact]]]:
    """(name, what opens it) of every way to run the exact path."""
    device = "cpu" if bench.args.cpu else "cuda"
    yield "onnxruntime (CPU)", lambda: graph_runner(bundle, OnnxRuntime())
    for tf32 in (False, True):
        yield f"torch ({device}), TF32 {'on' if tf32 else 'off'}", lambda t=tf32: torch_runner(network, device, t)
    for tf32 in (False, True):
        for form, made in (("qdq", None), ("float", graphs.get("fp32"))):
            name = f"onnxruntime-cuda, {form} form, TF32 {'on' if tf32 else 'off'}"
            yield name, lambda t=tf32, g=made: graph_runner(bundle, cuda_exact(g, t))
    for package in ("tensorrt", "tensorrt-rtx"):
        yield package, lambda p=package: graph_runner(bundle, open_gpu(p, graphs, "fp32"))


def cuda_exact(graphs: DeviceGraphs | None, tf32: bool) -> Any:
    """The CUDA provider, on the device graph of `h_s` or on the bundle's own."""
    from ugicm.runtime.backends.gpu.onnxruntime_cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda(graphs, capture=False, tf32=tf32)


def open_gpu(kind: str, graphs: dict[str, DeviceGraphs], precision: str, capture: bool = True) -> Any:
    """A GPU backend on the device graphs of a precision."""
    if precision not in graphs:
        raise RuntimeError(f"there are no {precision} device graphs here")
    if kind == "onnxruntime-cuda":
        from ugicm.runtime.backends.gpu.onnxruntime_cuda import OnnxRuntimeCuda

        return OnnxRuntimeCuda(graphs[precision], capture)
    from ugicm.runtime.backends.gpu.tensorrt import TensorRT

    return TensorRT(kind, graphs[precision], capture)


# ---- networks alone


def timed(run: Callable[[], object], backend: Any, runs: int) -> list[float]:
    """Milliseconds of each run, with CUDA events where the backend has a device, after a warm-up."""
    for _ in range(min(runs, 5)):
        run()
    device = getattr(backend, "device", None)
    if device is None:
        times = []
        for _ in range(runs):
            started = time.perf_counter()
            run()
            times.append((time.perf_counter() - started) * 1e3)
        return times
    marks = [device.event(timed=True) for _ in range(runs + 1)]
    marks[0].record()
    for mark in marks[1:]:
        run()
        mark.record()
    device.synchronise()
    return [b.milliseconds_since(a) for a, b in zip(marks, marks[1:], strict=False)]


class TorchDevice:
    """torch's events in the place of the backends' own."""

    class _Event:
        def __init__(self) -> None:
            import torch

            self.event = torch.cuda.Event(enable_timing=True)

        def record(self) -> None:
            self.event.record()

        def milliseconds_since(self, start: Any) -> float:
            return start.event.elapsed_time(self.event)

    def event(self, timed: bool = True) -> Any:
        return self._Event()

    def synchronise(self) -> None:
        import torch

        torch.cuda.synchronize()


class TorchBackend:
    """The networks of a checkpoint in PyTorch, fp32 or fp16 (channels last), eager or compiled."""

    def __init__(
        self, checkpoint: Path, precision: str, compiled: bool, cpu: bool, sizes: dict[str, tuple[int, int]]
    ) -> None:
        import torch

        from ugicm.export.ugicm import ugicm_source
        from ugicm.training.checkpoint import rebuild

        self._torch, self._half, self._compiled = torch, precision == "fp16", compiled
        self._where = "cpu" if cpu else "cuda"
        if not cpu:
            if not torch.cuda.is_available():
                raise RuntimeError("PyTorch sees no GPU here")
            self.device = TorchDevice()
        elif self._half or compiled:
            raise RuntimeError("only with a GPU")
        torch.backends.cudnn.benchmark = True
        self._model = rebuild(torch.load(checkpoint, weights_only=True))
        source = ugicm_source(self._model)
        self._graphs = source.graphs
        self._inputs: dict[str, dict[str, tuple[Any, ...]]] = {}
        with torch.no_grad():  # before modules move to the GPU: some make the inputs of others
            for size, pixels in sizes.items():
                height, width = (-(-side // source.stride) for side in pixels)
                made = {name: graph.example(height, width, 1) for name, graph in self._graphs.items()}
                z = torch.round(2 * torch.randn(1, source.hyper_channels, height, width))
                self._inputs[size] = {**made, "h_s": (z,)}
        if self._half:
            from ugicm.export.source import ImageInput

            ImageInput.forward = lambda _, image: image.permute(0, 3, 1, 2).half() / 255  # type: ignore[method-assign]

    def load(self, name: str, size: str) -> Callable[[], object]:
        torch = self._torch
        module = self._model.h_s if name == "h_s" else self._graphs[name].module
        module = module.to(self._where)
        values = [v.to(self._where) for v in self._inputs[size][name]]
        if self._half:
            module = module.half().to(memory_format=torch.channels_last)
            values = [v.half() if v.is_floating_point() else v for v in values]
        if self._compiled:
            module = torch.compile(
                module, mode="max-autotune-no-cudagraphs" if self._where == "cpu" else "reduce-overhead"
            )

        def run() -> object:
            with torch.no_grad():
                return module(*values)

        return run

    def close(self) -> None:
        if self._half:
            from ugicm.export.source import ImageInput

            ImageInput.forward = lambda _, image: image.permute(0, 3, 1, 2).float() / 255  # type: ignore[method-assign]


def on_device(graph: Any, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Inputs where a backend's graph reads them without a copy from the host."""
    if not isinstance(graph, DeviceGraph):
        return dict(inputs)
    device, placed = graph.device, {}
    for name, value in inputs.items():
        if name == SYMBOLS and SYMBOLS_BYTES in graph.inputs:
            value = value.astype("<i2")[..., None].view(np.uint8)
        staged = device.pinned(value.nbytes)
        staged[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        memory = device.allocate(value.nbytes)
        device.copy(memory.pointer, staged.ctypes.data, 1, value.nbytes, value.nbytes, value.nbytes)
        device.synchronise()
        placed[name] = DeviceArray(device, memory, value.shape, value.dtype)
    return placed


def networks(bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs]) -> None:
    """Each graph alone, and the sums for encoding and decoding, by runtime and size."""
    from ugicm.export.device_graphs import sample_inputs

    cpu = bench.args.cpu
    checkpoint = bench.args.checkpoint
    subjects: list[tuple[str, Callable[[], Any]]] = []
    for precision in ("fp32", "fp16"):
        subjects.append(
            (f"torch eager {precision}", lambda p=precision: TorchBackend(checkpoint, p, False, cpu, bench.args.sizes))
        )
    if cpu:
        subjects.append(("onnxruntime (CPU) fp32", OnnxRuntime))
    for kind in ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        for precision in ("fp32", "fp16"):
            for capture in (True, False):
                name = f"{kind} {precision}{' with CUDA graphs' if capture else ''}"
                subjects.append((name, lambda k=kind, p=precision, c=capture: open_gpu(k, graphs, p, c)))
    subjects.append(("torch.compile fp16", lambda: TorchBackend(checkpoint, "fp16", True, cpu, bench.args.sizes)))
    samples = {size: sample_inputs(bundle, *pixels) for size, pixels in bench.args.sizes.items()}
    for subject, make in subjects:
        backend = None
        with bench.attempt("networks", subject):
            bench.on_time()
            backend = make()
        if backend is None:
            continue
        for size, inputs in samples.items():
            if "compile" in subject and size != "1080p":
                continue  # compiling takes most of a minute a size
            with bench.attempt("networks", subject, size):
                bench.on_time()
                before = memory_in_use()
                medians = {}
                for name in [n for n in bundle.manifest.general if n != "condition"]:
                    if isinstance(backend, TorchBackend):
                        run = backend.load(name, size)
                    else:
                        graph = backend.load(bundle.graph(name)[1], name)
                        values = on_device(graph, inputs[name])
                        run = lambda g=graph, v=values: g(v)  # noqa: E731
                    medians[name] = statistics.median(timed(run, backend, bench.args.runs))
                    bench.add("stages", subject, size, name, medians[name], "ms")
                taken = None if before is None else (memory_in_use() or 0) - before
                for verb, parts in NETWORKS.items():
                    total = sum(medians[p] for p in parts if p in medians)
                    note = "" if taken is None else f"{taken / 2**20:.0f} MiB more of the GPU in use"
                    bench.add("networks", subject, size, verb, total, "ms", note)
        if isinstance(backend, TorchBackend):
            backend.close()


def memory_in_use() -> int | None:
    """Bytes of the GPU in use; None without one."""
    with contextlib.suppress(UgicError):
        from ugicm.runtime.backends.gpu.cuda import open_device

        return open_device().memory_in_use()
    return None


# ---- whole files


def picture(height: int, width: int) -> np.ndarray:
    """A photograph, mirrored into the size; noise with a photograph's spectrum where scikit-image is missing."""
    try:
        from skimage import data

        tile = data.astronaut()
        return np.pad(tile, ((0, max(0, height - 512)), (0, max(0, width - 512)), (0, 0)), "symmetric")[
            :height, :width
        ].copy()
    except ImportError:
        from ugicm.export.device_graphs import coloured_noise

        return coloured_noise(height, width)


def whole(bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs]) -> None:
    """Latency of one file, the coder's share, and throughput with everything overlapped."""
    if bench.args.cpu:
        subjects: list[tuple[str, Callable[[], Any]]] = [("onnxruntime (CPU) fp32", OnnxRuntime)]
    else:
        subjects = []
    for kind in ("onnxruntime-cuda", "tensorrt", "tensorrt-rtx"):
        for precision in ("fp16", "fp32"):
            subjects.append((f"{kind} {precision}", lambda k=kind, p=precision: open_gpu(k, graphs, p)))
    coder = ParallelCoder(bundle.y_tables, bench.args.workers)
    coder.wait()
    for subject, make in subjects:
        backend = None
        with bench.attempt("codec", subject):
            bench.on_time()
            backend = make()
        for size, (height, width) in bench.args.sizes.items() if backend is not None else ():
            with bench.attempt("codec", subject, size):
                bench.on_time()
                one_file(bench, Codec(bundle, backend), subject, size, picture(height, width), coder)


def one_file(bench: Bench, codec: Codec, subject: str, size: str, image: np.ndarray, coder: ParallelCoder) -> None:
    device = "cuda" if hasattr(codec.backend, "device") else None
    data = codec.encode(image)
    bpp = 8 * len(data) / image.shape[0] / image.shape[1]
    runs = max(3, bench.args.runs // 5)
    for verb, shared in (("decode", None), ("decode", coder), ("encode", None), ("encode", coder)):
        codec.entropy_coder = shared
        times, shares = [], []
        for i in range(runs + 3):
            started = time.perf_counter()
            if verb == "encode":
                codec.encode(image)
            else:
                codec.decode(data, device=device)
                if device:
                    codec.backend.device.synchronise()  # type: ignore[attr-defined]
            if i >= 3:
                times.append((time.perf_counter() - started) * 1e3)
                shares.append(codec.timings["entropy"] / times[-1])
        p90 = sorted(times)[int(0.9 * (len(times) - 1))]
        note = f"p90 {p90:.3g} ms, entropy coder {statistics.median(shares):.0%}, {bpp:.2f} bpp"
        what = f"{verb}, one file" if shared is None else f"{verb}, one file, {len(coder)} entropy workers"
        bench.add("codec", subject, size, what, statistics.median(times), "ms", note)
    for verb in ("decode", "encode"):
        count = bench.args.files
        started = first = time.perf_counter()
        if verb == "decode":
            outcomes = codec.decode_many(
                [data] * (count + bench.args.workers), device=device, workers=bench.args.workers
            )
        else:
            outcomes = codec.encode_many([image] * (count + bench.args.workers), workers=bench.args.workers)
        for i, outcome in enumerate(outcomes):
            if outcome.error is not None:
                raise outcome.error
            if i == bench.args.workers - 1:  # by then every worker has started
                first = time.perf_counter()
        rate = count / (time.perf_counter() - first)
        note = f"{bench.args.workers} workers, {count} files, {first - started:.1f} s to start"
        bench.add("throughput", subject, size, verb, rate, "images/s", note)


# ---- the report


def environment() -> dict[str, Any]:
    """What a reader needs to judge the figures."""
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


def report(bench: Bench) -> None:
    for section in ("exactness", "networks", "codec", "throughput"):
        table = Table("what", "size", "metric", "value", "note", title=section)
        for row in bench.rows:
            if row.section == section:
                value = "–" if row.value is None else f"{row.value:,.4g} {row.unit}"
                table.add_row(*map(escape, (row.subject, row.size, row.metric, value, row.note)))
        bench.console.print(table)


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


def save(path: Path | None, found: dict[str, Any], bench: Bench) -> None:
    """After each part, so that a run that is cut off leaves what it has."""
    if path is not None:
        path.write_text(
            json.dumps({"environment": found, "rows": [asdict(row) for row in bench.rows]}, indent=1) + "\n"
        )


if __name__ == "__main__":
    sys.exit(main())
