"""MLIC++ and UG-ICM's published network as a `Source` with a schedule.

Medians stay out of the bitstream, as for CompressAI's models. A slice of `y` takes two stages, anchors where row +
column is odd, then the others; each is followed by its latent residual prediction where the network has one.
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
    HyperAnalysisGraph,
    SynthesisGraph,
    integer_probabilities,
    tolerance_of,
)
from ugicm.export.lowering import lower_inside
from ugicm.export.rebuilt import kmac_per_pixel, rebuilt
from ugicm.export.source import GraphSource, ImageOutput, Source, digest
from ugicm.export.staged_source import BAND_BITS, BLOCK, ScaleIndex, even_mask
from ugicm.models.conditioning import HUMAN, MACHINE
from ugicm.models.mlic import LATENT_STRIDE, MLIC, STRIDE, MLICConfig
from ugicm.models.mlic_contexts import EVEN, ODD
from ugicm.runtime.schedule import Schedule, Stage

MLICPP, UGICM_MLICPP = "mlicpp", "ugicm-mlicpp"
_KNOWN_BY = "channel_context.1.fushion.0.weight"
_CONDITIONAL_BY = "global_cond.beta_mlp.fc1.weight"
_RATIO = STRIDE // LATENT_STRIDE
_FOLLOWS = (".relative_position_index", "._offset", "._quantized_cdf", "._cdf_length", ".scale_table")
"""Keys that repeat others, or the scale table."""
_HALVES = {ODD: ("anchor", "odd"), EVEN: ("nonanchor", "even")}
_MACS_SIDE = 256
_INDEX_TOLERANCE = 1e-2
"""Rows: at the foot of the table an index moves by 150 times what its scale moves. Export measures the band apart."""


def architecture_of_mlic(state: Mapping[str, Tensor]) -> str | None:
    """The name of the network that a state dict is of; None for something else."""
    if _KNOWN_BY not in state:
        return None
    return UGICM_MLICPP if _CONDITIONAL_BY in state else MLICPP


def load_mlic(state: Mapping[str, Tensor]) -> tuple[MLIC, np.ndarray]:
    """The network with the weights of a state dict, and its scale table, float64 (rows,).

    Raises:
        ZooError: weights that are not those of such a network.
    """
    return rebuilt("MLIC++", state, _FOLLOWS, lambda shapes: MLIC(MLICConfig.of(shapes)))


class ConditionalSynthesisGraph(nn.Module):
    """A conditional `g_s`. The inverse gain is 1."""

    def __init__(self, model: MLIC) -> None:
        super().__init__()
        self.g_s = model.g_s
        self.output = ImageOutput()

    def forward(self, y_hat: Tensor, inverse_gain: Tensor, condition: Tensor) -> Tensor:
        return self.output(self.g_s(y_hat * inverse_gain, condition))


class ConditionGraph(nn.Module):
    """A beta in [0, 1] to the condition's vectors."""

    def __init__(self, model: MLIC) -> None:
        super().__init__()
        self.embedding = model.global_cond
        self.projections = nn.ModuleList(model.g_s.projections())

    def forward(self, beta: Tensor) -> Tensor:
        embedding = self.embedding(beta)
        return torch.cat([projection(embedding) for projection in self.projections], 1)


