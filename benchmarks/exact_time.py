"""`python -m benchmarks.exact_time CHECKPOINT`: the time of the exact path beside the float network it replaces.

The float `h_s`, and the integer one in both forms, in ONNX Runtime on the same `z`, alternating; medians and their
ratios to the float network.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from ugicm.calibration.exact.emit import to_onnx
from ugicm.export.graphs import export_graph
from ugicm.export.source import GraphSource
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.training.checkpoint import rebuild


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.exact_time", description=__doc__)
    p.add_argument("checkpoint", type=Path, help="the checkpoint that the bundle was exported from")
    p.add_argument("--bundle", type=Path, default=DEFAULT)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--runs", type=int, default=60)
    args = p.parse_args(arguments)
    bundle = Bundle.open(args.bundle)
    assert bundle.exact is not None
    model = rebuild(torch.load(args.checkpoint, weights_only=True))
    channels = bundle.manifest.hyper_channels
    source = GraphSource(
        model.h_s,
        ("z",),
        ("out",),
        lambda h, w, n: (torch.zeros(n, channels, h, w),),
        ({0: "n", 2: "h", 3: "w"},),
        1e-3,
    )
    backend = OnnxRuntime(threads=args.threads)
    graphs = {
        "float network": backend.load(export_graph("h_s_float", source).SerializeToString(), "h_s_float"),
        "integer, qdq form": backend.load(to_onnx(bundle.exact, "qdq").SerializeToString(), "h_s"),
        "integer, float form": backend.load(to_onnx(bundle.exact, "float").SerializeToString(), "h_s"),
    }
    rng = np.random.default_rng(0)
    table = Table("image", "h_s", "median ms", "against float")
    for width, height in ((768, 512), (1920, 1088)):
        z = np.rint(rng.normal(0, 2, (1, channels, height // 64, width // 64))).astype(np.float32)
        times: dict[str, list[float]] = {name: [] for name in graphs}
        for i in range(args.runs + 5):
            for name, run in graphs.items():
                started = time.perf_counter()
                run({"z": z})
                if i >= 5:
                    times[name].append((time.perf_counter() - started) * 1e3)
        medians = {name: statistics.median(values) for name, values in times.items()}
        for name, median in medians.items():
            table.add_row(f"{width}×{height}", name, f"{median:.2f}", f"{median / medians['float network']:.2f}×")
    console = Console()
    console.print(table)
    console.print(f"{args.threads} threads, medians of {args.runs} alternating runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
