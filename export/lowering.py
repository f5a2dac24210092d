"""Rewrites of torch modules before export, each exact up to the order of summation."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

LONGEST_SUM = 1024
"""Terms of a convolution whose sum `short_sums_inside` leaves whole."""


class FoldedGDN(nn.Module):
    """GDN with its reparametrisation computed once: x / sqrt(beta + gamma x²), or x * sqrt(…) when inverse."""

    def __init__(self, beta: Tensor, gamma: Tensor, inverse: bool) -> None:
        super().__init__()
        self.norm = nn.Conv2d(gamma.shape[1], gamma.shape[0], 1)
        self.norm.weight.data = gamma.detach().clone()[:, :, None, None]
        assert self.norm.bias is not None
        self.norm.bias.data = beta.detach().clone()
        self.inverse = inverse

    def forward(self, x: Tensor) -> Tensor:
        norm = torch.sqrt(self.norm(x * x))
        return x * norm if self.inverse else x / norm


def fold_gdn(gdn: nn.Module) -> FoldedGDN:
    """compressai's GDN to its folded form."""
    beta = gdn.beta_reparam(gdn.beta)  # type: ignore[operator]
    gamma = gdn.gamma_reparam(gdn.gamma)  # type: ignore[operator]
    return FoldedGDN(beta, gamma, bool(gdn.inverse))


def strided(factor: int, conv: nn.Conv2d) -> nn.Conv2d:
    """PixelUnshuffle(factor) and a stride-1 convolution as one convolution of that stride.

    The kernel's tap (u, v) on unshuffled channel c·f² + i·f + j is the tap (u·f + i, v·f + j) on channel c.
    """
    out_channels, channels, k, _ = conv.weight.shape
    channels //= factor * factor
    merged = nn.Conv2d(
        channels,
        out_channels,
        k * factor,
        stride=factor,
        padding=int(conv.padding[0]) * factor,
        bias=conv.bias is not None,
    )
    w = conv.weight.detach().reshape(out_channels, channels, factor, factor, k, k)
    merged.weight.data = w.permute(0, 1, 4, 2, 5, 3).reshape(merged.weight.shape).clone()
    if conv.bias is not None and merged.bias is not None:
        merged.bias.data = conv.bias.detach().clone()
    return merged


def shuffled(deconv: nn.ConvTranspose2d) -> nn.Sequential:
    """A 5×5 transposed convolution of stride 2 as a 3×3 convolution to four phases and a pixel shuffle.

    Output 2m + a collects input m + d, d in -1..1, through tap k = a + 2 - 2d where 0 <= k <= 4.

    Raises:
        ValueError: another kernel, stride, padding or grouping.
    """
    geometry = (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding, deconv.groups)
    if geometry != ((5, 5), (2, 2), (2, 2), (1, 1), 1):
        raise ValueError(f"a transposed convolution of another kind than 5×5, stride 2: {deconv}")
    channels, out_channels = deconv.weight.shape[:2]
    weight = torch.zeros(out_channels, 2, 2, channels, 3, 3)
    source = deconv.weight.detach().permute(1, 0, 2, 3)
    for a in range(2):
        for b in range(2):
            for u in range(3):
                for v in range(3):
                    k, m = a + 4 - 2 * u, b + 4 - 2 * v
                    if 0 <= k <= 4 and 0 <= m <= 4:
                        weight[:, a, b, :, u, v] = source[:, :, k, m]
    conv = nn.Conv2d(channels, 4 * out_channels, 3, padding=1, bias=deconv.bias is not None)
    conv.weight.data = weight.reshape(conv.weight.shape)
    if deconv.bias is not None and conv.bias is not None:
        conv.bias.data = deconv.bias.detach().repeat_interleave(4)
    return nn.Sequential(conv, nn.PixelShuffle(2))


