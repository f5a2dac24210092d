"""The blocks of TCM, which mixes convolutions with attention in windows: Liu, Sun and Katto 2023, arXiv 2303.14978.

Attention runs within square windows that tile the map, every second time on windows shifted by half their side, where
the picture's border cuts them (Liu et al. 2021, arXiv 2103.14030). So heights and widths are whole windows, and a map
may be cut where windows meet. Modules carry the parameter names of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ugicm.models.entropy import compressai_module


class WindowAttention(nn.Module):
    """Attention of every place to those of its window, (N, H, W, C) to the same; H and W are whole windows.

    Args:
        width: channels.
        heads: they are cut into.
        window: side of a window.
        shifted: whether windows lie half a side lower and to the right. What reaches beyond the border goes on at the
            opposite one; places that do not adjoin do not see each other.
    """

    def __init__(self, width: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels do not make {heads} heads")
        self.heads, self.window, self.shift = heads, window, window // 2 if shifted else 0
        self.embedding_layer = nn.Linear(width, 3 * width)
        self.relative_position_params = nn.Parameter(torch.zeros(heads, 2 * window - 1, 2 * window - 1))
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, height, width, channels = x.shape
        k, head = self.window, channels // self.heads
        down, across = height // k, width // k
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = x.reshape(n, down, k, across, k, channels).transpose(2, 3).reshape(-1, k * k, channels)
        asked = self.embedding_layer(windows).reshape(-1, k * k, 3 * self.heads, head).transpose(1, 2)
        query, key, value = asked.chunk(3, 1)
        scores = (query * head**-0.5) @ key.transpose(2, 3) + self._bias()
        if self.shift:
            barred = self._barred(height, width, x.dtype)
            scores = scores.reshape(n, down * across, self.heads, k * k, k * k) + barred
            scores = scores.reshape(-1, self.heads, k * k, k * k)
        told = (torch.softmax(scores, 3) @ value).transpose(1, 2).reshape(-1, k * k, channels)
        told = self.linear(told).reshape(n, down, across, k, k, channels).transpose(2, 3)
        told = told.reshape(n, height, width, channels)
        return torch.roll(told, (self.shift, self.shift), (1, 2)) if self.shift else told

    def precomputed(self) -> dict[str, tuple[Tensor, ...]]:
        """Forms of tensors that depend on one parameter alone, by the name of that parameter."""
        bias = self._bias()
        return {"relative_position_params": (bias, bias.flatten(1))}

    def _bias(self) -> Tensor:
        """(heads, k², k²): what a place's score for another gets by where they lie to each other."""
        k = self.window
        place = torch.arange(k * k)
        row, column = torch.div(place, k, rounding_mode="floor"), place % k
        apart = (row[:, None] - row + k - 1) * (2 * k - 1) + column[:, None] - column + k - 1
        table = self.relative_position_params.reshape(self.heads, (2 * k - 1) ** 2)
        return table.index_select(1, apart.reshape(-1)).reshape(self.heads, k * k, k * k)

    def _barred(self, height: int, width: int, dtype: torch.dtype) -> Tensor:
        """(H·W/k², 1, k², k²): 0, or -inf between places that came into one window from opposite borders."""
        k = self.window
        row = (torch.arange(height) >= height - self.shift).to(dtype)
        column = (torch.arange(width) >= width - self.shift).to(dtype)
        side = (2 * row[:, None] + column).reshape(height // k, k, width // k, k)
        side = side.transpose(1, 2).reshape(-1, k * k)
        apart = side[:, :, None] != side[:, None, :]
        return torch.zeros(apart.shape, dtype=dtype).masked_fill(apart, -torch.inf)[:, None]


class Transformer(nn.Module):
    """Attention in windows and a perceptron, each beside what it reads: (N, H, W, C) to the same."""

    def __init__(self, width: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.ln1, self.ln2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.msa = WindowAttention(width, heads, window, shifted)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.msa(self.ln1(x))
        return x + self.mlp(self.ln2(x))


class MixedBlock(nn.Module):
    """Half of the channels go through convolutions, half through attention: (N, 2C, H, W) to the same.

    Args:
        width: channels of a half.
        heads, window, shifted: of the attention.
    """

    def __init__(self, width: int, heads: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.trans_block = Transformer(width, heads, window, shifted)
        self.conv1_1, self.conv1_2 = (nn.Conv2d(2 * width, 2 * width, 1) for _ in range(2))
        self.conv_block = compressai_module("layers").ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        near, far = self.conv1_1(x).chunk(2, 1)
        near = self.conv_block(near) + near
        far = self.trans_block(far.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.conv1_2(torch.cat([near, far], 1))


class WindowGate(nn.Module):
    """A block of residual units whose gate comes from attention in windows: (N, inputs, H, W) to the same.

    The parameter-efficient attention of the paper's entropy model: what it reads is first brought to `width` channels.
    """

    def __init__(self, inputs: int, width: int, heads: int, window: int) -> None:
        super().__init__()
        units = compressai_module("layers").AttentionBlock(width)
        self.conv_a, self.conv_b = units.conv_a, units.conv_b
        self.non_local_block = nn.ModuleDict(
            {f"block_{i + 1}": Transformer(width, heads, window, shifted=bool(i)) for i in range(2)}
        )
        self.in_conv, self.out_conv = nn.Conv2d(inputs, width, 1), nn.Conv2d(width, inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_conv(x)
        far = x.permute(0, 2, 3, 1)
        for block in self.non_local_block.values():
            far = block(far)
        gate = torch.sigmoid(self.conv_b(far.permute(0, 3, 1, 2)))
        return self.out_conv(self.conv_a(x) * gate + x)


def side_of_windows(relations: int) -> int:
    """The side of windows in which two places of an axis lie to each other in so many ways: one less than twice it.

    Raises:
        ValueError: no even side.
    """
    side = (relations + 1) // 2
    if side < 2 or side % 2 or 2 * side - 1 != relations:
        raise ValueError(f"no window that shifts by half its side has {relations} relative positions")
    return side


def mixed(width: int, count: int, heads: int, window: int) -> list[nn.Module]:
    """Mixed blocks, every second one with shifted windows."""
    return [MixedBlock(width, heads, window, shifted=bool(i % 2)) for i in range(count)]
