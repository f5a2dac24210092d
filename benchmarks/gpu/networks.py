"""Each graph alone, on inputs that lie where it runs."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.backends import open_gpu
from benchmarks.gpu.pytorch import TorchBackend
from benchmarks.gpu.rows import Bench
from ugicm.runtime.backends.gpu.device import SYMBOLS, SYMBOLS_BYTES, DeviceArray, LoadedGraph
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UgicError

NETWORKS = {"encode": ("g_a", "h_a", "h_s", "context"), "decode": ("h_s", "context", "g_s_trunk", "g_s")}


def networks(bench: Bench, bundle: Bundle, graphs: dict[str, DeviceGraphs]) -> None:
    """Each graph alone, and the sums for encoding and decoding, by runtime and size."""
    from ugicm.export.sample_inputs import sample_inputs

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


def on_device(graph: Any, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Inputs where a backend's graph reads them without a copy from the host."""
    if not isinstance(graph, LoadedGraph):
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


def memory_in_use() -> int | None:
    """Bytes of the GPU in use; None without one."""
    with contextlib.suppress(UgicError):
        from ugicm.runtime.backends.gpu.cuda import open_device

        return open_device().memory_in_use()
    return None
