"""CompressAI's models as a `Source`: their transforms as graphs, their hyper-synthesis as layers to make integer.

Medians stay out of the bitstream: `h_a` gives `z` minus its medians (without a hyperprior, `g_a` gives `y` minus its
own), so every symbol is a rounding to the nearest integer, and what follows adds them again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_zoo import ZooModel
from ugicm.export.float_layers import float_layers
from ugicm.export.lowering import lower, short_sums_inside
from ugicm.export.source import GraphSource, HyperSynthesis, ImageInput, ImageOutput, Source, digest
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.models.entropy import bottleneck_probabilities
from ugicm.models.macs import count_macs
from ugicm.runtime.schedule import ALL, Schedule, Stage

LATENT_STRIDE = 16
HYPER_STRIDE = 64
REACHES = (127, 255, 511, 1023, 2047, 4095)
_BEYOND = 1e-6  # of a channel's probability that its support may leave out
TABLE_TAIL, TABLE_FLOOR = 1e-9, 2.0**-16  # as CompressAI's own tables have: its frequencies are of 16 bits
_MACS_SIDE = 256


class AnalysisGraph(nn.Module):
    """`g_a`, minus the medians of `y` where it has a factorised prior. The gain is 1."""

    medians: Tensor | None

    def __init__(self, g_a: nn.Module, medians: Tensor | None) -> None:
        super().__init__()
        self.input = ImageInput()
        self.g_a = lower(cast(nn.Sequential, g_a))
        self.register_buffer("medians", medians)

    def forward(self, image: Tensor, gain: Tensor) -> Tensor:
        y = self.g_a(self.input(image))
        return (y if self.medians is None else y - self.medians) * gain


class HyperAnalysisGraph(nn.Module):
    """`h_a`, minus the medians of `z`."""

    medians: Tensor

    def __init__(self, h_a: nn.Module, medians: Tensor, magnitudes: bool) -> None:
        super().__init__()
        self.h_a = lower(cast(nn.Sequential, h_a))
        self.magnitudes = magnitudes
        self.register_buffer("medians", medians)

    def forward(self, y: Tensor) -> Tensor:
        return self.h_a(torch.abs(y) if self.magnitudes else y) - self.medians


class MeanGraph(nn.Module):
    """`z` minus its medians to the means of `y`: the half of `h_s` that decides no scale, in float.

    A mean that differs a little from one device to the next moves a pixel by nothing, and cannot garble a file.
    """

    medians: Tensor

    def __init__(self, h_s: nn.Module, medians: Tensor, latent: int) -> None:
        super().__init__()
        *hidden, end = cast(nn.Sequential, h_s)
        last = cast(nn.Conv2d, end)
        means = nn.Conv2d(last.in_channels, latent, last.kernel_size[0], padding=cast(int, last.padding))
        means.weight, means.bias = nn.Parameter(last.weight[latent:]), nn.Parameter(cast(Tensor, last.bias)[latent:])
        self.h_s = lower([*hidden, means])
        self.register_buffer("medians", medians)

    def forward(self, z: Tensor) -> Tensor:
        return self.h_s(z + self.medians)


class HyperGraph(nn.Module):
    """The whole of `h_s` in float: `z` minus its medians to scales, then means where there are any."""

    medians: Tensor

    def __init__(self, h_s: nn.Module, medians: Tensor) -> None:
        super().__init__()
        self.h_s = lower(cast(nn.Sequential, h_s))
        self.register_buffer("medians", medians)

    def forward(self, z: Tensor) -> Tensor:
        return self.h_s(z + self.medians)


class ScalesGraph(nn.Module):
    """The outputs of `HyperGraph` to continuous scale indexes and means, which are 0 where there are none."""

    def __init__(self, index: nn.Module, has_means: bool) -> None:
        super().__init__()
        self.index, self.has_means = index, has_means

    def forward(self, hyper: Tensor) -> tuple[Tensor, Tensor]:
        scales, mean = hyper.chunk(2, 1) if self.has_means else (hyper, torch.zeros_like(hyper))
        return self.index(scales), mean


class SynthesisGraph(nn.Module):
    """`g_s`, which first adds the medians of `y` where it has a factorised prior. The inverse gain is 1."""

    medians: Tensor | None

    def __init__(self, g_s: nn.Module, medians: Tensor | None) -> None:
        super().__init__()
        self.g_s = lower(cast(nn.Sequential, g_s))
        self.output = ImageOutput()
        self.register_buffer("medians", medians)

    def forward(self, y_hat: Tensor, inverse_gain: Tensor) -> Tensor:
        y_hat = y_hat * inverse_gain
        return self.output(self.g_s(y_hat if self.medians is None else y_hat + self.medians))


def integer_probabilities(bottleneck: nn.Module, medians: Tensor, largest: int, step: float = 1.0) -> np.ndarray:
    """(channels, 2·reach + 1) P(median + n·step), n up to a reach that leaves out next to nothing, or to `largest`."""
    for reach in REACHES:
        p = bottleneck_probabilities(bottleneck, reach, medians, step).numpy()
        if reach >= largest or 1 - p.sum(1).min() <= _BEYOND:
            break
    return p


def tolerance_of(output: Tensor) -> float:
    """The change that the order of summation may make: latents reach hundreds, in units of the quantiser's step."""
    return 1e-3 * max(1.0, float(output.abs().max()) / 100)


