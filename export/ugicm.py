"""UG-ICM's networks as a `Source`."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.float_layers import float_layers
from ugicm.export.lowering import lower, lower_one
from ugicm.export.source import GraphSource, HyperSynthesis, ImageInput, ImageOutput, Source, digest
from ugicm.models import bmshj2018, fast
from ugicm.models.conditioning import HUMAN, MACHINE
from ugicm.models.entropy import LOG_STEP, SCALE_MIN, SCALE_ROWS, bottleneck_probabilities
from ugicm.models.macs import kmac_per_pixel
from ugicm.models.ugicm import LATENT_STRIDE, STRIDE, UGICM, checkerboard
from ugicm.runtime.effort.search import LARGER

Z_REACH = 127
IMAGE_IN = {0: "n", 1: "64h", 2: "64w"}
LATENT = {0: "n", 2: "4h", 3: "4w"}


class EntryGraph(nn.Module):
    """The entry of a larger `g_a`."""

    def __init__(self, entry: nn.Module) -> None:
        super().__init__()
        assert isinstance(entry, fast.Entry)
        self.plain, self.quarter = lower(entry.plain), lower(entry.quarter)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + self.quarter(x)


class AnalysisGraph(nn.Module):
    """`g_a` with the gain."""

    def __init__(self, model: UGICM) -> None:
        super().__init__()
        self.input = ImageInput()
        layers = list(cast(nn.Sequential, model.g_a))
        entry = [EntryGraph(layers.pop(0))] if isinstance(layers[0], fast.Entry) else []
        self.g_a = nn.Sequential(*entry, *lower(layers))

    def forward(self, image: Tensor, gain: Tensor) -> Tensor:
        return self.g_a(self.input(image)) * gain


class HyperAnalysisGraph(nn.Module):
    """`h_a`."""

    def __init__(self, model: UGICM) -> None:
        super().__init__()
        layers = model.h_a.layers if isinstance(model.h_a, bmshj2018.HyperAnalysis) else model.h_a
        self.magnitudes = isinstance(model.h_a, bmshj2018.HyperAnalysis)
        self.h_a = lower(cast(nn.Sequential, layers))

    def forward(self, y: Tensor) -> Tensor:
        return self.h_a(torch.abs(y) if self.magnitudes else y)


class ContextGraph(nn.Module):
    """Symbols and means to `y_hat`: anchors from the hyper-synthesis' means, the others from refined ones.

    Where the symbols of the others are 0, their `y_hat` is their refined mean: so the encoder uses it too.
    """

    def __init__(self, context: fast.Context) -> None:
        super().__init__()
        self.context = context

    def forward(self, symbols: Tensor, mean: Tensor, anchor: Tensor) -> Tensor:
        estimate = mean + symbols * anchor
        return estimate + (self.context.change(estimate) + symbols) * (1 - anchor)


class TrunkGraph(nn.Module):
    """The part of `g_s` that all views share, with the inverse gain."""

    def __init__(self, g_s: fast.Synthesis) -> None:
        super().__init__()
        self.g_s = g_s.trunk

    def forward(self, y_hat: Tensor, inverse_gain: Tensor) -> Tensor:
        return self.g_s(y_hat * inverse_gain)


class HeadGraph(nn.Module):
    """The conditioned part of `g_s`."""

    def __init__(self, model: UGICM) -> None:
        super().__init__()
        self.g_s = cast(fast.Synthesis, model.g_s)
        self.split = model.preference.split
        self.output = ImageOutput()

    def forward(self, features: Tensor, condition: Tensor) -> Tensor:
        return self.output(self.g_s.head(features, self.split(condition)))


class SynthesisGraph(nn.Module):
    """The whole of a `g_s` that is conditioned from its first layer on."""

    def __init__(self, model: UGICM) -> None:
        super().__init__()
        self.g_s = cast(bmshj2018.Synthesis, model.g_s)
        self.ups = nn.ModuleList(lower_one(up) for up in self.g_s.ups)
        self.norms = nn.ModuleList(lower_one(norm) for norm in self.g_s.norms)
        self.split = model.preference.split
        self.output = ImageOutput()

    def forward(self, y_hat: Tensor, inverse_gain: Tensor, condition: Tensor) -> Tensor:
        x, vectors = y_hat * inverse_gain, self.split(condition)
        for i, (block, up) in enumerate(zip(self.g_s.blocks, self.ups, strict=True)):
            x = up(block(x, vectors[2 * i], vectors[2 * i + 1]))
            if i < len(self.norms):
                x = self.norms[i](x)
        return self.output(x)


class ConditionGraph(nn.Module):
    """A beta in [0, 1] to the condition's vectors."""

    def __init__(self, model: UGICM) -> None:
        super().__init__()
        self.preference = model.preference

    def forward(self, beta: Tensor) -> Tensor:
        return self.preference(beta)


