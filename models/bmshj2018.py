"""The `bmshj2018` backbone: the scale hyperprior of Balle et al. 2018 with a conditional decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ugicm.models.entropy import LOG_STEP, SCALE_MIN, gdn


@dataclass(frozen=True)
class Bmshj2018Config:
    """Widths of the `bmshj2018` backbone: N channels inside, M in `y`."""

    width: int = 128
    latent: int = 192
    preference_hidden: int = 512

    @property
    def hyper(self) -> int:
        """Channels of `z`."""
        return self.width


def conv(inputs: int, outputs: int, kernel: int = 5, stride: int = 2) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


def deconv(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, 2, padding=2, output_padding=1)


class Analysis(nn.Sequential):
    """`g_a`: (N, 3, H, W) in [0, 1] to (N, M, H/16, W/16)."""

    def __init__(self, c: Bmshj2018Config) -> None:
        n = c.width
        super().__init__(conv(3, n), gdn(n), conv(n, n), gdn(n), conv(n, n), gdn(n), conv(n, c.latent))


class HyperAnalysis(nn.Module):
    """`h_a`: (N, M, H/16, W/16) to (N, N, H/64, W/64); it reads magnitudes."""

    def __init__(self, c: Bmshj2018Config) -> None:
        super().__init__()
        n = c.width
        self.layers = nn.Sequential(conv(c.latent, n, 3, 1), nn.ReLU(), conv(n, n), nn.ReLU(), conv(n, n))

    def forward(self, y: Tensor) -> Tensor:
        return self.layers(torch.abs(y))


class HyperSynthesis(nn.Module):
    """`h_s`: centred integers (N, N, H/64, W/64) to (N, M, H/16, W/16) fractional scale indexes.

    The last layer gives the standard deviation itself, as the paper has it.
    """

    def __init__(self, c: Bmshj2018Config) -> None:
        super().__init__()
        n = c.width
        self.layers = nn.Sequential(
            deconv(n, n), nn.ReLU(), deconv(n, n), nn.ReLU(), conv(n, c.latent, 3, 1), nn.ReLU()
        )

    def forward(self, z_hat: Tensor) -> Tensor:
        return torch.log(self.layers(z_hat).clamp(min=SCALE_MIN) / SCALE_MIN) / LOG_STEP


class ConditionalBlock(nn.Module):
    """x + relu(b(relu(a(x)) + first)) + second: two pointwise convolutions, a vector or none after each activation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(channels, channels, 1)
        self.b = nn.Conv2d(channels, channels, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor, first: Tensor | float = 0.0, second: Tensor | float = 0.0) -> Tensor:
        return x + self.relu(self.b(self.relu(self.a(x)) + first)) + second


class Synthesis(nn.Module):
    """`g_s`: (N, M, H/16, W/16) to (N, 3, H, W), about [0, 1]: a conditional block before each upsampling."""

    def __init__(self, c: Bmshj2018Config) -> None:
        super().__init__()
        n = c.width
        channels = (c.latent, n, n, n)
        self.blocks = nn.ModuleList(ConditionalBlock(k) for k in channels)
        self.ups = nn.ModuleList(deconv(k, out) for k, out in zip(channels, (n, n, n, 3), strict=True))
        self.norms = nn.ModuleList(gdn(n, inverse=True) for _ in range(3))
        self.widths = tuple(w for k in channels for w in (k, k))
        self.starts = (0.0,) * len(self.widths)

    def forward(self, y_hat: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        x = y_hat
        for i, (block, up) in enumerate(zip(self.blocks, self.ups, strict=True)):
            x = up(block(x, *vectors[2 * i : 2 * i + 2]))
            if i < len(self.norms):
                x = self.norms[i](x)
        return x
