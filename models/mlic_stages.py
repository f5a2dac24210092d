"""The stages in which MLIC++ decodes: each a function of what a decoder knows by then.

A slice of channels is decoded in two stages, anchors (row + column odd) and others. Its name tells which a stage is of;
the first slice has no slices before it. All stages return scales, passed through `index`, and means, (N, C, H, W), zero
at positions that they do not decode. Halves are those of `ugicm.models.mlic_contexts`. Modules are shared with the
network that makes the stage, not copied. Channels are picked by buffers, so that the graphs of two slices differ in
nothing but their constants.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ugicm.models.mlic_contexts import EVEN, ODD, half, whole


class HyperParameters(nn.Module):
    """Centred integers `z` to what every stage reads: the odd and the even half of the hyper-parameters, each
    (N, 2M, H, W/2), and the means among them, (N, M, H, W)."""

    medians: Tensor

    def __init__(self, h_s: nn.Module, medians: Tensor) -> None:
        super().__init__()
        self.h_s = h_s
        self.register_buffer("medians", medians.detach().clone())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        said = self.h_s(z + self.medians)
        return half(said, ODD), half(said, EVEN), said[:, said.shape[1] // 2 :]


def channels(first: int, end: int) -> Tensor:
    """int64 indexes of channels first..end - 1."""
    return torch.arange(first, end)


class FirstAnchors(nn.Module):
    """Anchors of the first slice: from the odd half of the hyper-parameters, (N, 2M, H, W/2)."""

    def __init__(self, parameters: nn.Module, index: nn.Module) -> None:
        super().__init__()
        self.parameters_of, self.index = parameters, index

    def forward(self, hyper_odd: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.parameters_of(hyper_odd)
        return whole(self.index(scales), ODD), whole(means, ODD)


class Anchors(nn.Module):
    """Anchors of a later slice; also returns the even half of what earlier slices say, for the stage that follows.

    Args:
        parameters, index: as of all stages.
        inter, channel: the contexts.
        before: channels of `y_hat` that are decoded.
    """

    decoded: Tensor

    def __init__(
        self, parameters: nn.Module, index: nn.Module, inter: nn.Module, channel: nn.Module, before: int
    ) -> None:
        super().__init__()
        self.parameters_of, self.index, self.inter, self.channel = parameters, index, inter, channel
        self.register_buffer("decoded", channels(0, before))

    def forward(self, y_hat: Tensor, hyper_odd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        decoded = y_hat.index_select(1, self.decoded)
        contexts = torch.cat([self.inter(decoded), self.channel(decoded)], 1)
        scales, means = self.parameters_of(torch.cat([half(contexts, ODD), hyper_odd], 1))
        return whole(self.index(scales), ODD), whole(means, ODD), half(contexts, EVEN)


class FirstOthers(nn.Module):
    """The non-anchors of the first slice, `size` channels: from its anchors."""

    def __init__(self, parameters: nn.Module, index: nn.Module, local: nn.Module, size: int) -> None:
        super().__init__()
        self.parameters_of, self.index, self.local = parameters, index, local
        self.size = size

    def forward(self, y_hat: Tensor, even: Tensor, hyper_even: Tensor) -> tuple[Tensor, Tensor]:
        said = self.local(y_hat[:, : self.size] * (1 - even), even)
        scales, means = self.parameters_of(torch.cat([said, hyper_even], 1))
        return whole(self.index(scales), EVEN), whole(means, EVEN)


class Others(nn.Module):
    """The non-anchors of a later slice: from its anchors, the slice before, and the context of earlier slices.

    Args:
        parameters, index: as of all stages.
        local, intra: the contexts.
        before: channels of `y_hat` before this slice.
        size: channels of a slice.
    """

    previous: Tensor
    current: Tensor

    def __init__(
        self, parameters: nn.Module, index: nn.Module, local: nn.Module, intra: nn.Module, before: int, size: int
    ) -> None:
        super().__init__()
        self.parameters_of, self.index, self.local, self.intra = parameters, index, local, intra
        self.register_buffer("previous", channels(before - size, before))
        self.register_buffer("current", channels(before, before + size))

    def forward(self, y_hat: Tensor, even: Tensor, hyper_even: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        previous = y_hat.index_select(1, self.previous)
        anchors = y_hat.index_select(1, self.current) * (1 - even)
        said = self.local(anchors, even), half(self.intra(previous, anchors, even), EVEN)
        scales, means = self.parameters_of(torch.cat([*said, context, hyper_even], 1))
        return whole(self.index(scales), EVEN), whole(means, EVEN)


class Residual(nn.Module):
    """Latent residual prediction after a stage: what to add to the latents that it decoded, (N, C, H, W).

    Args:
        prediction: the network.
        known: channels of `y_hat` up to the end of the slice.
    """

    known: Tensor

    def __init__(self, prediction: nn.Module, known: int) -> None:
        super().__init__()
        self.prediction = prediction
        self.register_buffer("known", channels(0, known))

    def forward(self, hyper_mean: Tensor, y_hat: Tensor) -> Tensor:
        return self.prediction(torch.cat([hyper_mean, y_hat.index_select(1, self.known)], 1))
