"""The stages of checkerboard contexts (He et al. 2021, arXiv 2103.15306), also slice by slice (ELIC, arXiv 2203.10886).

A slice of channels is decoded in two stages: anchors, where row + column is even, then the others, from a masked
convolution of the anchors. What earlier slices and the hyper-latents say is turned into the first layer of the entropy
parameters once, for both stages: the anchors' stage hands the half that the others need on. Modules share weights with
the network that they are made of; halves are those of `ugicm.models.mlic_contexts`. Heights and widths are even.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ugicm.models.mlic_contexts import EVEN, ODD, half, whole


@dataclass(frozen=True)
class Slice:
    """The networks of a slice of channels.

    Attributes:
        first, end: the slice is channels first..end - 1 of `y`.
        spatial: a masked 5×5 convolution of the slice to 2·(end - first) channels.
        parameters: 1×1 convolutions and activations, of spatial context, channel context and hyper-parameters, in this
            order, to scales and means.
        channel: the network for earlier slices; None without.
        seen: the channels of `y` that `channel` reads.
        means_first: whether means stand before scales in what `parameters` gives.
    """

    first: int
    end: int
    spatial: nn.Conv2d
    parameters: nn.Sequential
    channel: nn.Module | None = None
    seen: tuple[int, ...] = ()
    means_first: bool = False


class HyperParameters(nn.Module):
    """Centred integers `z`, (N, Nz, h, w), to what every stage reads, (N, K, H, W)."""

    medians: Tensor

    def __init__(self, h_s: nn.Module, medians: Tensor) -> None:
        super().__init__()
        self.h_s = h_s
        self.register_buffer("medians", medians.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        return self.h_s(z + self.medians)


class OddConvolution(nn.Module):
    """A 5×5 convolution with padding 2, computed where row + column is odd alone: (N, C, H, W) to a half.

    Even rows have such positions in odd columns, odd rows in even ones: two convolutions of stride 2.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach().clone())
        self.register_buffer("bias", bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        even_rows, odd_rows = functional.pad(x, (1, 2, 2, 1)), functional.pad(x, (2, 1, 1, 2))
        return torch.cat(
            [functional.conv2d(rows, self.weight, self.bias, stride=2) for rows in (even_rows, odd_rows)], 2
        )


class _Parameters(nn.Module):
    """All but the first layer of the entropy parameters, to the index and the mean at the positions of a parity."""

    def __init__(self, part: Slice, index: nn.Module, parity: int) -> None:
        super().__init__()
        self.layers = _without_side_effects(part.parameters[1:])
        self.index = index
        self.parity, self.means_first = parity, part.means_first

    def forward(self, first_layer: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.layers(first_layer).chunk(2, 1)
        if self.means_first:
            scales, means = means, scales
        return whole(self.index(scales), self.parity), whole(means, self.parity)


class FirstAnchors(nn.Module):
    """Anchors of the first slice: index, mean, and the first layer at the other positions, (N, L, H, W/2)."""

    def __init__(self, part: Slice, index: nn.Module) -> None:
        super().__init__()
        self.first_layer = _first_layer(part)[1]
        self.parameters_of = _Parameters(part, index, EVEN)

    def forward(self, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        said = self.first_layer(hyper)
        index, mean = self.parameters_of(half(said, EVEN))
        return index, mean, half(said, ODD)


class Anchors(nn.Module):
    """Anchors of a later slice; gives what `FirstAnchors` gives."""

    seen: Tensor

    def __init__(self, part: Slice, index: nn.Module) -> None:
        super().__init__()
        assert part.channel is not None
        self.channel = _without_side_effects(part.channel)
        self.first_layer = _first_layer(part)[1]
        self.parameters_of = _Parameters(part, index, EVEN)
        self.register_buffer("seen", torch.tensor(part.seen))

    def forward(self, y_hat: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        said = self.first_layer(torch.cat([self.channel(y_hat.index_select(1, self.seen)), hyper], 1))
        index, mean = self.parameters_of(half(said, EVEN))
        return index, mean, half(said, ODD)


class Others(nn.Module):
    """The positions of a slice that are no anchors, from its anchors and what their stage handed on."""

    current: Tensor

    def __init__(self, part: Slice, index: nn.Module) -> None:
        super().__init__()
        weight = part.spatial.weight * part.spatial.mask  # type: ignore[operator]
        assert part.spatial.bias is not None
        self.spatial = OddConvolution(weight, part.spatial.bias)
        self.first_layer = _first_layer(part)[0]
        self.parameters_of = _Parameters(part, index, ODD)
        self.register_buffer("current", torch.arange(part.first, part.end))

    def forward(self, y_hat: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        # Taps at positions that are not decoded yet have no weight, so `y_hat` needs no mask.
        spatial = self.spatial(y_hat.index_select(1, self.current))
        return self.parameters_of(self.first_layer(spatial) + context)


def _first_layer(part: Slice) -> tuple[nn.Conv2d, nn.Conv2d]:
    """The first layer of the entropy parameters: of the spatial context, without a bias, and of all else."""
    layer, size = part.parameters[0], 2 * (part.end - part.first)
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    spatial = nn.Conv2d(size, layer.out_channels, 1, bias=False)
    rest = nn.Conv2d(layer.in_channels - size, layer.out_channels, 1)
    spatial.weight = nn.Parameter(layer.weight[:, :size].clone())
    rest.weight, rest.bias = nn.Parameter(layer.weight[:, size:].clone()), nn.Parameter(layer.bias.clone())
    return spatial, rest


def _without_side_effects(module: nn.Module) -> nn.Module:
    """A copy whose activations leave their inputs as they are."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, nn.ReLU | nn.LeakyReLU):
            layer.inplace = False
    return copied