class _Examples:
    """Inputs of the graphs at any size, plausible and always new."""

    def __init__(self, model: MLIC) -> None:
        self.config = model.config
        self.generator = torch.Generator().manual_seed(7)
        self.ones = torch.ones(1, self.config.latent, 1, 1)
        self.channels = {
            "hyper_odd": 2 * self.config.latent,
            "hyper_even": 2 * self.config.latent,
            "hyper_mean": self.config.latent,
        }

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def image(self, h: int, w: int, n: int) -> tuple[Tensor, ...]:
        shape = (n, h * STRIDE, w * STRIDE, 3)
        return torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8), self.ones

    def of(self, names: tuple[str, ...]) -> Callable[[int, int, int], tuple[Tensor, ...]]:
        """Examples of inputs of these names."""

        def example(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            height, width = h * _RATIO, w * _RATIO
            given = []
            for name in names:
                if name == "even":
                    given.append(even_mask(height, width))
                elif name == "y_hat":
                    given.append(2 * self.normal(n, self.config.latent, height, width))
                elif name == "z":
                    given.append(torch.round(2 * self.normal(n, self.config.width, h, w)))
                elif name == "hyper_mean":
                    given.append(self.normal(n, self.config.latent, height, width))
                else:
                    channels = self.channels.get(name, 6 * self.config.slice)
                    given.append(self.normal(n, channels, height, width // 2))
            return tuple(given)

        return example


def _dynamic(names: tuple[str, ...]) -> tuple[dict[int, str], ...]:
    axes = {
        "z": {0: "n", 2: "h", 3: "w"},
        "even": {2: f"{_RATIO}h", 3: f"{_RATIO}w"},
        "y_hat": {0: "n", 2: f"{_RATIO}h", 3: f"{_RATIO}w"},
        "hyper_mean": {0: "n", 2: f"{_RATIO}h", 3: f"{_RATIO}w"},
    }
    return tuple(axes.get(name, {0: "n", 2: f"{_RATIO}h", 3: f"{_RATIO // 2}w"}) for name in names)


def _entropy_graphs(model: MLIC, index: ScaleIndex, examples: _Examples) -> tuple[dict[str, GraphSource], Schedule]:
    """`h_s` and the graphs of all stages, and their schedule."""
    graphs: dict[str, GraphSource] = {}
    like: dict[type[nn.Module], str] = {}

    def add(name: str, module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        example = examples.of(inputs)
        made = module(*example(1, 1, 1))
        least = min(tolerance_of(o) for o in ((made,) if isinstance(made, Tensor) else made))
        if "index" in outputs:
            least = max(least, _INDEX_TOLERANCE)
        graphs[name] = GraphSource(module, inputs, outputs, example, _dynamic(inputs), least, like.get(type(module)))
        like.setdefault(type(module), name)

    add("h_s", model.hyper_synthesis(), ("z",), ("hyper_odd", "hyper_even", "hyper_mean"))
    stages, size = [], model.config.slice
    for i in range(model.config.slices):
        kept = (f"context{i:02}",) if i else ()
        decoded = ("y_hat",) if i else ()
        inputs = {ODD: (*decoded, "hyper_odd"), EVEN: ("y_hat", "even", "hyper_even", *kept)}
        outputs = {ODD: ("index", "mean", *kept), EVEN: ("index", "mean")}
        for parity, (half, positions) in _HALVES.items():
            stage = f"stage{i:02}_{half}"
            add(stage, (model.anchors if parity == ODD else model.others)(i, index), inputs[parity], outputs[parity])
            after = None
            if model.config.residual:
                after = f"lrp{i:02}_{half}"
                add(after, model.residual(i, parity), ("hyper_mean", "y_hat"), ("lrp",))
            stages.append(Stage(stage, (i * size, (i + 1) * size), positions, after))
    schedule = Schedule(BAND_BITS, BLOCK, tuple(stages))
    schedule.check(model.config.latent)
    return graphs, schedule


def _transform_graphs(model: MLIC, examples: _Examples) -> dict[str, GraphSource]:
    c = model.config
    pixels = {0: "n", 1: f"{STRIDE}h", 2: f"{STRIDE}w"}
    latents = _dynamic(("y_hat",))[0]
    g_a = AnalysisGraph(model.g_a.analysis_transform, None)
    h_a = HyperAnalysisGraph(model.h_a.reduction, model.medians().detach().clone(), magnitudes=False)
    y = examples.of(("y_hat",))
    graphs = {
        "g_a": GraphSource(
            g_a, ("image", "gain"), ("y",), examples.image, (pixels, {}), tolerance_of(g_a(*examples.image(1, 1, 1)))
        ),
        "h_a": GraphSource(h_a, ("y",), ("z",), y, (latents,), tolerance_of(h_a(*y(1, 1, 1)))),
    }
    if not c.preference:
        graphs["g_s"] = GraphSource(
            SynthesisGraph(model.g_s.synthesis_transform, None),
            ("y_hat", "inverse_gain"),
            ("image",),
            lambda h, w, n: (*y(h, w, n), examples.ones),
            (latents, {}),
            1.0,
        )
        return graphs
    graphs["g_s"] = GraphSource(
        ConditionalSynthesisGraph(model),
        ("y_hat", "inverse_gain", "condition"),
        ("image",),
        lambda h, w, n: (*y(h, w, n), examples.ones, examples.normal(n, sum(model.g_s.widths)) * 0.1),
        (latents, {}, {0: "n"}),
        1.0,
    )
    beta = torch.full((1,), 0.3)
    graphs["condition"] = GraphSource(
        ConditionGraph(model), ("beta",), ("condition",), lambda h, w, n: (beta,), ({},), 1e-4
    )
    return graphs


def _kmac_per_pixel(model: MLIC) -> dict[str, float]:
    """As `rebuilt.kmac_per_pixel`."""
    x = torch.zeros(1, 3, _MACS_SIDE, _MACS_SIDE)
    y = torch.zeros(1, model.config.latent, _MACS_SIDE // LATENT_STRIDE, _MACS_SIDE // LATENT_STRIDE)
    z = torch.zeros(1, model.config.width, _MACS_SIDE // STRIDE, _MACS_SIDE // STRIDE)
    vectors = torch.zeros(1, sum(model.g_s.widths)) if model.config.preference else None
    runs = {
        "g_a": (model.g_a, lambda: model.g_a(x)),
        "h_a": (model.h_a, lambda: model.h_a(y)),
        "h_s": (model.h_s, lambda: model.h_s(z)),
        "g_s": (model.g_s, lambda: model.g_s(y, vectors)),
    }
    return kmac_per_pixel(model, runs, lambda: model.encode(x), _MACS_SIDE**2)


@torch.no_grad()
def mlic_source(model: MLIC, scales: np.ndarray) -> Source:
    """A network as a `Source`: one quality, every symbol coded, two views where its synthesis is conditional.

    Args:
        model: in evaluation mode; its transforms are lowered in place.
        scales: float64 (rows,), the scale table.
    """
    kmac, parameters = _kmac_per_pixel(model), sum(p.numel() for p in model.parameters())
    lower_inside(model.g_a)
    lower_inside(model.g_s)
    c, medians = model.config, model.medians().detach().clone()
    examples = _Examples(model)
    entropy, schedule = _entropy_graphs(model, ScaleIndex(scales), examples)
    probabilities = integer_probabilities(cast(nn.Module, model.entropy_bottleneck), medians[:, 0, 0], REACHES[3])
    limit = probabilities.shape[1] // 2

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        z = torch.round(model.h_a(model.g_a(image[None])) - medians)
        return z.clamp(-limit, limit).numpy().astype(np.int32)

    betas = {"human": HUMAN, "machine": MACHINE} if c.preference else {}
    return Source(
        architecture=UGICM_MLICPP if c.preference else MLICPP,
        stride=STRIDE,
        latent_stride=LATENT_STRIDE,
        latent_channels=c.latent,
        hyper_channels=c.width,
        qualities=1,
        graphs={**_transform_graphs(model, examples), **entropy},
        hyper_synthesis=None,
        scales=scales,
        z_probabilities=probabilities,
        gain=np.ones((1, c.latent)),
        inverse_gain=np.ones((1, c.latent)),
        conditions={k: (beta, model.condition(torch.tensor([beta]))[0].numpy()) for k, beta in betas.items()},
        context=None,
        context_digest=digest(nn.ModuleDict({name: graph.module for name, graph in entropy.items()})),
        analyse=analyse,
        model={"parameters": parameters, "kmac_per_pixel": kmac},
        skip_below=0.0,
        table_tail=TABLE_TAIL,
        table_floor=TABLE_FLOOR,
        schedule=schedule,
    )
