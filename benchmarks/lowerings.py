"""`python -m benchmarks.lowerings [--bundle B]`: each rewrite of export measured alone against what it replaces.

Random weights, the sizes of a 768×512 image, ONNX Runtime; medians of the ratios of paired runs, and how far
the results are apart, relative to the largest value. A ratio below 1 is a rewrite that pays.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from ugicm.calibration.int8.graph import FloatGraph
from ugicm.calibration.int8.int8_bundle import view_model
from ugicm.export.graphs import export_graph
from ugicm.export.lowering import fold_gdn, shuffled, strided
from ugicm.export.source import GraphSource, ImageOutput
from ugicm.models.entropy import gdn
from ugicm.models.fast import Block
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import DEFAULT, Bundle

Run = Callable[[], np.ndarray]


class Reciprocal(nn.Module):
    """GDN as a product with 1 / sqrt(...), a division less on what is large."""

    def __init__(self, norm: nn.Conv2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.reciprocal(torch.sqrt(self.norm(x * x)))


class Powers(nn.Module):
    """GDN by powers: x · (…)^-1/2."""

    def __init__(self, norm: nn.Conv2d) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.pow(self.norm(torch.pow(x, 2.0)), -0.5)


class Multiplied(nn.Module):
    """GDN whose 1×1 convolution is a matrix product over the flattened image."""

    def __init__(self, norm: nn.Conv2d) -> None:
        super().__init__()
        assert norm.bias is not None
        self.weight, self.bias = norm.weight[:, :, 0, 0], norm.bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        squares = (x * x).flatten(2)
        return x / torch.sqrt(torch.matmul(self.weight, squares) + self.bias).reshape(x.shape)


def session(backend: OnnxRuntime, module: nn.Module, x: np.ndarray, general: bool = False) -> Run:
    """A module in ONNX Runtime on a fixed input, of any batch, height and width.

    General: as it is before `ugicm.export.forms.cpu_form`.
    """
    source = GraphSource(
        module.eval(), ("x",), ("out",), lambda h, w, n: (torch.zeros(n, x.shape[1], 8 * h, 8 * w),),
        ({0: "n", 2: "8h", 3: "8w"},), 1.0,
    )  # fmt: skip
    model = export_graph("g", source).SerializeToString()
    graph = backend.load(FloatGraph.parse(model).model() if general else model, "g")
    return lambda: graph({"x": x})[0]


def measure(before: Run, after: Run, repeat: int) -> tuple[float, float, float]:
    """(median ms before, median ratio after / before, largest difference relative to the largest value)."""
    a, b = before().astype(np.float64), after().astype(np.float64)
    difference = float(np.abs(a - b).max() / max(1e-12, np.abs(a).max()))
    times, ratios = [], []
    for _ in range(repeat):
        spent = []
        for work in (before, after):
            started = time.perf_counter()
            work()
            spent.append(time.perf_counter() - started)
        times.append(spent[0] * 1e3)
        ratios.append(spent[1] / spent[0])
    return statistics.median(times), statistics.median(ratios), difference


@torch.no_grad()
def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.lowerings", description=__doc__.split("\n")[0])
    p.add_argument("--bundle", type=Path, default=DEFAULT, help="whose g_s has its condition folded")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--repeat", type=int, default=30)
    args = p.parse_args(arguments)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    backend = OnnxRuntime(threads=args.threads)
    table = Table("rewrite", "before, ms", "after / before", "largest difference")

    def add(name: str, before: Run, after: Run) -> None:
        spent, ratio, difference = measure(before, after, args.repeat)
        table.add_row(name, f"{spent:.2f}", f"{ratio:.2f}", f"{difference:.1e}")

    def pair(name: str, before: nn.Module, after: nn.Module, channels: int, height: int, width: int) -> None:
        x = rng.normal(size=(1, channels, height, width)).astype(np.float32)
        add(name, *(session(backend, module, x) for module in (before, after)))

    def forms(name: str, module: nn.Module, x: np.ndarray) -> None:
        add(name, *(session(backend, module, x, general) for general in (True, False)))

    for channels, out, height, width in (
        (192, 128, 32, 48),
        (128, 128, 64, 96),
        (128, 128, 128, 192),
        (128, 3, 256, 384),
    ):
        deconv = nn.ConvTranspose2d(channels, out, 5, 2, 2, output_padding=1)
        words = f"transposed 5×5 convolution {channels} to {out} at {width}×{height}: 3×3 and pixel shuffle"
        x = rng.normal(size=(1, channels, height, width)).astype(np.float32)
        add(words, session(backend, deconv, x), session(backend, shuffled(deconv), x, general=True))
        if out > 3:
            words = f"{channels} to {out} at {width}×{height}: a convolution a phase, GDN on channels last"
            chain = nn.Sequential(shuffled(deconv), fold_gdn(gdn(out, True)), nn.Conv2d(out, 16, 3, padding=1))
            forms(words, chain, x)
    conv = nn.Conv2d(192, 128, 1)
    unshuffled = nn.Sequential(nn.PixelUnshuffle(8), conv)
    pair("pixel unshuffle 8 and convolution: one of stride 8", unshuffled, strided(8, conv), 3, 512, 768)
    conv = nn.Conv2d(512, 192, 1)
    unshuffled = nn.Sequential(nn.PixelUnshuffle(2), conv)
    pair("pixel unshuffle 2 and convolution: one of stride 2", unshuffled, strided(2, conv), 128, 64, 96)
    norm = gdn(128)
    folded = fold_gdn(norm)
    pair("GDN: reparametrisation folded", norm, folded, 128, 128, 192)
    pair("GDN: times the reciprocal root", folded, Reciprocal(folded.norm), 128, 128, 192)
    pair("GDN: powers", folded, Powers(folded.norm), 128, 128, 192)
    pair("GDN: matrix product", folded, Multiplied(folded.norm), 128, 128, 192)
    fine, coarse = (rng.normal(size=s).astype(np.float32) for s in ((1, 128, 64, 96), (1, 192, 32, 48)))
    up = nn.Sequential(nn.Conv2d(192, 512, 1), nn.PixelShuffle(2), nn.Conv2d(128, 128, 3, padding=1, groups=128))
    forms("pixel shuffle 2 of 512 channels: runs of floats", up, coarse)
    tail = nn.Sequential(nn.Conv2d(128, 192, 1), nn.PixelShuffle(8), ImageOutput())
    forms("picture: bytes first, then runs of them", tail, fine)
    forms("three residual blocks at 96×64: sums in blocks", nn.Sequential(*(Block(128) for _ in range(3))), fine)
    bundle = Bundle.open(args.bundle)
    for name, vector in bundle.condition_vectors.items():
        model = bundle.graph("g_s")[1]
        given, plain = backend.load(model, "g_s"), backend.load(view_model(bundle, vector), "g_s")
        features = next(i for i in FloatGraph.parse(model).inputs if i.name == "features")
        width = features.type.tensor_type.shape.dim[1].dim_value
        inputs = {"features": rng.normal(size=(1, width, 64, 96)).astype(np.float32)}
        add(
            f"condition {name} folded into g_s",
            lambda given=given, inputs=inputs, v=vector: given({**inputs, "condition": v})[0],  # type: ignore[misc]
            lambda plain=plain, inputs=inputs: plain(inputs)[0],  # type: ignore[misc]
        )
    console = Console(width=120)
    console.print(table)
    console.print(f"{args.threads} threads, {args.repeat} paired runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
