"""The common part of CompressAI's codecs with context: example inputs, transforms as graphs and their costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
from ugicm.export.lowering import lower_inside, short_sums_inside
from ugicm.export.source import GraphSource, Source, digest
from ugicm.models.macs import count_macs
from ugicm.runtime.schedule import Schedule

RATIO = HYPER_STRIDE // LATENT_STRIDE
MACS_SIDE = 256


@dataclass(frozen=True)
class Hyperprior:
    """The networks of a model that make `z` and read it."""

    h_a: nn.Module
    h_s: nn.Module
    bottleneck: Any

    @property
    def centres(self) -> Tensor:
        """(Nz,) the medians of `z`."""
        centres: Tensor = self.bottleneck.quantiles[:, 0, 1].detach().clone()
        return centres

    @property
    def medians(self) -> Tensor:
        """(Nz, 1, 1)."""
        return self.centres[:, None, None]


@dataclass(frozen=True)
class Variable:
    """What a variable-rate model has beside the networks of one rate.

    Attributes:
        gains: (qualities,) of `y`.
        h_a: (y with its gain, gain) to centred `z`.
        z_probabilities: a row for each channel of `z`, or for each at each quality, one quality after another.
    """

    gains: np.ndarray
    h_a: nn.Module
    z_probabilities: np.ndarray


class Examples:
    """Inputs of the graphs at any size, plausible and always new.

    Args:
        channels: of each input but `image`, by name; those called "context…" are half as wide as the latents.
    """

    def __init__(self, channels: dict[str, int]) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.channels = channels
        self.ones = self.gain = torch.ones(1, channels["y_hat"], 1, 1)

    def image(self, h: int, w: int, n: int) -> tuple[Tensor, ...]:
        shape = (n, h * HYPER_STRIDE, w * HYPER_STRIDE, 3)
        return torch.randint(0, 256, shape, generator=self.generator, dtype=torch.uint8), self.ones

    def of(self, names: tuple[str, ...]) -> Callable[[int, int, int], tuple[Tensor, ...]]:
        """Examples of inputs of these names."""

        def example(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            given = []
            for name in names:
                if name in ("inverse_gain", "gain"):
                    given.append(self.ones if name == "inverse_gain" else self.gain)
                    continue
                ratio = 1 if name == "z" else RATIO
                width = w * ratio // (2 if name.startswith("context") else 1)
                drawn = torch.randn(n, self.channels[name], h * ratio, width, generator=self.generator)
                drawn = torch.abs(drawn) if name == "deviation" else drawn
                given.append(torch.round(2 * drawn) if name in ("z", "y_hat") else drawn)
            return tuple(given)

        return example

    @staticmethod
    def dynamic(names: tuple[str, ...]) -> tuple[dict[int, str], ...]:
        axes: dict[str, dict[int, str]] = {"z": {0: "n", 2: "h", 3: "w"}, "inverse_gain": {}, "gain": {}}
        latents = {0: "n", 2: f"{RATIO}h", 3: f"{RATIO}w"}
        halves = {0: "n", 2: f"{RATIO}h", 3: f"{RATIO // 2}w"}
        return tuple(axes.get(name, halves if name.startswith("context") else latents) for name in names)


def transform_graphs(
    model: Any, hyper: Hyperprior, examples: Examples, variable: Variable | None
) -> dict[str, GraphSource]:
    """`g_a`, `h_a` and `g_s`; those of `model` are lowered in place."""
    g_a, g_s = AnalysisGraph(lower_inside(model.g_a), None), SynthesisGraph(lower_inside(model.g_s), None)
    h_a = variable.h_a if variable else HyperAnalysisGraph(hyper.h_a, hyper.medians, magnitudes=False)
    read = ("y", "gain") if variable else ("y",)
    pixels = {0: "n", 1: f"{HYPER_STRIDE}h", 2: f"{HYPER_STRIDE}w"}
    latent, both = examples.of(("y_hat", "gain")[: len(read)]), ("y_hat", "inverse_gain")
    latents = examples.dynamic(("y_hat", "gain")[: len(read)])
    of_pixels, of_latents = tolerance_of(g_a(*examples.image(1, 1, 1))), tolerance_of(h_a(*latent(1, 1, 1)))
    return {
        "g_a": GraphSource(g_a, ("image", "gain"), ("y",), examples.image, (pixels, {}), of_pixels),
        "h_a": GraphSource(h_a, read, ("z",), latent, latents, of_latents),
        "g_s": GraphSource(g_s, both, ("image",), examples.of(both), examples.dynamic(both), 1.0),
    }


def kmac_of_transforms(model: Any, hyper: Hyperprior, latent: int) -> dict[str, float]:
    """kMAC/pixel of the transforms, as CompressAI computes them."""
    x = torch.zeros(1, 3, MACS_SIDE, MACS_SIDE)
    y = torch.zeros(1, latent, MACS_SIDE // LATENT_STRIDE, MACS_SIDE // LATENT_STRIDE)
    z = torch.zeros(1, hyper.bottleneck.channels, MACS_SIDE // HYPER_STRIDE, MACS_SIDE // HYPER_STRIDE)
    runs = {"g_a": (model.g_a, x), "h_a": (hyper.h_a, y), "h_s": (hyper.h_s, z), "g_s": (model.g_s, y)}
    return {k: count_macs(m, lambda m=m, v=v: m(v)) / MACS_SIDE**2 / 1000 for k, (m, v) in runs.items()}  # type: ignore[misc]


def kmac_of_stages(graphs: dict[str, GraphSource], schedule: Schedule) -> float:
    """kMAC/pixel of all stages, as their graphs compute them."""
    side = MACS_SIDE // HYPER_STRIDE
    stages = [graphs[name] for name in schedule.graphs]
    return sum(count_macs(g.module, lambda g=g: g.module(*g.example(side, side, 1))) for g in stages) / (  # type: ignore[misc]
        MACS_SIDE**2 * 1000
    )


@torch.no_grad()
def staged_source(
    zoo: ZooModel,
    hyper: Hyperprior,
    latent: int,
    entropy_graphs: Callable[[Examples], tuple[dict[str, GraphSource], Schedule]],
    variable: Variable | None = None,
) -> Source:
    """A model whose `y` is coded in stages as a `Source`: one view, every symbol coded; one quality unless variable.

    Args:
        zoo: its transforms are lowered in place.
        hyper: its hyperprior.
        latent: channels of `y`.
        entropy_graphs: makes `h_s`, the graphs of all stages and the schedule.
        variable: of a variable-rate model.
    """
    model = cast(Any, zoo.module)
    parameters = sum(p.numel() for p in model.parameters())
    width, medians = hyper.bottleneck.channels, hyper.medians
    kmac = kmac_of_transforms(model, hyper, latent)
    probabilities = (
        variable.z_probabilities if variable else integer_probabilities(hyper.bottleneck, hyper.centres, REACHES[3])
    )
    gains = variable.gains[:, None] * np.ones(latent) if variable else np.ones((1, latent))
    limit = probabilities.shape[1] // 2
    examples = Examples({"z": width, "y_hat": latent})
    entropy, schedule = entropy_graphs(examples)
    kmac["stages"] = kmac_of_stages(entropy, schedule)
    kmac["encode"] = sum(v for k, v in kmac.items() if k != "g_s")
    kmac["decode"] = kmac["h_s"] + kmac["stages"] + kmac["g_s"]
    context_digest = digest(nn.ModuleDict({name: graph.module for name, graph in entropy.items()}))
    short_sums_inside(entropy["h_s"].module)  # after the digest, which is of the weights as they are saved

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        y = model.g_a(image[None])
        gain = torch.from_numpy(gains[quality]).float()[None, :, None, None]
        z = torch.round(variable.h_a(y * gain, gain) if variable else hyper.h_a(y) - medians)
        return z.clamp(-limit, limit).numpy().astype(np.int32)

    built = f"built from its weights and the standard {len(zoo.scales)} scales"
    return Source(
        architecture=zoo.architecture,
        stride=HYPER_STRIDE,
        latent_stride=LATENT_STRIDE,
        latent_channels=latent,
        hyper_channels=width,
        qualities=len(gains),
        graphs={**transform_graphs(model, hyper, examples, variable), **entropy},
        hyper_synthesis=None,
        scales=zoo.scales,
        z_probabilities=probabilities,
        gain=gains,
        inverse_gain=1 / gains,
        conditions={},
        context=None,
        context_digest=context_digest,
        analyse=analyse,
        model={"parameters": parameters, "kmac_per_pixel": {k: round(v, 3) for k, v in kmac.items()}},
        skip_below=0.0,
        table_tail=TABLE_TAIL,
        table_floor=TABLE_FLOOR,
        notes=() if zoo.updated else (f"its entropy tables were not updated: {built}",),
        schedule=schedule,
    )
