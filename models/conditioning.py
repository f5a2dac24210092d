"""The preference beta (0 for a person, 1 for a machine) as per-channel vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

HUMAN = 0.0
MACHINE = 1.0
FREQUENCIES = 10


def fourier_features(beta: Tensor) -> Tensor:
    """(N,) betas in [0, 1] to (N, 21): beta and sin, cos of 2^k beta for k = 0..9, as UG-ICM has it."""
    angles = beta[:, None] * (2.0 ** torch.arange(FREQUENCIES, dtype=beta.dtype, device=beta.device))
    return torch.cat([beta[:, None], torch.sin(angles), torch.cos(angles)], 1)


class Preference(nn.Module):
    """Maps beta to one vector for each conditioned place of the synthesis transform.

    The vectors are scaled by beta, so that the human view is exactly the unconditioned network: training the other
    views cannot harm it, and its vectors cost nothing once folded.

    Args:
        widths: channels of each conditioned place, in the order in which `g_s` meets them.
        hidden: width of the two-layer perceptron.
        starts: what the vectors of each place are before training, at beta 1: 0 for those that are added, 1 for gates.
    """

    def __init__(self, widths: Sequence[int], hidden: int, starts: Sequence[float]) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.mlp = nn.Sequential(
            nn.Linear(2 * FREQUENCIES + 1, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
        )
        self.project = nn.Linear(hidden, sum(self.widths))
        nn.init.zeros_(self.project.weight)
        values = [torch.full((width,), float(start)) for width, start in zip(widths, starts, strict=True)]
        self.project.bias = nn.Parameter(torch.cat(values))

    def forward(self, beta: Tensor) -> Tensor:
        """(N,) betas to (N, sum(widths)) float vectors, zero where beta is 0."""
        return self.project(self.mlp(fourier_features(beta))) * beta[:, None]

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """(N, sum(widths)) to one (N, C, 1, 1) tensor a place."""
        return tuple(v[:, :, None, None] for v in vectors.split(self.widths, dim=1))