def _graphs(model: UGICM) -> dict[str, GraphSource]:
    c = model.config.widths
    generator = torch.Generator().manual_seed(7)

    def image(h: int, w: int, n: int) -> Tensor:
        return torch.randint(0, 256, (n, h * STRIDE, w * STRIDE, 3), generator=generator, dtype=torch.uint8)

    def latent(h: int, w: int, n: int) -> Tensor:
        scale = STRIDE // LATENT_STRIDE
        return torch.round(torch.randn(n, c.latent, h * scale, w * scale, generator=generator) * 2)

    def board(h: int, w: int) -> Tensor:
        return checkerboard(h * STRIDE // LATENT_STRIDE, w * STRIDE // LATENT_STRIDE)

    ones = torch.ones(1, c.latent, 1, 1)
    inverse = torch.exp(model.log_inverse_gain.detach()[-1])[None, :, None, None]

    def vectors(n: int) -> Tensor:
        return torch.randn(n, sum(model.g_s.widths), generator=generator) * 0.1

    graphs = {
        "g_a": GraphSource(
            AnalysisGraph(model),
            ("image", "gain"),
            ("y",),
            lambda h, w, n: (image(h, w, n), ones),
            (IMAGE_IN, {}),
            1e-3,
        ),
        "h_a": GraphSource(
            HyperAnalysisGraph(model), ("y",), ("z",), lambda h, w, n: (latent(h, w, n),), (LATENT,), 1e-3
        ),
        "condition": GraphSource(
            ConditionGraph(model),
            ("beta",),
            ("condition",),
            lambda h, w, n: (torch.full((1,), 0.3),),
            ({},),
            1e-4,
        ),
    }
    if model.context is not None:
        graphs["context"] = GraphSource(
            ContextGraph(cast(fast.Context, model.context)),
            ("symbols", "mean", "anchor"),
            ("y_hat",),
            lambda h, w, n: (latent(h, w, n), latent(h, w, n) / 3, board(h, w)),
            (LATENT, LATENT, {2: "4h", 3: "4w"}),
            1e-3,
        )
    if isinstance(model.g_s, fast.Synthesis):
        trunk = TrunkGraph(model.g_s)
        graphs["g_s_trunk"] = GraphSource(
            trunk,
            ("y_hat", "inverse_gain"),
            ("features",),
            lambda h, w, n: (latent(h, w, n), inverse),
            (LATENT, {}),
            1e-3,
        )
        graphs["g_s"] = GraphSource(
            HeadGraph(model),
            ("features", "condition"),
            ("image",),
            lambda h, w, n: (trunk(latent(h, w, n), inverse), vectors(n)),
            ({0: "n", 2: "8h", 3: "8w"}, {0: "n"}),
            1.0,
        )
    else:
        graphs["g_s"] = GraphSource(
            SynthesisGraph(model),
            ("y_hat", "inverse_gain", "condition"),
            ("image",),
            lambda h, w, n: (latent(h, w, n), inverse, vectors(n)),
            (LATENT, {}, {0: "n"}),
            1.0,
        )
    return graphs


@torch.no_grad()
def with_analysis(source: Source, model: UGICM, larger: UGICM) -> Source:
    """A source with the `g_a` of a model that differs from the source's in nothing else, as graph "g_a.effort".

    Raises:
        ValueError: it differs in something else, whose files would be another codec's.
    """
    own, other = ({k: v for k, v in m.state_dict().items() if not k.startswith("g_a.")} for m in (model, larger))
    differing = [k for k in own | other if k not in own or k not in other or not torch.equal(own[k], other[k])]
    if differing:
        raise ValueError(f"differs from the codec in more than g_a ({differing[0]})")
    plain = source.graphs["g_a"]
    counts = {**source.model["kmac_per_pixel"], LARGER: round(kmac_per_pixel(larger)["g_a"], 1)}
    return replace(
        source,
        graphs={**source.graphs, LARGER: replace(plain, module=AnalysisGraph(larger.eval()))},
        model={**source.model, "kmac_per_pixel": counts},
    )


@torch.no_grad()
def ugicm_source(model: UGICM) -> Source:
    """A UG-ICM model of either backbone as a `Source`."""
    model.eval()
    c = model.config.widths
    h_s = model.h_s.layers if isinstance(model.h_s, bmshj2018.HyperSynthesis) else model.h_s
    head: Literal["row", "linear"] = "linear" if isinstance(model.h_s, bmshj2018.HyperSynthesis) else "row"

    def analyse(image: Tensor, quality: int) -> np.ndarray:
        y = model.analyse(image[None], torch.tensor([quality]))
        return torch.round(model.h_a(y)).clamp(-Z_REACH, Z_REACH).numpy().astype(np.int32)

    mixture = model.latent_model.double().components(torch.arange(SCALE_ROWS, dtype=torch.float64))
    model.latent_model.float()
    betas = {"human": HUMAN, "machine": MACHINE}
    vectors = {name: model.preference(torch.tensor([beta]))[0].numpy() for name, beta in betas.items()}
    return Source(
        architecture=f"ugicm-{model.config.backbone}",
        stride=STRIDE,
        latent_stride=LATENT_STRIDE,
        latent_channels=c.latent,
        hyper_channels=c.hyper,
        qualities=model.config.qualities,
        graphs=_graphs(model),
        hyper_synthesis=HyperSynthesis(
            float_layers(cast(nn.Sequential, h_s)), head, medians=None, has_means=model.has_means
        ),
        scales=SCALE_MIN * np.exp(LOG_STEP * np.arange(SCALE_ROWS)),
        shares=np.stack([share.numpy() for share, _ in mixture], 1),
        widths=np.stack([width.numpy() for _, width in mixture], 1),
        z_probabilities=bottleneck_probabilities(model.bottleneck, Z_REACH).numpy(),
        gain=torch.exp(model.log_gain).numpy(),
        inverse_gain=torch.exp(model.log_inverse_gain).numpy(),
        conditions={name: (beta, vectors[name]) for name, beta in betas.items()},
        context="checkerboard" if model.context is not None else None,
        context_digest=digest(model.context) if model.context is not None else "",
        analyse=analyse,
        model={
            "parameters": sum(p.numel() for p in model.parameters()),
            "kmac_per_pixel": {k: round(v, 3) for k, v in kmac_per_pixel(model).items()},
        },
    )