def flipped(deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """A transposed convolution of stride 1 as the convolution with its kernel turned round.

    Raises:
        ValueError: another stride, output padding or grouping.
    """
    if (deconv.stride, deconv.output_padding, deconv.groups) != ((1, 1), (0, 0), 1):
        raise ValueError(f"a transposed convolution of another kind than stride 1: {deconv}")
    channels, out_channels, *size = deconv.weight.shape
    padding = tuple(k - 1 - int(p) for k, p in zip(size, cast(tuple[int, ...], deconv.padding), strict=True))
    conv = nn.Conv2d(channels, out_channels, tuple(size), padding=padding, bias=deconv.bias is not None)  # type: ignore[arg-type]
    conv.weight.data = deconv.weight.detach().permute(1, 0, 2, 3).flip(2, 3).contiguous()
    if deconv.bias is not None and conv.bias is not None:
        conv.bias.data = deconv.bias.detach().clone()
    return conv


def lower(modules: Iterable[nn.Module]) -> nn.Sequential:
    """A chain of modules with every rewrite of this file applied where it fits, nested modules included."""
    chain = list(modules)
    out: list[nn.Module] = []
    while chain:
        module = chain.pop(0)
        if isinstance(module, nn.PixelUnshuffle) and chain and isinstance(chain[0], nn.Conv2d):
            out.append(strided(module.downscale_factor, chain.pop(0)))  # type: ignore[arg-type]
        else:
            out.append(lower_one(module))
    return nn.Sequential(*out)


def lower_one(module: nn.Module) -> nn.Module:
    """One module rewritten; containers of known kinds are rewritten inside."""
    if isinstance(module, nn.ConvTranspose2d):
        return flipped(module) if module.stride == (1, 1) else shuffled(module)
    if type(module).__name__ == "GDN":
        return fold_gdn(module)
    if isinstance(module, nn.Sequential):
        return lower(module)
    return module


def lower_inside(module: nn.Module) -> nn.Module:
    """Rewrites, in place, what a module of any kind holds, however deep; returns it."""
    for name, child in module.named_children():
        replaced = lower_one(child) if type(child).__name__ == "GDN" else lower_inside(child)
        if replaced is not child:
            setattr(module, name, replaced)
    return module


class ShortSums(nn.Module):
    """A convolution as the sum of convolutions of some of its input channels each, about half of `LONGEST_SUM` terms.

    A float sum of n terms, added one after the other, errs by about sqrt(n) times as much as one term's rounding does;
    parts err less, and are added in pairs.

    Args:
        conv: of one group, with zero padding.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        taps = math.prod(conv.kernel_size)
        self.channels = max(1, LONGEST_SUM // 2 // taps // 16 * 16)
        self.parts = nn.ModuleList()
        for i, weight in enumerate(conv.weight.detach().split(self.channels, 1)):
            part = nn.Conv2d(
                weight.shape[1],
                conv.out_channels,
                cast(tuple[int, int], conv.kernel_size),
                stride=cast(tuple[int, int], conv.stride),
                padding=cast(tuple[int, int], conv.padding),
                bias=conv.bias is not None and i == 0,
            )
            part.weight.data = weight.clone()
            if conv.bias is not None and part.bias is not None:
                part.bias.data = conv.bias.detach().clone()
            self.parts.append(part)

    def forward(self, x: Tensor) -> Tensor:
        sums = [part(piece) for part, piece in zip(self.parts, x.split(self.channels, 1), strict=True)]
        while len(sums) > 1:
            sums = [sum(sums[i + 1 : i + 2], sums[i]) for i in range(0, len(sums), 2)]
        return sums[0]


def short_sums_inside(module: nn.Module) -> nn.Module:
    """Replaces, in place, the convolutions of long sums that a module holds, however deep; returns it."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            plain = type(child) is nn.Conv2d and (child.groups, child.dilation, child.padding_mode) == (
                1,
                (1, 1),
                "zeros",
            )
            if plain and math.prod(child.weight.shape[1:]) > LONGEST_SUM:
                setattr(module, name, ShortSums(child))
        else:
            short_sums_inside(child)
    return module
