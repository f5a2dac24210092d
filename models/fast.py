"""The `fast` backbone: all work at 1/8 resolution and below, operators that quantise well.

Convolutions, depthwise convolutions, ReLU, pixel (un)shuffle, add. No normalisation, no attention. Only the second
half of `g_s` is conditioned, so that two views share everything up to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FastConfig:
    """Widths and depths of the `fast` backbone.

    Attributes:
        latent: channels M of `y`, at 1/16 resolution.
        hyper: channels of `z`, at 1/64 resolution.
        fine, coarse: widths at 1/8 and 1/16 resolution.
        analysis_fine, analysis_coarse, synthesis_coarse, synthesis_fine: residual blocks at each width.
        analysis_quarter: residual blocks of half the fine width at 1/4 resolution, beside the entry of `g_a`.
        synthesis_shared: blocks at 1/8 resolution before the conditioned ones, the same for all views.
        hyper_analysis: width of `h_a`.
        hyper_width: width of `h_s` and of the checkerboard step.
        context_blocks: residual blocks of the checkerboard step.
        preference_hidden: width of the preference's perceptron.
        preference_rank: rank of what the preference may add to each pointwise convolution of the conditioned half.
    """

    latent: int = 192
    hyper: int = 64
    fine: int = 128
    coarse: int = 192
    analysis_fine: int = 3
    analysis_coarse: int = 2
    synthesis_coarse: int = 0
    synthesis_shared: int = 2
    synthesis_fine: int = 3
    hyper_analysis: int = 64
    hyper_width: int = 128
    context_blocks: int = 2
    preference_hidden: int = 32
    preference_rank: int = 16
    analysis_quarter: int = 0


class _Push(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dead: Tensor) -> Tensor:
        ctx.save_for_backward(dead)
        return torch.zeros_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (dead,) = ctx.saved_tensors
        return -RevivingReLU.PUSH * gradients[0].abs() * dead, None


class RevivingReLU(nn.ReLU):
    """A ReLU whose channels cannot die.

    The networks have no normalisation, and steps that are too large leave a channel below zero everywhere: it gets no
    gradient any more, for good. While training, a channel that is zero all over a batch is pushed up, by a tenth of
    what its gradient would be in size, until it takes part again. The others' gradient is the ReLU's, and so is every
    output.

    Not in the hyper-networks: pushed up on crops, where every position of `z` is near a border, their channels took to
    telling borders from interiors, and whole images cost twice the bits.
    """

    PUSH = 0.1

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.training:
            dead = x.detach().amax((0, 2, 3)) <= 0
            if dead.any():
                out = out + _Push.apply(x, dead.to(x.dtype)[:, None, None])
        return out


class Conditioned(nn.Module):
    """A condition's part in a pointwise convolution: a vector, and a matrix of low rank whose middle it gates.

    conv(x) + shift + up(gate * down(x)). For a known condition all of it folds into the convolution's weight and bias;
    with shift and gate 0 nothing is added. The low rank is Hu et al. 2021's (LoRA), with a gate in the middle.
    """

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.widths = (outputs, rank)
        self.down = nn.Conv2d(inputs, rank, 1, bias=False)
        self.up = nn.Conv2d(rank, outputs, 1, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, conv: nn.Module, x: Tensor, *vectors: Tensor) -> Tensor:
        """`vectors`: shift and gate; none where nothing is added."""
        if not vectors:
            return conv(x)
        shift, gate = vectors
        return conv(x) + shift + self.up(gate * self.down(x))

    def folded(self, conv: nn.Conv2d, shift: Tensor, gate: Tensor) -> nn.Conv2d:
        """One convolution that does the same for a known condition: shift (1, outputs, 1, 1), gate (1, rank, 1, 1)."""
        out = nn.Conv2d(conv.in_channels, conv.out_channels, 1)
        added = self.up.weight[:, :, 0, 0] * gate[0, :, 0, 0] @ self.down.weight[:, :, 0, 0]
        assert conv.bias is not None
        out.weight = nn.Parameter(conv.weight + added[:, :, None, None])
        out.bias = nn.Parameter(conv.bias + shift[0, :, 0, 0])
        return out


class Block(nn.Module):
    """x + project(relu(expand(depthwise(x)))): a 3×3 depthwise and two pointwise convolutions."""

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.hidden = channels * expansion
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, self.hidden, 1)
        self.relu = RevivingReLU()
        self.project = nn.Conv2d(self.hidden, channels, 1)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.relu(self.expand(self.depthwise(x))))


class ConditionedBlock(Block):
    """A block whose two pointwise convolutions a condition changes."""

    def __init__(self, channels: int, rank: int) -> None:
        super().__init__(channels)
        self.inner = Conditioned(channels, self.hidden, rank)
        self.outer = Conditioned(self.hidden, channels, rank)
        self.widths = self.inner.widths + self.outer.widths

    def folded(self, *vectors: Tensor) -> Block:
        """A plain block that does the same for a known condition."""
        out = Block(self.depthwise.in_channels)
        out.depthwise = self.depthwise
        out.expand = self.inner.folded(self.expand, *vectors[:2])
        out.project = self.outer.folded(self.project, *vectors[2:])
        return out

    def forward(self, x: Tensor, *vectors: Tensor) -> Tensor:
        """`vectors`: shift and gate of `expand`, shift and gate of `project`; or none."""
        hidden = self.relu(self.inner(self.expand, self.depthwise(x), *vectors[:2]))
        return x + self.outer(self.project, hidden, *vectors[2:])


class Entry(nn.Module):
    """The entry of a larger `g_a`, (N, 3, H, W) to (N, fine, H/8, W/8): the plain one, and blocks at 1/4 beside it."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__()
        width = c.fine // 2
        self.plain = nn.Sequential(nn.PixelUnshuffle(8), nn.Conv2d(192, c.fine, 1))
        self.quarter = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 1),
            *[Block(width) for _ in range(c.analysis_quarter)],
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * width, c.fine, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(x) + self.quarter(x)