def _graphs(model: Any, medians: Tensor, hyperprior: bool) -> dict[str, GraphSource]:
    stride = HYPER_STRIDE if hyperprior else LATENT_STRIDE
    ratio = stride // LATENT_STRIDE
    generator = torch.Generator().manual_seed(7)
    ones = torch.ones(1, model.M, 1, 1)

    def image(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        shape = (n, h * stride, w * stride, 3)
        return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8), ones

    def latent(h: int, w: int, n: int) -> Tensor:
        return torch.round(torch.randn(n, model.M, h * ratio, w * ratio, generator=generator) * 2)

    own = None if hyperprior else medians
    pixels = {0: "n", 1: f"{stride}h", 2: f"{stride}w"}
    latents = {0: "n", 2: f"{ratio}h", 3: f"{ratio}w"} if ratio > 1 else {0: "n", 2: "h", 3: "w"}
    g_a, g_s = AnalysisGraph(model.g_a, own), SynthesisGraph(model.g_s, own)
    tolerance = tolerance_of(g_a(*image(1, 1, 1)))
    graphs = {
        "g_a": GraphSource(g_a, ("image", "gain"), ("y",), image, (pixels, {}), tolerance),
        "g_s": GraphSource(
            g_s, ("y_hat", "inverse_gain"), ("image",), lambda h, w, n: (latent(h, w, n), ones), (latents, {}), 1.0
        ),
    }
    if hyperprior:
        h_a = HyperAnalysisGraph(model.h_a, medians, magnitudes=not _has_means(model))
        tolerance = tolerance_of(h_a(latent(1, 1, 1)))
        graphs["h_a"] = GraphSource(h_a, ("y",), ("z",), lambda h, w, n: (latent(h, w, n),), (latents,), tolerance)
    if hyperprior and _has_means(model):

        def hyper_latent(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            return (torch.round(torch.randn(n, model.N, h, w, generator=generator) * 2),)

        h_s = MeanGraph(model.h_s, medians, model.M)
        tolerance = tolerance_of(h_s(*hyper_latent(1, 1, 1)))
        coarse = {0: "n", 2: "h", 3: "w"}
        graphs["h_s_mean"] = GraphSource(h_s, ("z",), ("mean",), hyper_latent, (coarse,), tolerance)
    return graphs


def _guarded(source: Source, model: Any, medians: Tensor) -> Source:
    """A source of a hyperprior model whose scales are guarded floats, in one stage of all latents."""
    generator, ratio, stage = torch.Generator().manual_seed(7), HYPER_STRIDE // LATENT_STRIDE, "scales"
    h_s = HyperGraph(model.h_s, medians)
    scales = ScalesGraph(ScaleIndex(source.scales), _has_means(model))

    def of_z(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        return (torch.round(torch.randn(n, model.N, h, w, generator=generator) * 2),)

    def of_hyper(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        with torch.no_grad():
            return (h_s(*of_z(h, w, n)),)

    coarse, fine = {0: "n", 2: "h", 3: "w"}, {0: "n", 2: f"{ratio}h", 3: f"{ratio}w"}
    tolerance = tolerance_of(*of_hyper(1, 1, 1))
    graphs = {name: graph for name, graph in source.graphs.items() if name != "h_s_mean"} | {
        "h_s": GraphSource(h_s, ("z",), ("hyper",), of_z, (coarse,), tolerance),
        stage: GraphSource(scales, ("hyper",), ("index", "mean"), of_hyper, (fine,), tolerance),
    }
    schedule = Schedule(BAND_BITS, BLOCK, (Stage(stage, (0, model.M), ALL),))
    schedule.check(model.M)
    context_digest = digest(nn.ModuleDict({"h_s": h_s, stage: scales}))
    short_sums_inside(h_s)  # after the digest, which is of the weights as they are saved
    return replace(
        source, graphs=graphs, hyper_synthesis=None, schedule=schedule, guarded=None, context_digest=context_digest
    )


def _has_means(model: Any) -> bool:
    return bool(model.h_s[-1].__class__ is nn.Conv2d)


def _kmac_per_pixel(model: Any, hyperprior: bool) -> dict[str, float]:
    x = torch.zeros(1, 3, _MACS_SIDE, _MACS_SIDE)
    y = model.g_a(x)
    runs: dict[str, Callable[[], Tensor]] = {"g_a": lambda: model.g_a(x), "g_s": lambda: model.g_s(y)}
    if hyperprior:
        z = model.h_a(y)
        runs |= {"h_a": lambda: model.h_a(y), "h_s": lambda: model.h_s(z)}
    counts = {k: count_macs(getattr(model, k), run) / _MACS_SIDE**2 / 1000 for k, run in runs.items()}
    counts["encode"] = sum(v for k, v in counts.items() if k != "g_s")
    counts["decode"] = counts["g_s"] + counts.get("h_s", 0.0)
    return {k: round(v, 3) for k, v in counts.items()}


@torch.no_grad()
def compressai_source(zoo: ZooModel) -> Source:
    """A model of CompressAI as a `Source`: one quality, one view, every symbol coded.

    Raises:
        ValueError: a hyper-synthesis with a layer that has no exact integer form.
    """
    model = cast(Any, zoo.module)
    hyperprior = hasattr(model, "h_s")
    centres = model.entropy_bottleneck.quantiles[:, 0, 1].detach().clone()
    medians = centres[:, None, None]
    probabilities = integer_probabilities(model.entropy_bottleneck, centres, REACHES[3] if hyperprior else REACHES[-1])
    limit = probabilities.shape[1] // 2

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        y = model.g_a(image[None])
        z = model.h_a(y if _has_means(model) else torch.abs(y)) - medians
        return torch.round(z).clamp(-limit, limit).numpy().astype(np.int32)

    h_s = None
    if hyperprior:
        *hidden, last = float_layers(model.h_s)  # of the last, what gives the scales; h_s_mean is the rest
        last = replace(last, weight=last.weight[: model.M], bias=last.bias[: model.M])
        h_s = HyperSynthesis([*hidden, last], "linear", centres.numpy(), has_means=False)
    built = "built from its weights" + (f" and the standard {len(zoo.scales)} scales" if hyperprior else "")
    source = Source(
        architecture=zoo.architecture,
        stride=HYPER_STRIDE if hyperprior else LATENT_STRIDE,
        latent_stride=LATENT_STRIDE,
        latent_channels=model.M,
        hyper_channels=model.N if hyperprior else 0,
        qualities=1,
        graphs=_graphs(model, medians, hyperprior),
        hyper_synthesis=h_s,
        scales=zoo.scales,
        z_probabilities=probabilities if hyperprior else np.zeros((0, 1)),
        gain=np.ones((1, model.M)),
        inverse_gain=np.ones((1, model.M)),
        conditions={},
        context=None,
        context_digest=digest(model.h_s) if hyperprior and _has_means(model) else "",
        analyse=analyse,
        model={
            "parameters": sum(p.numel() for p in model.parameters()),
            "kmac_per_pixel": _kmac_per_pixel(model, hyperprior),
        },
        y_probabilities=None if hyperprior else probabilities,
        skip_below=0.0,
        table_tail=TABLE_TAIL,
        table_floor=TABLE_FLOOR,
        notes=() if zoo.updated else (f"its entropy tables were not updated: {built}",),
    )
    return replace(source, guarded=lambda: _guarded(source, model, medians)) if hyperprior else source
