"""MLIC++ and UG-ICM's published network, which is MLIC++ with a conditional synthesis, under their parameters' names.

MLIC++: Jiang et al. 2023, arXiv 2307.15421; transforms of residual blocks, `y` in slices with the contexts of
`ugicm.models.mlic_contexts`. UG-ICM conditions the synthesis on the preference beta: each residual block adds a
projected vector after each of its two activations.

Decoding goes in the stages of `ugicm.models.mlic_stages`, which encoding runs too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ugicm.models.conditioning import FREQUENCIES
from ugicm.models.entropy import entropy_bottleneck, gdn
from ugicm.models.mlic_contexts import (
    EVEN,
    ODD,
    ChannelContext,
    EntropyParameters,
    GlobalInterContext,
    GlobalIntraContext,
    LatentResidual,
    LocalContext,
    convolutions,
    side_of_window,
)
from ugicm.models.mlic_stages import Anchors, FirstAnchors, FirstOthers, HyperParameters, Others, Residual

STRIDE = 64
LATENT_STRIDE = 16
_WIDEST = 4096
"""Of any layer that `MLICConfig.of` believes."""


@dataclass(frozen=True)
class MLICConfig:
    """Widths of a network; the defaults are MLIC++'s as published.

    Attributes:
        width: channels inside of the transforms, and of `z`.
        latent: channels of `y`.
        slices: in how many parts the channels of `y` are decoded.
        first: channels of the first block of `g_s`.
        preference: width of the perceptron of the preference; 0 for an unconditional `g_s`.
        window, heads, local: side of a window, heads and hidden width of the local context.
        channel, parameters: hidden widths of the channel contexts and of the entropy parameters.
        residual: hidden widths of the latent residual prediction of each slice; none without it.
    """

    width: int = 192
    latent: int = 320
    slices: int = 10
    first: int = 320
    preference: int = 0
    window: int = 5
    heads: int = 2
    local: int = 128
    channel: tuple[int, ...] = (192, 128)
    parameters: tuple[int, ...] = (320, 256, 128)
    residual: tuple[tuple[int, ...], ...] = ((224, 128),) * 10

    @property
    def slice(self) -> int:
        """Channels of a slice."""
        return self.latent // self.slices

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> MLICConfig:
        """The configuration of a state dict, by its names and shapes.

        Raises:
            ValueError: they are of no such network.
        """

        def inner(prefix: str) -> tuple[int, ...]:
            """Output widths of a chain of convolutions but for its last."""
            rows = [i for i in range(0, 16, 2) if f"{prefix}.{i}.weight" in shapes]
            return tuple(shapes[f"{prefix}.{i}.weight"][0] for i in rows[:-1])

        try:
            latent, width = shapes["g_a.analysis_transform.6.weight"][:2]
            slices = sum(name.startswith("local_context.") and name.endswith(".fusion.weight") for name in shapes)
            if slices < 2 or latent % (2 * slices):
                raise ValueError(f"{latent} latent channels do not make {slices} slices")
            relations, heads = shapes["local_context.0.relative_position_table"]
            if not heads or latent // slices % heads:
                raise ValueError(f"slices of {latent // slices} channels do not make {heads} heads")
            if max(max(shape, default=0) for shape in shapes.values()) > _WIDEST:
                raise ValueError(f"a layer is wider than {_WIDEST}")
            residuals = tuple(inner(f"lrp_anchor.{i}.lrp_transform") for i in range(slices))
            return cls(
                width=width,
                latent=latent,
                slices=slices,
                first=shapes["g_s.synthesis_transform.0.conv1.weight"][0],
                preference=shapes.get("global_cond.beta_mlp.fc1.weight", (0,))[0],
                window=side_of_window(relations),
                heads=heads,
                local=shapes["local_context.0.mlp.fc1.weight"][0],
                channel=inner("channel_context.1.fushion"),
                parameters=inner("entropy_parameters_anchor.0.fusion"),
                residual=residuals if "lrp_anchor.0.lrp_transform.0.weight" in shapes else (),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from error


def older_residual(latent: int, slices: int) -> tuple[tuple[int, ...], ...]:
    """Hidden widths of the latent residual predictions of UG-ICM and of MLIC++ as it was first published."""
    widths = []
    for i in range(slices):
        inputs = latent + (i + 1) * latent // slices
        less = inputs - latent // slices
        widths.append((inputs - less // 4, inputs - less // 2, inputs - less * 3 // 4))
    return tuple(widths)


def conv3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


def grow(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution to twice the height and width."""
    return nn.Sequential(conv3(inputs, 4 * outputs), nn.PixelShuffle(2))


