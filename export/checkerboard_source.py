"""CompressAI's checkerboard models, also those of ELIC, as a `Source` with a schedule.

Medians stay out of the bitstream, as for its other models. Each slice of `y`, of which the plain checkerboard has one,
takes two stages: anchors, where row + column is even, then the others.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, cast

import torch
from torch import Tensor, nn

from ugicm.export.compressai_source import tolerance_of
from ugicm.export.compressai_zoo import ZooModel
from ugicm.export.lowering import lower
from ugicm.export.source import GraphSource, Source
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.export.staged_zoo import Examples, Hyperprior, staged_source
from ugicm.models.checkerboard_stages import Anchors, FirstAnchors, HyperParameters, Others, Slice
from ugicm.runtime.schedule import Schedule, Stage


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


def _entropy_graphs(
    h_s: HyperParameters, slices: tuple[Slice, ...], index: ScaleIndex, examples: Examples
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


def checkerboard_source(zoo: ZooModel) -> Source:
    """A checkerboard model of CompressAI as a `Source`: one quality, one view, every symbol coded.

    Args:
        zoo: its transforms are lowered in place.
    """
    codec, slices = cast(Any, zoo.module).latent_codec.hyper, slices_of(zoo.module)
    hyper = Hyperprior(codec.h_a, codec.h_s, codec.entropy_bottleneck)

    def entropy_graphs(examples: Examples) -> tuple[dict[str, GraphSource], Schedule]:
        h_s = HyperParameters(lower(codec.h_s), hyper.medians)
        examples.channels["hyper"] = h_s(torch.zeros(1, hyper.bottleneck.channels, 1, 1)).shape[1]
        return _entropy_graphs(h_s, slices, ScaleIndex(zoo.scales), examples)

    return staged_source(zoo, hyper, slices[-1].end, entropy_graphs)
