"""TCM as a `Source` with a schedule: a slice of `y` a stage, each followed by its latent residual prediction.

Medians stay out of the bitstream, as for CompressAI's models. Windows of attention are whole only where a picture is a
multiple of 128 pixels a side (`TCMConfig.stride`), so that is the codec's stride: the four positions of `z` that such a
square has are folded into channels, as `torch.pixel_unshuffle` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_source import (
    REACHES,
    TABLE_FLOOR,
    TABLE_TAIL,
    AnalysisGraph,
    SynthesisGraph,
    integer_probabilities,
    tolerance_of,
)
from ugicm.export.lowering import lower_inside
from ugicm.export.rebuilt import Shapes, kmac_per_pixel, rebuilt
from ugicm.export.source import GraphSource, Source, digest
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex
from ugicm.models.tcm import HYPER_STRIDE, LATENT_STRIDE, TCM, HyperParameters, TCMConfig
from ugicm.runtime.schedule import ALL, Schedule, Stage

NAME = "tcm"
_KNOWN_BY = "cc_mean_transforms.0.0.weight", "atten_mean.0.0.in_conv.weight"
_FOLLOWS = ("._offset", "._quantized_cdf", "._cdf_length", ".scale_table")
_MOST_FOLDS = 4


def is_tcm(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is of such a network."""
    return all(name in state for name in _KNOWN_BY)


def load_tcm(state: Mapping[str, Tensor]) -> tuple[TCM, np.ndarray]:
    """The network with the weights of a state dict, and its scale table, float64 (rows,).

    Raises:
        ZooError: weights that are not those of such a network.
    """

    def build(shapes: Shapes) -> TCM:
        config = TCMConfig.of(shapes)
        if config.stride > _MOST_FOLDS * HYPER_STRIDE:
            raise ValueError(f"windows that are whole on multiples of {config.stride} pixels alone")
        return TCM(config)

    return rebuilt("TCM", state, _FOLLOWS, build)


class FoldedAnalysis(nn.Module):
    """`h_a`: (N, M, H, W) latents to `z` minus its medians, (N, fold²·Nz, h, w)."""

    medians: Tensor

    def __init__(self, model: TCM, fold: int) -> None:
        super().__init__()
        self.h_a, self.fold = model.h_a, nn.PixelUnshuffle(fold)
        self.register_buffer("medians", model.medians().detach().clone())

    def forward(self, y: Tensor) -> Tensor:
        return self.fold(self.h_a(y) - self.medians)