class ShrinkBlock(nn.Module):
    """A residual block of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3(inputs, outputs, 2), conv3(outputs, outputs)
        self.gdn = gdn(outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.gdn(self.conv2(functional.gelu(self.conv1(x)))) + self.skip(x)


class GrowBlock(nn.Module):
    """A residual block to twice the height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.subpel_conv, self.conv = grow(inputs, outputs), conv3(outputs, outputs)
        self.igdn = gdn(outputs, inverse=True)
        self.upsample = grow(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.igdn(self.conv(functional.gelu(self.subpel_conv(x)))) + self.upsample(x)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions beside what they read.

    Args:
        inputs, outputs: channels; where they differ, a pointwise convolution brings one to the other.
        preference: width of what vectors are projected from, 0 for none.
    """

    def __init__(self, inputs: int, outputs: int, preference: int = 0) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv3(inputs, outputs), conv3(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None
        if preference:
            self._proj1, self._proj2 = (nn.Sequential(nn.Linear(preference, outputs, bias=False)) for _ in range(2))

    def forward(self, x: Tensor, first: Tensor | None = None, second: Tensor | None = None) -> Tensor:
        """`first`, `second`: (N, C, 1, 1) added after each activation. The second joins the residual sum."""
        inside = functional.gelu(self.conv1(x))
        inside = functional.gelu(self.conv2(inside if first is None else inside + first))
        beside = x if self.skip is None else self.skip(x)
        return inside + (beside if second is None else beside + second)


class Analysis(nn.Module):
    """`g_a`: (N, 3, H, W) in [0, 1] to (N, M, H/16, W/16)."""

    def __init__(self, c: MLICConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs in (3, c.width, c.width):
            blocks += [ShrinkBlock(inputs, c.width), ResidualBlock(c.width, c.width)]
        self.analysis_transform = nn.Sequential(*blocks, conv3(c.width, c.latent, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.analysis_transform(x)


class HyperAnalysis(nn.Module):
    """`h_a`: (N, M, H/16, W/16) to (N, Nz, H/64, W/64)."""

    def __init__(self, c: MLICConfig) -> None:
        super().__init__()
        self.reduction = convolutions((c.latent, *(c.width,) * 5), 3)
        for i in (4, 8):
            self.reduction[i] = conv3(c.width, c.width, 2)

    def forward(self, y: Tensor) -> Tensor:
        return self.reduction(y)


class HyperSynthesis(nn.Module):
    """`h_s`: (N, Nz, H/64, W/64) to (N, 2M, H/16, W/16) hyper-parameters, the last M channels of them means."""

    def __init__(self, c: MLICConfig) -> None:
        super().__init__()
        m, more = c.latent, c.latent * 3 // 2
        layers = conv3(c.width, m), grow(m, m), conv3(m, more), grow(more, more), conv3(more, 2 * m)
        self.increase = nn.Sequential(*(part for layer in layers for part in (layer, nn.GELU())))[:-1]

    def forward(self, z_hat: Tensor) -> Tensor:
        return self.increase(z_hat)


class Synthesis(nn.Module):
    """`g_s`: (N, M, H/16, W/16) to (N, 3, H, W), about [0, 1].

    Attributes:
        widths: channels of the vectors of a conditional synthesis, in order; empty without.
    """

    def __init__(self, c: MLICConfig) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for inputs, outputs in ((c.latent, c.first), (c.width, c.width), (c.width, c.width)):
            blocks += [ResidualBlock(inputs, outputs, c.preference), GrowBlock(outputs, c.width)]
        blocks += [ResidualBlock(c.width, c.width, c.preference), grow(c.width, 3)]
        self.synthesis_transform = nn.Sequential(*blocks)
        self.widths = tuple(w for b in blocks if isinstance(b, ResidualBlock) for w in (len(b.conv1.weight),) * 2)
        if not c.preference:
            self.widths = ()

    def projections(self) -> list[nn.Module]:
        """From the embedding of a preference, (N, D), to each vector, (N, C), in order."""
        blocks = [b for b in self.synthesis_transform if isinstance(b, ResidualBlock)]
        return [p for b in blocks for p in (b._proj1, b._proj2)] if self.widths else []

    def forward(self, y_hat: Tensor, vectors: Tensor | None = None) -> Tensor:
        parts = [] if vectors is None else [v[:, :, None, None] for v in vectors.split(self.widths, 1)]
        x = y_hat
        for block in self.synthesis_transform:
            if isinstance(block, ResidualBlock) and parts:
                x, parts = block(x, parts[0], parts[1]), parts[2:]
            else:
                x = block(x)
        return x


class Embedding(nn.Module):
    """The preference beta, (N,) in [0, 1], to what each block projects its vectors from, (N, hidden)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.beta_mlp = nn.ModuleDict({"fc1": nn.Linear(2 * FREQUENCIES + 1, hidden), "fc2": nn.Linear(hidden, hidden)})

    def forward(self, beta: Tensor) -> Tensor:
        """Reads beta and, for k = 0..9, sin(2^k beta), cos(2^k beta)."""
        angles = beta[:, None] * 2.0 ** torch.arange(FREQUENCIES, dtype=beta.dtype, device=beta.device)
        waves = torch.stack([torch.sin(angles), torch.cos(angles)], 2).flatten(1)
        hidden = torch.relu(self.beta_mlp["fc1"](torch.cat([beta[:, None], waves], 1)))
        return torch.relu(self.beta_mlp["fc2"](hidden))


class Output(NamedTuple):
    """One pass over a picture: all (N, M, H/16, W/16) but `z`, (N, Nz, H/64, W/64), centred integers."""

    scales: Tensor
    means: Tensor
    symbols: Tensor
    y_hat: Tensor
    z: Tensor


class MLIC(nn.Module):
    """The codec's networks. Images are float RGB in [0, 1], NCHW, height and width multiples of 64.

    Raises:
        ValueError: widths that do not fit each other.
    """

    def __init__(self, config: MLICConfig) -> None:
        super().__init__()
        self.config = c = config
        size, slices = c.slice, range(c.slices)
        self.entropy_bottleneck = entropy_bottleneck(c.width)
        self.g_a, self.h_a, self.h_s, self.g_s = Analysis(c), HyperAnalysis(c), HyperSynthesis(c), Synthesis(c)
        if c.preference:
            self.global_cond = Embedding(c.preference)
        self.local_context = nn.ModuleList(LocalContext(size, c.window, c.heads, c.local) for _ in slices)
        self.channel_context = _later(c, lambda i: ChannelContext(size * i, size, c.channel))
        self.global_inter_context = _later(c, lambda i: GlobalInterContext(size * i, size))
        self.global_intra_context = _later(c, lambda i: GlobalIntraContext(size))
        for name, first, more in (("anchor", 0, 6), ("nonanchor", 2, 10)):
            inputs = (2 * c.latent + (more if i else first) * size for i in slices)
            parameters = nn.ModuleList(EntropyParameters(n, size, c.parameters) for n in inputs)
            self.add_module(f"entropy_parameters_{name}", parameters)
            if c.residual:
                known = (c.latent + (i + 1) * size for i in slices)
                residuals = (LatentResidual(n, size, h) for n, h in zip(known, c.residual, strict=True))
                self.add_module(f"lrp_{name}", nn.ModuleList(residuals))

    def hyper_synthesis(self) -> HyperParameters:
        """`h_s` as the stages read it; shares its weights."""
        return HyperParameters(self.h_s, self.medians())

    def medians(self) -> Tensor:
        """(Nz, 1, 1), what the integers `z` lie around."""
        return self.entropy_bottleneck.quantiles[:, 0, 1][:, None, None]  # type: ignore[index]

    def anchors(self, i: int, index: nn.Module) -> FirstAnchors | Anchors:
        """The stage that decodes the anchors of slice i; `index` is what its scales go through."""
        parameters = self.get_submodule(f"entropy_parameters_anchor.{i}")
        if not i:
            return FirstAnchors(parameters, index)
        return Anchors(parameters, index, self.global_inter_context[i], self.channel_context[i], i * self.config.slice)

    def others(self, i: int, index: nn.Module) -> FirstOthers | Others:
        """The stage that decodes what is no anchor in slice i; `index` is what its scales go through."""
        parameters, size = self.get_submodule(f"entropy_parameters_nonanchor.{i}"), self.config.slice
        if not i:
            return FirstOthers(parameters, index, self.local_context[i], size)
        return Others(parameters, index, self.local_context[i], self.global_intra_context[i], i * size, size)

    def residual(self, i: int, parity: int) -> Residual:
        """The part that follows the stage of slice i that decodes positions of `parity`."""
        prediction = self.get_submodule(f"lrp_{'anchor' if parity == ODD else 'nonanchor'}.{i}")
        return Residual(prediction, (i + 1) * self.config.slice)

    def encode(self, x: Tensor) -> Output:
        """A picture to its symbols, with what a decoder knows of each when it comes."""
        y = self.g_a(x)
        z = torch.round(self.h_a(y) - self.medians())
        hyper_odd, hyper_even, hyper_mean = self.hyper_synthesis()(z)
        rows, columns = torch.arange(y.shape[2])[:, None], torch.arange(y.shape[3])[None, :]
        even = ((rows + columns + 1) % 2).to(y)[None, None]
        y_hat, scales, means, symbols = (torch.zeros_like(y) for _ in range(4))
        plain = nn.Identity()
        for i in range(self.config.slices):
            at = slice(i * self.config.slice, (i + 1) * self.config.slice)
            kept: list[Tensor] = []
            for parity, mask in ((ODD, 1 - even), (EVEN, even)):
                if parity == ODD:
                    scale, mean, *kept = self.anchors(i, plain)(*([y_hat] if i else []), hyper_odd)
                else:
                    scale, mean = self.others(i, plain)(y_hat, even, hyper_even, *kept)
                symbol = torch.round(y[:, at] - mean)
                for total, part in ((scales, scale), (means, mean), (symbols, symbol), (y_hat, symbol + mean)):
                    total[:, at] += part * mask
                if self.config.residual:
                    y_hat[:, at] += self.residual(i, parity)(hyper_mean, y_hat) * mask
        return Output(scales, means, symbols, y_hat, z)

    def condition(self, beta: Tensor) -> Tensor:
        """The preference, (N,) in [0, 1], to the vectors that `g_s` adds, (N, sum of widths)."""
        embedding = self.global_cond(beta)
        return torch.cat([projection(embedding) for projection in self.g_s.projections()], 1)

    def forward(self, x: Tensor, beta: Tensor | None = None) -> Tensor:
        """A picture to what a decoder makes of it; `beta` (N,) where the synthesis is conditional."""
        return self.g_s(self.encode(x).y_hat, None if beta is None else self.condition(beta))


def _later(c: MLICConfig, make: Callable[[int], nn.Module]) -> nn.ModuleList:
    """A module for every slice but the first, whose place is empty."""
    return nn.ModuleList([nn.Identity(), *(make(i) for i in range(1, c.slices))])