class Analysis(nn.Sequential):
    """`g_a`: (N, 3, H, W) in [0, 1] to (N, M, H/16, W/16)."""

    def __init__(self, c: FastConfig) -> None:
        plain = (nn.PixelUnshuffle(8), nn.Conv2d(192, c.fine, 1))
        super().__init__(
            *([Entry(c)] if c.analysis_quarter else plain),
            *[Block(c.fine) for _ in range(c.analysis_fine)],
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c.fine, c.coarse, 1),
            *[Block(c.coarse) for _ in range(c.analysis_coarse)],
            nn.Conv2d(c.coarse, c.latent, 1),
        )


class HyperAnalysis(nn.Sequential):
    """`h_a`: (N, M, H/16, W/16) to (N, Nz, H/64, W/64)."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c.latent, c.hyper_analysis, 3, padding=1),
            nn.ReLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c.hyper_analysis, c.hyper, 3, padding=1),
        )


class HyperSynthesis(nn.Sequential):
    """`h_s`: centred integers (N, Nz, H/64, W/64) to (N, 2M, H/16, W/16): scale indexes (fractional), means."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__(
            nn.Conv2d(c.hyper, 4 * c.hyper_width, 3, padding=1),
            nn.ReLU(),
            nn.PixelShuffle(2),
            nn.Conv2d(c.hyper_width, 4 * c.hyper_width, 3, padding=1),
            nn.ReLU(),
            nn.PixelShuffle(2),
            nn.Conv2d(c.hyper_width, 2 * c.latent, 1),
        )


class Context(nn.Module):
    """The checkerboard step: the best estimate of `y` so far to refined means for what is not yet decoded."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__()
        width = c.hyper_width
        self.enter = nn.Conv2d(c.latent, width, 1)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(c.context_blocks)])
        self.leave = nn.Conv2d(width, c.latent, 1)
        nn.init.normal_(self.leave.weight, std=0.01)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]

    def forward(self, estimate: Tensor) -> Tensor:
        return estimate + self.change(estimate)

    def change(self, estimate: Tensor) -> Tensor:
        """The correction to the estimate."""
        return self.leave(self.blocks(self.enter(estimate)))


class Synthesis(nn.Module):
    """`g_s`: (N, M, H/16, W/16) to (N, 3, H, W), about [0, 1]."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(c.latent, c.coarse, 1),
            *[Block(c.coarse) for _ in range(c.synthesis_coarse)],
            nn.Conv2d(c.coarse, 4 * c.fine, 1),
            nn.PixelShuffle(2),
            *[Block(c.fine) for _ in range(c.synthesis_shared)],
        )
        self.blocks: Iterable[ConditionedBlock] = nn.ModuleList(  # type: ignore[assignment]
            ConditionedBlock(c.fine, c.preference_rank) for _ in range(c.synthesis_fine)
        )
        self.tail = nn.Conv2d(c.fine, 192, 1)
        self.outermost = Conditioned(c.fine, 192, c.preference_rank)
        self.shuffle = nn.PixelShuffle(8)
        nn.init.constant_(self.tail.bias, 0.5)  # type: ignore[arg-type]
        self.widths = (2 * c.fine, c.preference_rank, c.fine, c.preference_rank) * c.synthesis_fine
        self.widths += self.outermost.widths
        self.starts = (0.0, 1.0) * (len(self.widths) // 2)

    def head(self, x: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """The conditioned half: (N, fine, H/8, W/8) and each convolution's shift and gate, or none, to (N, 3, H, W)."""
        for i, block in enumerate(self.blocks):
            x = block(x, *vectors[4 * i : 4 * i + 4])
        return self.shuffle(self.outermost(self.tail, x, *vectors[-2:]))

    def folded_head(self, vectors: tuple[Tensor, ...]) -> nn.Sequential:
        """`head` for a known condition, of plain blocks."""
        blocks = [block.folded(*vectors[4 * i : 4 * i + 4]) for i, block in enumerate(self.blocks)]
        return nn.Sequential(*blocks, self.outermost.folded(self.tail, *vectors[-2:]), self.shuffle)

    def forward(self, y_hat: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        return self.head(self.trunk(y_hat), vectors)