class _Examples:
    """Inputs of the graphs at any size, plausible and always new."""

    def __init__(self, config: TCMConfig) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.ones = torch.ones(1, config.latent, 1, 1)
        self.stride = config.stride
        self.ratio = config.stride // LATENT_STRIDE
        self.channels = {"z": config.hyper * (config.stride // HYPER_STRIDE) ** 2}
        self.latent = config.latent

    def image(self, h: int, w: int, n: int) -> tuple[Tensor, ...]:
        shape = (n, h * self.stride, w * self.stride, 3)
        return torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8), self.ones

    def of(self, names: tuple[str, ...]) -> Callable[[int, int, int], tuple[Tensor, ...]]:
        """Examples of inputs of these names."""

        def example(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            given: list[Tensor] = []
            for name in names:
                if name == "inverse_gain":
                    given.append(self.ones)
                    continue
                ratio = 1 if name == "z" else self.ratio
                shape = (n, self.channels.get(name, self.latent), h * ratio, w * ratio)
                drawn = torch.randn(*shape, generator=self.generator)
                given.append(torch.round(2 * drawn) if name in ("z", "y_hat") else drawn)
            return tuple(given)

        return example

    def dynamic(self, names: tuple[str, ...]) -> tuple[dict[int, str], ...]:
        coarse, fine = {0: "n", 2: "h", 3: "w"}, {0: "n", 2: f"{self.ratio}h", 3: f"{self.ratio}w"}
        return tuple({"z": coarse, "inverse_gain": {}}.get(name, fine) for name in names)


def _entropy_graphs(model: TCM, index: ScaleIndex, examples: _Examples) -> tuple[dict[str, GraphSource], Schedule]:
    """`h_s` and the graphs of all stages, and their schedule."""
    graphs: dict[str, GraphSource] = {}
    like: dict[type[nn.Module], str] = {}

    def add(name: str, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        example = examples.of(inputs)
        made = module(*example(1, 1, 1))
        least = min(tolerance_of(o) for o in ((made,) if isinstance(made, Tensor) else made))
        first = like.setdefault(type(module), name)
        of = None if first == name else first
        graphs[name] = GraphSource(module, inputs, outputs, example, examples.dynamic(inputs), least, of)

    fold, stages, size = model.config.stride // HYPER_STRIDE, [], model.config.slice
    hyper = ("hyper_scale", "hyper_mean")
    add("h_s", HyperParameters(model, fold), ("z",), hyper)
    for i in range(model.config.slices):
        stage, after, context = f"stage{i:02}", f"lrp{i:02}", f"support{i:02}"
        examples.channels[context] = model.config.hidden[0]
        add(stage, model.stage(i, index), (*(("y_hat",) if i else ()), *hyper), ("index", "mean", context))
        add(after, model.residual(i), ("y_hat", context), ("lrp",))
        stages.append(Stage(stage, (i * size, (i + 1) * size), ALL, after))
    schedule = Schedule(BAND_BITS, BLOCK, tuple(stages))
    schedule.check(model.config.latent)
    return graphs, schedule


def _transform_graphs(model: TCM, examples: _Examples) -> dict[str, GraphSource]:
    """`g_a`, `h_a` and `g_s`; those of `model` are lowered in place."""
    stride, fold = model.config.stride, model.config.stride // HYPER_STRIDE
    g_a = AnalysisGraph(lower_inside(model.g_a), None)
    h_a = FoldedAnalysis(model, fold)
    g_s = SynthesisGraph(lower_inside(model.g_s), None)
    pixels = {0: "n", 1: f"{stride}h", 2: f"{stride}w"}
    latent, both = examples.of(("y_hat",)), ("y_hat", "inverse_gain")
    of_pixels, of_latents = tolerance_of(g_a(*examples.image(1, 1, 1))), tolerance_of(h_a(*latent(1, 1, 1)))
    return {
        "g_a": GraphSource(g_a, ("image", "gain"), ("y",), examples.image, (pixels, {}), of_pixels),
        "h_a": GraphSource(h_a, ("y",), ("z",), latent, examples.dynamic(("y_hat",)), of_latents),
        "g_s": GraphSource(g_s, both, ("image",), examples.of(both), examples.dynamic(both), 1.0),
    }


def _kmac_per_pixel(model: TCM, side: int) -> dict[str, float]:
    """As `rebuilt.kmac_per_pixel`, on a picture of `side` pixels a side."""
    x = torch.zeros(1, 3, side, side)
    y, z = (torch.zeros(1, n, side // s, side // s) for n, s in ((model.config.latent, 16), (model.config.hyper, 64)))
    h_s = model.hyper_synthesis()
    runs = {
        "g_a": (model.g_a, lambda: model.g_a(x)),
        "h_a": (model.h_a, lambda: model.h_a(y)),
        "h_s": (h_s, lambda: h_s(z)),
        "g_s": (model.g_s, lambda: model.g_s(y)),
    }
    return kmac_per_pixel(model, runs, lambda: model.encode(x), side**2)


@torch.no_grad()
def tcm_source(model: TCM, scales: np.ndarray) -> Source:
    """A network as a `Source`: one quality, one view, every symbol coded.

    Args:
        model: in evaluation mode; its transforms are lowered in place.
        scales: float64 (rows,), the scale table.
    """
    c, fold = model.config, model.config.stride // HYPER_STRIDE
    facts = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "kmac_per_pixel": _kmac_per_pixel(model, c.stride),
        "window": c.stride,
    }
    medians, examples = model.medians().detach().clone(), _Examples(c)
    entropy, schedule = _entropy_graphs(model, ScaleIndex(scales), examples)
    of_channel = integer_probabilities(cast(nn.Module, model.entropy_bottleneck), medians[:, 0, 0], REACHES[3])
    probabilities, limit = np.repeat(of_channel, fold**2, 0), of_channel.shape[1] // 2
    graphs = {**_transform_graphs(model, examples), **entropy}
    context_digest = digest(nn.ModuleDict({name: graph.module for name, graph in entropy.items()}))
    for name in ("h_a", "h_s"):  # after the digest, which is of the weights as they are saved
        lower_inside(graphs[name].module)

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        z = torch.round(graphs["h_a"].module(model.g_a(image[None])))
        return z.clamp(-limit, limit).numpy().astype(np.int32)

    return Source(
        architecture=NAME,
        stride=c.stride,
        latent_stride=LATENT_STRIDE,
        latent_channels=c.latent,
        hyper_channels=len(probabilities),
        qualities=1,
        graphs=graphs,
        hyper_synthesis=None,
        scales=scales,
        z_probabilities=probabilities,
        gain=np.ones((1, c.latent)),
        inverse_gain=np.ones((1, c.latent)),
        conditions={},
        context=None,
        context_digest=context_digest,
        analyse=analyse,
        model=facts,
        skip_below=0.0,
        table_tail=TABLE_TAIL,
        table_floor=TABLE_FLOOR,
        schedule=schedule,
    )
