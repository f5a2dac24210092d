"""TCM (Liu, Sun and Katto 2023, arXiv 2303.14978), under the parameter names of its published checkpoints.

Transforms of residual blocks and of blocks that mix convolutions with attention in windows; `y` in slices of channels
with latent residual prediction (Minnen and Singh 2020, arXiv 2007.08739), each slice's scales and means from the
hyper-latents and earlier slices through attention in windows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ugicm.models.entropy import compressai_module, entropy_bottleneck
from ugicm.models.mlic import Output
from ugicm.models.mlic_contexts import convolutions
from ugicm.models.tcm_blocks import WindowGate, mixed, side_of_windows

LATENT_STRIDE, HYPER_STRIDE = 16, 64
_WIDEST = 4096
"""Of any layer that `TCMConfig.of` believes."""
_MOST_BLOCKS = 32
_LEVELS = 3
"""Of `g_a` and of `g_s`: at 1/2, 1/4 and 1/8 of the picture's height and width."""


@dataclass(frozen=True)
class TCMConfig:
    """Widths of a network; the defaults are those published.

    Attributes:
        width: channels of each half of a mixed block.
        latent: channels of `y`.
        hyper: channels of `z`.
        slices: in how many parts the channels of `y` are decoded.
        support: how many of the first slices the contexts read at most.
        blocks, heads: mixed blocks, and heads of their attention, of the three levels of `g_a`, then those of `g_s`.
        hyper_blocks, hyper_heads: of `h_a`, then of each of the two networks that read `z`.
        window, hyper_window: side of windows in the transforms, and in the hyper-networks.
        attention, attention_heads, attention_window: width, heads and windows of the attention of the contexts.
        hidden: hidden widths of the networks of a slice.
    """

    width: int = 128
    latent: int = 320
    hyper: int = 192
    slices: int = 5
    support: int = 5
    blocks: tuple[int, ...] = (2,) * 6
    heads: tuple[int, ...] = (16, 8, 4, 4, 8, 16)
    hyper_blocks: tuple[int, ...] = (2, 2)
    hyper_heads: tuple[int, ...] = (4, 4)
    window: int = 8
    hyper_window: int = 4
    attention: int = 128
    attention_heads: int = 8
    attention_window: int = 8
    hidden: tuple[int, ...] = (224, 128)

    @property
    def slice(self) -> int:
        """Channels of a slice."""
        return self.latent // self.slices

    @property
    def stride(self) -> int:
        """What heights and widths of pictures are multiples of, so that windows are whole everywhere."""
        coarsest = (8 * self.window, LATENT_STRIDE * self.attention_window, 32 * self.hyper_window)
        return math.lcm(HYPER_STRIDE, *coarsest)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> TCMConfig:
        """The configuration of a state dict, by its names and shapes.

        Raises:
            ValueError: they are of no such network.
        """
        if max(max(shape, default=0) for shape in shapes.values()) > _WIDEST:
            raise ValueError(f"a layer is wider than {_WIDEST}")
        try:
            parts = {part: _levels(shapes, part) for part in ("g_a", "g_s", "h_a", "h_mean_s")}
            if [len(levels) for levels in parts.values()] != [_LEVELS, _LEVELS, 1, 1]:
                raise ValueError("its transforms have other levels")
            levels, hyper_levels = parts["g_a"] + parts["g_s"], parts["h_a"] + parts["h_mean_s"]
            latent = shapes["h_a.0.conv1.weight"][1]
            size = shapes["cc_mean_transforms.0.4.weight"][0]
            slices = sum(name.startswith("cc_mean_transforms.") and name.endswith(".4.weight") for name in shapes)
            if not slices or slices * size != latent:
                raise ValueError(f"{slices} slices of {size} channels do not make {latent}")
            last = shapes[f"cc_mean_transforms.{slices - 1}.0.weight"][1]
            gate = "atten_mean.0.0"
            heads, relations, _ = shapes[f"{gate}.non_local_block.block_1.msa.relative_position_params"]
            return cls(
                width=shapes["g_a.0.conv1.weight"][0] // 2,
                latent=latent,
                hyper=shapes["h_mean_s.0.subpel_conv.0.weight"][1],
                slices=slices,
                support=max(1, (last - latent) // size),
                blocks=tuple(level.blocks for level in levels),
                heads=tuple(level.heads for level in levels),
                hyper_blocks=tuple(level.blocks for level in hyper_levels),
                hyper_heads=tuple(level.heads for level in hyper_levels),
                window=max(level.window for level in levels) or 2,
                hyper_window=max(level.window for level in hyper_levels) or 2,
                attention=shapes[f"{gate}.in_conv.weight"][0],
                attention_heads=heads,
                attention_window=side_of_windows(relations),
                hidden=tuple(shapes[f"cc_mean_transforms.0.{i}.weight"][0] for i in (0, 2)),
            )
        except KeyError as error:
            raise ValueError(f"{error.args[0]} is missing") from error


class _Level(NamedTuple):
    """Mixed blocks at one resolution; 0 blocks have 1 head and windows of 0."""

    blocks: int
    heads: int
    window: int


def _levels(shapes: Mapping[str, tuple[int, ...]], part: str) -> tuple[_Level, ...]:
    """The mixed blocks between the layers of a transform that change the resolution, the first and the last of which
    are its own first and last."""
    numbers = {int(text) for name in shapes if name.startswith(f"{part}.") and (text := name.split(".")[1]).isdigit()}
    levels, level = [], _Level(0, 1, 0)
    for i in range(1, min(len(numbers), _LEVELS * _MOST_BLOCKS)):
        name = f"{part}.{i}.trans_block.msa.relative_position_params"
        if name in shapes:
            heads, relations, _ = shapes[name]
            level = _Level(level.blocks + 1, heads, side_of_windows(relations))
        else:
            levels.append(level)
            level = _Level(0, 1, 0)
    return tuple(levels)


class TCM(nn.Module):
    """The codec's networks. Images are float RGB in [0, 1], NCHW, height and width multiples of `config.stride`.

    Raises:
        ValueError: widths that do not fit each other.
    """

    def __init__(self, config: TCMConfig) -> None:
        super().__init__()
        self.config = c = config
        layers, wide = compressai_module("layers"), 2 * c.width
        shrink, grow, last = layers.ResidualBlockWithStride, layers.ResidualBlockUpsample, layers.subpel_conv3x3
        self.entropy_bottleneck = entropy_bottleneck(c.hyper)
        blocks = [mixed(c.width, n, heads, c.window) for n, heads in zip(c.blocks, c.heads, strict=True)]
        down, up = blocks[:_LEVELS], blocks[_LEVELS:]
        self.g_a = nn.Sequential(
            *(layer for i, level in enumerate(down) for layer in (shrink(wide if i else 3, wide, 2), *level)),
            layers.conv3x3(wide, c.latent, stride=2),
        )
        self.g_s = nn.Sequential(
            *(layer for i, level in enumerate(up) for layer in (grow(wide if i else c.latent, wide, 2), *level)),
            last(wide, 3, 2),
        )
        read, said, said_again = (
            mixed(c.width, c.hyper_blocks[i], c.hyper_heads[i], c.hyper_window) for i in (0, 1, 1)
        )
        self.h_a = nn.Sequential(shrink(c.latent, wide, 2), *read, layers.conv3x3(wide, c.hyper, stride=2))
        self.h_mean_s = nn.Sequential(grow(c.hyper, wide, 2), *said, last(wide, c.latent, 2))
        self.h_scale_s = nn.Sequential(grow(c.hyper, wide, 2), *said_again, last(wide, c.latent, 2))
        seen = [c.latent + c.slice * min(i, c.support) for i in range(c.slices)]
        for kind in ("mean", "scale"):
            gates = (WindowGate(n, c.attention, c.attention_heads, c.attention_window) for n in seen)
            self.add_module(f"atten_{kind}", nn.ModuleList(nn.Sequential(gate) for gate in gates))
            networks = (convolutions((n, *c.hidden, c.slice), 3) for n in seen)
            self.add_module(f"cc_{kind}_transforms", nn.ModuleList(networks))
        self.lrp_transforms = nn.ModuleList(convolutions((n + c.slice, *c.hidden, c.slice), 3) for n in seen)

    def medians(self) -> Tensor:
        """(Nz, 1, 1), what the integers `z` lie around."""
        return self.entropy_bottleneck.quantiles[:, 0, 1][:, None, None]  # type: ignore[index]

    def hyper_synthesis(self) -> HyperParameters:
        """What the stages read of `z`; shares the network's weights."""
        return HyperParameters(self, 1)

    def stage(self, i: int, index: nn.Module) -> FirstSlice | LaterSlice:
        """The stage that decodes slice i; `index` is what its scales go through."""
        networks = SliceNetworks(self, i, index)
        c = self.config
        return LaterSlice(networks, c.slice * min(i, c.support)) if i else FirstSlice(networks)

    def residual(self, i: int) -> Residual:
        """The latent residual prediction that follows the stage of slice i."""
        size = self.config.slice
        return Residual(self.lrp_transforms[i], size * i, size)

    def encode(self, x: Tensor) -> Output:
        """A picture to its symbols, with what a decoder knows of each when it comes."""
        y = self.g_a(x)
        z = torch.round(self.h_a(y) - self.medians())
        hyper_scale, hyper_mean = self.hyper_synthesis()(z)
        y_hat, scales, means, symbols = (torch.zeros_like(y) for _ in range(4))
        plain = nn.Identity()
        for i in range(self.config.slices):
            at = slice(i * self.config.slice, (i + 1) * self.config.slice)
            known = (y_hat,) if i else ()
            scales[:, at], means[:, at], context = self.stage(i, plain)(*known, hyper_scale, hyper_mean)
            symbols[:, at] = torch.round(y[:, at] - means[:, at])
            y_hat[:, at] = symbols[:, at] + means[:, at]
            y_hat[:, at] += self.residual(i)(y_hat, context)
        return Output(scales, means, symbols, y_hat, z)

    def forward(self, x: Tensor) -> Tensor:
        """A picture to what a decoder makes of it."""
        return self.g_s(self.encode(x).y_hat)


class HyperParameters(nn.Module):
    """Centred integers `z`, folded to fewer positions, to what stages read: (N, M, H, W) for scales, as much for means.

    Args:
        model: whose networks read `z`.
        fold: (N, fold²·Nz, h, w) is read as (N, Nz, fold·h, fold·w), as `torch.pixel_shuffle` does it.
    """

    medians: Tensor

    def __init__(self, model: TCM, fold: int) -> None:
        super().__init__()
        self.scale, self.mean = model.h_scale_s, model.h_mean_s
        self.unfold = nn.PixelShuffle(fold)
        self.register_buffer("medians", model.medians().detach().clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        z_hat = self.unfold(z) + self.medians
        return self.scale(z_hat), self.mean(z_hat)


class SliceNetworks(nn.Module):
    """From what is known to the scales, passed through `index`, and the means of a slice, (N, C, H, W).

    What the means are made of is read by the residual prediction too. Its first layer is computed here as far as it is
    of that, (N, L, H, W), so that slices differ in nothing that goes in or out.
    """

    def __init__(self, model: TCM, i: int, index: nn.Module) -> None:
        super().__init__()
        self.index = index
        parts = ("atten_scale", "cc_scale_transforms", "atten_mean", "cc_mean_transforms")
        self.scale_gate, self.scale, self.mean_gate, self.mean = (model.get_submodule(f"{p}.{i}") for p in parts)
        self.prediction = _first_layer(model.lrp_transforms[i], model.config.slice)[0]

    def forward(self, for_scale: Tensor, for_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        support = self.mean_gate(for_mean)
        return self.index(self.scale(self.scale_gate(for_scale))), self.mean(support), self.prediction(support)


class FirstSlice(nn.Module):
    """The stage of the first slice: its index, its mean, and what its residual prediction goes on from."""

    def __init__(self, networks: SliceNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, hyper_scale: Tensor, hyper_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.networks(hyper_scale, hyper_mean)


class LaterSlice(nn.Module):
    """The stage of a later slice, which also reads the first `seen` channels of `y_hat`; else as `FirstSlice`."""

    seen: Tensor

    def __init__(self, networks: SliceNetworks, seen: int) -> None:
        super().__init__()
        self.networks = networks
        self.register_buffer("seen", torch.arange(seen))

    def forward(self, y_hat: Tensor, hyper_scale: Tensor, hyper_mean: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        earlier = y_hat.index_select(1, self.seen)
        return self.networks(torch.cat([hyper_scale, earlier], 1), torch.cat([hyper_mean, earlier], 1))


class Residual(nn.Module):
    """Latent residual prediction after a stage: what to add to the latents that it decoded.

    Args:
        prediction: the network.
        first, size: the stage decoded channels first..first + size - 1.
    """

    current: Tensor

    def __init__(self, prediction: nn.Module, first: int, size: int) -> None:
        super().__init__()
        self.first_layer = _first_layer(prediction, size)[1]
        self.layers = nn.Sequential(*prediction.children())[1:]
        self.register_buffer("current", torch.arange(first, first + size))

    def forward(self, y_hat: Tensor, context: Tensor) -> Tensor:
        decoded = self.first_layer(y_hat.index_select(1, self.current))
        return 0.5 * torch.tanh(self.layers(decoded + context))


def _first_layer(prediction: nn.Module, size: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The first layer of a residual prediction: of all before the slice's `size` channels; of these, without a bias."""
    layer = next(prediction.children())
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    support, decoded = layer.in_channels - size, nn.Conv2d(size, layer.out_channels, 3, padding=1, bias=False)
    rest = nn.Conv2d(support, layer.out_channels, 3, padding=1)
    rest.weight, rest.bias = nn.Parameter(layer.weight[:, :support].clone()), nn.Parameter(layer.bias.clone())
    decoded.weight = nn.Parameter(layer.weight[:, support:].clone())
    return rest, decoded
