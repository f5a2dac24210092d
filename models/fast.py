"""The `fast` backbone: all work at 1/8 resolution and below, operators that quantise well.

Convolutions, depthwise convolutions, ReLU, pixel (un)shuffle, add. No normalisation, no attention. Only the second
half of `g_s` is conditioned, so that two views share everything up to it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class FastConfig:
    """Widths and depths of the `fast` backbone.

    Attributes:
        latent: channels M of `y`, at 1/16 resolution.
        hyper: channels of `z`, at 1/64 resolution.
        fine, coarse: widths at 1/8 and 1/16 resolution.
        analysis_fine, analysis_coarse, synthesis_coarse, synthesis_fine: residual blocks at each width.
        hyper_width: width of `h_a` and `h_s`.
        context_blocks: residual blocks of the checkerboard step.
        preference_hidden: width of the preference's perceptron.
    """

    latent: int = 96
    hyper: int = 64
    fine: int = 128
    coarse: int = 192
    analysis_fine: int = 3
    analysis_coarse: int = 2
    synthesis_coarse: int = 3
    synthesis_fine: int = 3
    hyper_width: int = 128
    context_blocks: int = 2
    preference_hidden: int = 64


class Block(nn.Module):
    """x + project(relu(expand(depthwise(x)))): a 3×3 depthwise and two pointwise convolutions.

    The optional vectors shift the hidden units before the ReLU and the output; both fold into biases.
    """

    def __init__(self, channels: int, expansion: int = 2) -> None:
        super().__init__()
        self.hidden = channels * expansion
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.expand = nn.Conv2d(channels, self.hidden, 1)
        self.relu = nn.ReLU()
        self.project = nn.Conv2d(self.hidden, channels, 1)
        nn.init.normal_(self.project.weight, std=0.02)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, inner: Tensor | None = None, outer: Tensor | None = None) -> Tensor:
        hidden = self.expand(self.depthwise(x))
        out = self.project(self.relu(hidden if inner is None else hidden + inner))
        return x + (out if outer is None else out + outer)


class Analysis(nn.Sequential):
    """`g_a`: (N, 3, H, W) in [0, 1] to (N, M, H/16, W/16)."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__(
            nn.PixelUnshuffle(8),
            nn.Conv2d(192, c.fine, 1),
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
            nn.Conv2d(4 * c.latent, c.hyper_width, 3, padding=1),
            nn.ReLU(),
            nn.PixelUnshuffle(2),
            nn.Conv2d(4 * c.hyper_width, c.hyper, 3, padding=1),
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
        return estimate + self.leave(self.blocks(self.enter(estimate)))


class Synthesis(nn.Module):
    """`g_s`: (N, M, H/16, W/16) to (N, 3, H, W), about [0, 1]."""

    def __init__(self, c: FastConfig) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(c.latent, c.coarse, 1),
            *[Block(c.coarse) for _ in range(c.synthesis_coarse)],
            nn.Conv2d(c.coarse, 4 * c.fine, 1),
            nn.PixelShuffle(2),
        )
        self.blocks = nn.ModuleList(Block(c.fine) for _ in range(c.synthesis_fine))
        self.tail = nn.Conv2d(c.fine, 192, 1)
        self.shuffle = nn.PixelShuffle(8)
        nn.init.constant_(self.tail.bias, 0.5)  # type: ignore[arg-type]
        self.widths = tuple(w for _ in range(c.synthesis_fine) for w in (2 * c.fine, c.fine))

    def head(self, x: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """The conditioned half: (N, fine, H/8, W/8) and two vectors a block to (N, 3, H, W)."""
        for i, block in enumerate(self.blocks):
            x = block(x, vectors[2 * i], vectors[2 * i + 1])
        return self.shuffle(self.tail(x))

    def forward(self, y_hat: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        return self.head(self.trunk(y_hat), vectors)
