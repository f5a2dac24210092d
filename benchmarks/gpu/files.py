"""Whole files: latency of one, the coder's share, and throughput with everything overlapped."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.gpu.backends import open_gpu
from benchmarks.gpu.rows import Bench
from ugicm import Codec
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.processes.parallel_coder import ParallelCoder


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


def picture(height: int, width: int) -> np.ndarray:
    """A photograph, mirrored into the size; noise with a photograph's spectrum where scikit-image is missing."""
    try:
        from skimage import data

        tile = data.astronaut()
        return np.pad(tile, ((0, max(0, height - 512)), (0, max(0, width - 512)), (0, 0)), "symmetric")[
            :height, :width
        ].copy()
    except ImportError:
        from ugicm.export.sample_inputs import coloured_noise

        return coloured_noise(height, width)
