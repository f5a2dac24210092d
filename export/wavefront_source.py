"""CompressAI's models with a raster-scan context as a `Source` whose schedule is one stage in wavefronts.

CompressAI's `forward` gives the context and `g_s` latents rounded to integers; its `compress` and `decompress` give
both the symbols plus their means, as is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from ugicm.export.compressai_source import HYPER_STRIDE, tolerance_of
from ugicm.export.compressai_zoo import ZooModel
from ugicm.export.lowering import lower
from ugicm.export.source import GraphSource, Source
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.export.staged_zoo import Examples, Hyperprior, staged_source
from ugicm.models.wavefront_stages import HyperFirstLayer, Step
from ugicm.runtime.schedule import WAVEFRONT, Schedule, Stage
from ugicm.runtime.wavefront import NEIGHBOURS, OFFSETS

STEP = "step"
"""The graph of the stage."""


def positions_of(model: Any, h_s: nn.Module, examples: Examples) -> Callable[[int, int, int], tuple[Tensor, ...]]:
    """Example inputs of a step: latents as far apart in each channel as those of an image, and what `h_s` gives."""
    noise = torch.rand(1, 3, 4 * HYPER_STRIDE, 4 * HYPER_STRIDE, generator=examples.generator)
    spread, of_z = model.g_a(noise).std((2, 3)).repeat(1, len(OFFSETS)), examples.of(("z",))

    def positions(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        said = h_s(*of_z(h, w, n)).permute(0, 2, 3, 1).flatten(0, 2)
        return torch.round(spread * torch.randn(len(said), spread.shape[1], generator=examples.generator)), said

    return positions


def wavefront_source(zoo: ZooModel) -> Source:
    """`mbt2018` or a model of Cheng et al. as a `Source`: one quality, one view, every symbol coded.

    Args:
        zoo: its transforms are lowered in place.
    """
    model = cast(Any, zoo.module)
    context, parameters = model.context_prediction, model.entropy_parameters
    # Weights of a state dict are not masked yet; the taps that a step gathers are those that the mask leaves.
    assert all(context.mask[0, 0, 2 + i, 2 + j] == 1 for i, j in OFFSETS) and context.mask[0, 0].sum() == len(OFFSETS)
    hyper = Hyperprior(model.h_a, model.h_s, model.entropy_bottleneck)

    def entropy_graphs(examples: Examples) -> tuple[dict[str, GraphSource], Schedule]:
        h_s = HyperFirstLayer(lower(model.h_s), hyper.medians, context, parameters)
        step = Step(context, parameters, ScaleIndex(zoo.scales), OFFSETS)
        latent = context.in_channels
        positions, of_z = positions_of(model, h_s, examples), examples.of(("z",))
        graphs = {
            "h_s": GraphSource(
                h_s, ("z",), ("hyper",), of_z, examples.dynamic(("z",)), tolerance_of(h_s(*of_z(1, 1, 1)))
            ),
            STEP: GraphSource(
                step,
                (NEIGHBOURS, "hyper"),
                ("index", "mean"),
                positions,
                ({0: "p"}, {0: "p"}),
                min(map(tolerance_of, step(*positions(1, 1, 1)))),
            ),
        }
        schedule = Schedule(BAND_BITS, BLOCK, (Stage(STEP, (0, latent), WAVEFRONT),))
        schedule.check(latent)
        return graphs, schedule

    return staged_source(zoo, hyper, model.M, entropy_graphs)
