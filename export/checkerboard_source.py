"""CompressAI's checkerboard models, also those of ELIC, as a `Source` with a schedule.

Medians stay out of the bitstream, as for its other models. Each slice of `y`, of which the plain checkerboard has one,
takes two stages: anchors, where row + column is even, then the others.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_source import (
    HYPER_STRIDE,
    LATENT_STRIDE,
    REACHES,
    TABLE_FLOOR,
    TABLE_TAIL,
    AnalysisGraph,
    HyperAnalysisGraph,
    SynthesisGraph,
    integer_probabilities,
    tolerance_of,
)
from ugicm.export.compressai_zoo import ZooModel
from ugicm.export.lowering import lower, lower_inside
from ugicm.export.source import GraphSource, Source, digest
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.models.checkerboard_stages import Anchors, FirstAnchors, HyperParameters, Others, Slice
from ugicm.models.macs import count_macs
from ugicm.runtime.schedule import Schedule, Stage

_RATIO = HYPER_STRIDE // LATENT_STRIDE
_MACS_SIDE = 256


def slices_of(model: Any) -> tuple[Slice, ...]:
    """The slices of channels of a model, in decoding order."""
    codec = model.latent_codec.y
    if not hasattr(codec, "channel_context"):
        spatial = codec.context_prediction
        return (Slice(0, spatial.in_channels, spatial, codec.entropy_parameters),)
    ends = tuple(accumulate(codec.groups, initial=0))
    slices = []
    for k, (first, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        part = codec.latent_codec[f"y{k}"]
        channel = codec.channel_context[f"y{k}"] if k else None
        slices.append(
            Slice(
                first,
                end,
                part.context_prediction,
                part.entropy_parameters,
                channel,
                _seen(codec, k, ends),
                part.y.chunks == ("means", "scales"),
            )
        )
    return tuple(slices)


def _seen(codec: Any, k: int, ends: tuple[int, ...]) -> tuple[int, ...]:
    """The channels of earlier slices that slice `k` reads: asked of the model, as one kind leaves some out."""
    if k == 0:
        return ()
    numbers = [torch.arange(first, end)[None, :, None, None] for first, end in zip(ends[:k], ends[1:], strict=False)]
    return tuple(codec.merge_y(*numbers).flatten().tolist())


class _Examples:
    """Inputs of the graphs at any size, plausible and always new.

    Args:
        channels: of each input but `image`, by name; those called "context…" are half as wide as the latents.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.channels = channels
        self.ones = torch.ones(1, channels["y_hat"], 1, 1)

    def image(self, h: int, w: int, n: int) -> tuple[Tensor, ...]:
        shape = (n, h * HYPER_STRIDE, w * HYPER_STRIDE, 3)
        return torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8), self.ones

    def of(self, names: tuple[str, ...]) -> Callable[[int, int, int], tuple[Tensor, ...]]:
        """Examples of inputs of these names."""

        def example(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            given = []
            for name in names:
                if name == "inverse_gain":
                    given.append(self.ones)
                    continue
                ratio = 1 if name == "z" else _RATIO
                width = w * ratio // (2 if name.startswith("context") else 1)
                drawn = torch.randn(n, self.channels[name], h * ratio, width, generator=self.generator)
                given.append(torch.round(2 * drawn) if name in ("z", "y_hat") else drawn)
            return tuple(given)

        return example

    @staticmethod
    def dynamic(names: tuple[str, ...]) -> tuple[dict[int, str], ...]:
        axes: dict[str, dict[int, str]] = {"z": {0: "n", 2: "h", 3: "w"}, "inverse_gain": {}}
        latents = {0: "n", 2: f"{_RATIO}h", 3: f"{_RATIO}w"}
        halves = {0: "n", 2: f"{_RATIO}h", 3: f"{_RATIO // 2}w"}
        return tuple(axes.get(name, halves if name.startswith("context") else latents) for name in names)


def _entropy_graphs(
    h_s: HyperParameters, slices: tuple[Slice, ...], index: ScaleIndex, examples: _Examples
) -> tuple[dict[str, GraphSource], Schedule]:
    """`h_s` and the graphs of all stages, and their schedule."""
    graphs: dict[str, GraphSource] = {}
    like: dict[Any, str] = {}

    def add(name: str, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        example = examples.of(inputs)
        given = example(1, 1, 1)
        said = module(*given)
        made = (said,) if isinstance(said, Tensor) else said
        least = min(tolerance_of(o) for o in made)
        # A graph holds sizes of what goes in and out, so slices of one size share it.
        of = like.setdefault((type(module), *(t.shape for t in (*given, *made))), name)
        graphs[name] = GraphSource(
            module, inputs, outputs, example, examples.dynamic(inputs), least, None if of == name else of
        )

    add("h_s", h_s, ("z",), ("hyper",))
    stages = []
    for k, part in enumerate(slices):
        context = f"context{k:02}"
        examples.channels[context] = part.parameters[0].out_channels  # type: ignore[assignment]
        anchor, other = f"stage{k:02}_anchor", f"stage{k:02}_nonanchor"
        if part.channel is None:
            add(anchor, FirstAnchors(part, index), ("hyper",), ("index", "mean", context))
        else:
            add(anchor, Anchors(part, index), ("y_hat", "hyper"), ("index", "mean", context))
        add(other, Others(part, index), ("y_hat", context), ("index", "mean"))
        stages += [Stage(name, (part.first, part.end), at) for name, at in ((anchor, "even"), (other, "odd"))]
    schedule = Schedule(BAND_BITS, BLOCK, tuple(stages))
    schedule.check(slices[-1].end)
    return graphs, schedule


def _transform_graphs(model: Any, medians: Tensor, examples: _Examples) -> dict[str, GraphSource]:
    g_a, g_s = AnalysisGraph(lower_inside(model.g_a), None), SynthesisGraph(lower_inside(model.g_s), None)
    h_a = HyperAnalysisGraph(model.latent_codec.hyper.h_a, medians, magnitudes=False)
    pixels = {0: "n", 1: f"{HYPER_STRIDE}h", 2: f"{HYPER_STRIDE}w"}
    latent, both = examples.of(("y_hat",)), ("y_hat", "inverse_gain")
    latents = examples.dynamic(("y_hat",))
    of_pixels, of_latents = tolerance_of(g_a(*examples.image(1, 1, 1))), tolerance_of(h_a(*latent(1, 1, 1)))
    return {
        "g_a": GraphSource(g_a, ("image", "gain"), ("y",), examples.image, (pixels, {}), of_pixels),
        "h_a": GraphSource(h_a, ("y",), ("z",), latent, latents, of_latents),
        "g_s": GraphSource(g_s, both, ("image",), examples.of(both), examples.dynamic(both), 1.0),
    }


def _kmac_per_pixel(model: Any, latent: int, width: int) -> dict[str, float]:
    """kMAC/pixel of the transforms, as CompressAI computes them."""
    x = torch.zeros(1, 3, _MACS_SIDE, _MACS_SIDE)
    y = torch.zeros(1, latent, _MACS_SIDE // LATENT_STRIDE, _MACS_SIDE // LATENT_STRIDE)
    z = torch.zeros(1, width, _MACS_SIDE // HYPER_STRIDE, _MACS_SIDE // HYPER_STRIDE)
    hyper = model.latent_codec.hyper
    runs = {"g_a": (model.g_a, x), "h_a": (hyper.h_a, y), "h_s": (hyper.h_s, z), "g_s": (model.g_s, y)}
    return {k: count_macs(m, lambda m=m, v=v: m(v)) / _MACS_SIDE**2 / 1000 for k, (m, v) in runs.items()}  # type: ignore[misc]


def _kmac_of_stages(graphs: dict[str, GraphSource], schedule: Schedule) -> float:
    """kMAC/pixel of all stages, as their graphs compute them."""
    side = _MACS_SIDE // HYPER_STRIDE
    stages = [graphs[name] for name in schedule.graphs]
    return sum(count_macs(g.module, lambda g=g: g.module(*g.example(side, side, 1))) for g in stages) / (  # type: ignore[misc]
        _MACS_SIDE**2 * 1000
    )


@torch.no_grad()
def checkerboard_source(zoo: ZooModel) -> Source:
    """A checkerboard model of CompressAI as a `Source`: one quality, one view, every symbol coded.

    Args:
        zoo: its transforms are lowered in place.
    """
    model = cast(Any, zoo.module)
    parameters = sum(p.numel() for p in model.parameters())
    hyper, slices = model.latent_codec.hyper, slices_of(model)
    latent, width = slices[-1].end, hyper.entropy_bottleneck.channels
    kmac = _kmac_per_pixel(model, latent, width)
    centres = hyper.entropy_bottleneck.quantiles[:, 0, 1].detach().clone()
    medians = centres[:, None, None]
    probabilities = integer_probabilities(hyper.entropy_bottleneck, centres, REACHES[3])
    limit = probabilities.shape[1] // 2
    h_s = HyperParameters(lower(hyper.h_s), medians)
    said = h_s(torch.zeros(1, width, 1, 1)).shape[1]
    examples = _Examples({"z": width, "y_hat": latent, "hyper": said})
    entropy, schedule = _entropy_graphs(h_s, slices, ScaleIndex(zoo.scales), examples)
    kmac["stages"] = _kmac_of_stages(entropy, schedule)
    kmac["encode"] = sum(v for k, v in kmac.items() if k != "g_s")
    kmac["decode"] = kmac["h_s"] + kmac["stages"] + kmac["g_s"]

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        z = torch.round(hyper.h_a(model.g_a(image[None])) - medians)
        return z.clamp(-limit, limit).numpy().astype(np.int32)

    built = f"built from its weights and the standard {len(zoo.scales)} scales"
    return Source(
        architecture=zoo.architecture,
        stride=HYPER_STRIDE,
        latent_stride=LATENT_STRIDE,
        latent_channels=latent,
        hyper_channels=width,
        qualities=1,
        graphs={**_transform_graphs(model, medians, examples), **entropy},
        hyper_synthesis=None,
        scales=zoo.scales,
        z_probabilities=probabilities,
        gain=np.ones((1, latent)),
        inverse_gain=np.ones((1, latent)),
        conditions={},
        context=None,
        context_digest=digest(nn.ModuleDict({name: graph.module for name, graph in entropy.items()})),
        analyse=analyse,
        model={"parameters": parameters, "kmac_per_pixel": {k: round(v, 3) for k, v in kmac.items()}},
        skip_below=0.0,
        table_tail=TABLE_TAIL,
        table_floor=TABLE_FLOOR,
        notes=() if zoo.updated else (f"its entropy tables were not updated: {built}",),
        schedule=schedule,
    )
