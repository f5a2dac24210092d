"""CompressAI's variable-rate models as a `Source`: its levels are qualities, and scales are guarded floats.

`y` carries its gain from `g_a` to `g_s`, as in the project's own codecs. `bmshj2018-hyperprior-vbr` and
`mbt2018-mean-vbr` have one stage, `mbt2018-vbr` is decoded in wavefronts.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_source import REACHES, integer_probabilities, tolerance_of
from ugicm.export.compressai_zoo import ZooModel
from ugicm.export.lowering import lower
from ugicm.export.source import GraphSource, Source
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.export.staged_zoo import Examples, Hyperprior, Variable, staged_source
from ugicm.export.wavefront_source import STEP, positions_of
from ugicm.models.vbr_stages import (
    AllAtOnce,
    HyperAnalysis,
    HyperStep,
    HyperSynthesis,
    Offsets,
    Scaled,
    VariableStep,
)
from ugicm.models.wavefront_stages import HyperFirstLayer, Step
from ugicm.runtime.schedule import ALL, WAVEFRONT, Schedule, Stage
from ugicm.runtime.wavefront import NEIGHBOURS, OFFSETS

SCALES, RESTORED = "scales", "offsets"
"""The graphs of the one stage and after any."""
_SAID = ("index", "mean", "deviation")
_READ = ("y_hat", "mean", "deviation", "gain")


@torch.no_grad()
def variable_source(zoo: ZooModel) -> Source:
    """A variable-rate model as a `Source`; quality k is its level k - 1.

    Args:
        zoo: its transforms are lowered in place.
    """
    model = cast(Any, zoo.module)
    hyper = Hyperprior(model.h_a, model.h_s, model.entropy_bottleneck)
    gains, raster = model.Gain.detach().abs(), hasattr(model, "context_prediction")
    step = HyperStep(None, 1.0)
    if model.vr_entbttlnck:
        step = HyperStep(model.gayn2zqstep, float(model.lower_bound_zqstep.bound))
    scaled = Scaled(ScaleIndex(zoo.scales), float(model.gaussian_conditional.lower_bound_scale.bound))

    def entropy_graphs(examples: Examples) -> tuple[dict[str, GraphSource], Schedule]:
        examples.gain = gains[len(gains) // 2].expand(1, model.M, 1, 1).clone()
        graphs = (
            _in_wavefronts(model, hyper, scaled, examples) if raster else _at_once(model, hyper, step, scaled, examples)
        )
        name, positions = (STEP, WAVEFRONT) if raster else (SCALES, ALL)
        schedule = Schedule(BAND_BITS, BLOCK, (Stage(name, (0, model.M), positions, RESTORED),))
        schedule.check(model.M)
        return graphs, schedule

    steps = [float(step(g[None])) for g in gains] if model.vr_entbttlnck else [1.0]
    variable = Variable(
        gains.numpy(),
        HyperAnalysis(model.h_a, hyper.medians, model.h_s[-1].__class__ is nn.ReLU, step),
        _probabilities(hyper, steps),
    )
    return staged_source(zoo, hyper, model.M, entropy_graphs, variable)


def _probabilities(hyper: Hyperprior, steps: list[float]) -> np.ndarray:
    """(Nz times the number of steps, 2·reach + 1) P(z = n), a step after the other."""
    found = [integer_probabilities(hyper.bottleneck, hyper.centres, REACHES[3], step) for step in steps]
    reach = max(p.shape[1] // 2 for p in found)
    return np.concatenate([np.pad(p, ((0, 0), (reach - p.shape[1] // 2,) * 2)) for p in found])


def _at_once(
    model: Any, hyper: Hyperprior, step: HyperStep, scaled: Scaled, examples: Examples
) -> dict[str, GraphSource]:
    """`h_s` and the graphs of one stage of all latents."""
    h_s = HyperSynthesis(lower(model.h_s), hyper.medians, step)
    stage, after = AllAtOnce(scaled, model.M), Offsets(model.QuantABCD)
    examples.channels |= dict.fromkeys(("mean", "deviation"), model.M)
    examples.channels["hyper"] = h_s(*examples.of(("z", "gain"))(1, 1, 1)).shape[1]

    def graph(module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> GraphSource:
        example = examples.of(inputs)
        made = module(*example(1, 1, 1))
        least = min(map(tolerance_of, (made,) if isinstance(made, Tensor) else made))
        return GraphSource(module, inputs, outputs, example, examples.dynamic(inputs), least)

    return {
        "h_s": graph(h_s, ("z", "gain"), ("hyper",)),
        SCALES: graph(stage, ("hyper", "gain"), _SAID),
        RESTORED: graph(after, _READ, ("lrp",)),
    }


def _in_wavefronts(model: Any, hyper: Hyperprior, scaled: Scaled, examples: Examples) -> dict[str, GraphSource]:
    """`h_s` and the graphs of a stage in wavefronts."""
    context, parameters = model.context_prediction, model.entropy_parameters
    h_s = HyperFirstLayer(lower(model.h_s), hyper.medians, context, parameters)
    step = VariableStep(Step(context, parameters, scaled.index, OFFSETS), scaled, model.scale_to_context)
    after, positions, of_z = Offsets(model.QuantABCD), positions_of(model, h_s, examples), examples.of(("z",))

    def with_gain(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        return (*positions(h, w, n), examples.gain)

    def restored(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        _, mean, deviation = step(*with_gain(h, w, n))
        return (
            torch.round(4 * torch.randn(mean.shape, generator=examples.generator)) + mean,
            mean,
            deviation,
            examples.gain,
        )

    at = {0: "p"}
    least = min(map(tolerance_of, step(*with_gain(1, 1, 1))))
    return {
        "h_s": GraphSource(h_s, ("z",), ("hyper",), of_z, examples.dynamic(("z",)), tolerance_of(h_s(*of_z(1, 1, 1)))),
        STEP: GraphSource(step, (NEIGHBOURS, "hyper", "gain"), _SAID, with_gain, (at, at, {}), least),
        RESTORED: GraphSource(after, _READ, ("lrp",), restored, (at, at, at, {}), 1e-3),
    }
