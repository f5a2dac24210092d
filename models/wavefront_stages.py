"""The stage of a raster-scan context (Minnen et al. 2018, arXiv 1809.02736; Cheng et al. 2020, arXiv 2001.01568).

A masked 5×5 convolution of the latents decoded so far and the hyper-parameters go through 1×1 convolutions to scales
and means. All positions whose neighbourhood is known are decoded at once, so a step works on positions, (n, channels).
The hyper-latents' share of the first 1×1 convolution is computed once, for the whole picture. Modules share no weights
with the network that they are made of.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ugicm.models.checkerboard_stages import HyperParameters


class HyperFirstLayer(nn.Module):
    """Centred integers `z`, (N, Nz, h, w), to their share of the first layer of the entropy parameters, (N, L, H, W).

    Args:
        h_s: `z` to hyper-parameters.
        medians: (Nz, 1, 1) of `z`.
        context: the masked convolution, whose bias goes into this share.
        parameters: 1×1 convolutions and activations, of hyper-parameters and context, in this order.
    """

    def __init__(self, h_s: nn.Module, medians: Tensor, context: nn.Conv2d, parameters: nn.Sequential) -> None:
        super().__init__()
        self.hyper = HyperParameters(h_s, medians)
        layer, size = parameters[0], context.out_channels
        assert isinstance(layer, nn.Conv2d) and layer.bias is not None and context.bias is not None
        self.layer = nn.Conv2d(layer.in_channels - size, layer.out_channels, 1)
        self.layer.weight = nn.Parameter(layer.weight[:, :-size].detach().clone())
        bias = layer.bias + layer.weight[:, -size:, 0, 0] @ context.bias
        self.layer.bias = nn.Parameter(bias.detach().clone())

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(self.hyper(z))


class Step(nn.Module):
    """Neighbours (n, taps·C) and the first layer's share (n, L) to the index and the mean, (n, C) each.

    Args:
        context: the masked 5×5 convolution.
        parameters: as of `HyperFirstLayer`; scales stand before means in what they give.
        index: scales to continuous indexes.
        offsets: (row, column) of each neighbour from the position, in the order in which they are given.
    """

    def __init__(
        self, context: nn.Conv2d, parameters: nn.Sequential, index: nn.Module, offsets: tuple[tuple[int, int], ...]
    ) -> None:
        super().__init__()
        taps = [context.weight[:, :, 2 + i, 2 + j] for i, j in offsets]
        self.context = linear(torch.cat(taps, 1), None)
        first, *rest = parameters
        assert isinstance(first, nn.Conv2d)
        self.first = linear(first.weight[:, -context.out_channels :, 0, 0], None)
        self.rest = nn.Sequential(*(_on_positions(layer) for layer in rest))
        self.index = index

    def forward(self, neighbours: Tensor, hyper: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.rest(self.first(self.context(neighbours)) + hyper).chunk(2, 1)
        return self.index(scales), means


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A layer of copies of these."""
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    made.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def _on_positions(layer: nn.Module) -> nn.Module:
    """A 1×1 convolution or an activation as a layer of (n, channels)."""
    if isinstance(layer, nn.Conv2d):
        return linear(layer.weight[:, :, 0, 0], layer.bias)
    if isinstance(layer, nn.LeakyReLU):
        return nn.LeakyReLU(layer.negative_slope)
    raise ValueError(f"entropy parameters of another kind than 1×1 convolutions and LeakyReLU: {layer}")
