"""Contexts from decoded latents for the next ones: those of MLIC++ (Jiang et al. 2023, arXiv 2307.15421).

Latents are decoded in slices of channels, each slice in two halves of a checkerboard: the anchors, where row + column
is odd, then the others. Modules carry the parameter names of the published checkpoints, hold no state between calls,
and compute only what a decoder at that point can know.

Layers that look at one position alone run on half a checkerboard: a *half* is (N, C, H, W/2), the positions of one
parity out of (N, C, H, W), those of even rows above those of odd rows. Heights and widths are even.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

EVEN, ODD = 0, 1
HEAD = 32
"""Channels of a head of the attention over earlier slices."""
_FORBIDDEN = 100.0  # what attention subtracts where an anchor would look at no anchor: exp(-100) is 0 in float32
_ABSENT = 1e4


def half(x: Tensor, parity: int) -> Tensor:
    """The positions of (N, C, H, W) whose row + column has a parity, as (N, C, H, W/2)."""
    n, channels, height, width = x.shape
    cells = x.reshape(n, channels, height // 2, 2, width // 2, 2)
    return torch.cat([cells[:, :, :, 0, :, parity], cells[:, :, :, 1, :, 1 - parity]], 2)


def whole(x: Tensor, parity: int) -> Tensor:
    """The inverse of `half`, with zeros at the other positions."""
    n, channels, height, width = x.shape
    rows = x.reshape(n, channels, 2, height // 2, width)
    upper, lower = rows[:, :, 0], rows[:, :, 1]
    nothing = torch.zeros_like(upper)
    even_rows = torch.stack((upper, nothing) if parity == EVEN else (nothing, upper), -1)
    odd_rows = torch.stack((nothing, lower) if parity == EVEN else (lower, nothing), -1)
    return torch.stack((even_rows, odd_rows), 3).reshape(n, channels, height, 2 * width)


def convolutions(widths: tuple[int, ...], kernel: int) -> nn.Sequential:
    """Convolutions from each width to the next, a GELU between any two."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Perceptron(nn.Module):
    """Two linear layers."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class LocalContext(nn.Module):
    """Attention within 5×5 windows over the anchors of the slice, for the other positions.

    All 25 positions of a window ask; anchors are answered by anchors alone, the others, which know nothing yet, by
    all. One linear map of the 25 answers is what the window's centre is told. Only windows around even positions are
    computed, as nothing reads what the others would say.

    Args:
        channels: of a slice.
        window: side of a window, odd.
        heads: of the attention. The projections count channels head after head within a place of a head, the linear
            map afterwards place after place within a head.
        hidden: width inside of the perceptron.
    """

    def __init__(self, channels: int, window: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.window, self.heads = window, heads
        self.norm1 = nn.LayerNorm(channels)
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.relative_position_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.fusion = nn.Conv2d(channels, 2 * channels, window)
        self.proj = nn.Linear(2 * channels, 2 * channels)
        self.norm2 = nn.LayerNorm(2 * channels)
        self.mlp = Perceptron(2 * channels, hidden)

    def forward(self, anchors: Tensor, even: Tensor) -> Tensor:
        """Latents of the slice, zero but at anchors, and the checkerboard to the even half of (N, 2C, H, W)."""
        n, channels, height, width = anchors.shape
        k, heads = self.window, self.heads
        margin = k // 2
        seen = self.norm1(anchors.permute(0, 2, 3, 1))
        asked = self.qkv_proj(seen).reshape(n, height, width, 3, channels // heads, heads).permute(3, 0, 5, 1, 2, 4)
        padded = functional.pad(asked, (0, 0, margin, margin, margin, margin))
        places = self._places(height, width)
        flat = padded.reshape(3, n, heads, (height + 2 * margin) * (width + 2 * margin), channels // heads)
        windows = flat.index_select(3, places).reshape(3, n, heads, height * width // 2, k * k, channels // heads)
        query, key, value = windows[0], windows[1], windows[2]
        known = functional.pad(1 - even, (margin, margin, margin, margin)).reshape(-1)
        known = known.index_select(0, places).reshape(-1, k * k)
        barred = known[:, :, None] * (known[:, None, :] - 1) * _FORBIDDEN
        scores = (query * (channels // heads) ** -0.5) @ key.transpose(-2, -1)
        answers = torch.softmax(scores + (self._bias() + barred), -1) @ value
        # The convolution that spans a window is one matrix product a head.
        weight = self.fusion.weight.reshape(2 * channels, heads, channels // heads, k * k).permute(1, 3, 2, 0)
        weight = weight.reshape(heads, k * channels // heads * k, 2 * channels)
        told = (answers.reshape(n, heads, height * width // 2, k * channels // heads * k) @ weight).sum(1)
        assert self.fusion.bias is not None
        x = self.proj(told + self.fusion.bias)
        x = x + self.mlp(self.norm2(x))
        return x.transpose(1, 2).reshape(n, 2 * channels, height, width // 2)

    def _places(self, height: int, width: int) -> Tensor:
        """int64 (H·W/2·k²,): where in the padded map the places of each window lie, windows in the order of a half."""
        k = self.window
        row = 2 * torch.arange(height // 2)[:, None, None, None] + torch.arange(k)[None, None, :, None]
        column = 2 * torch.arange(width // 2)[None, :, None, None] + torch.arange(k)[None, None, None, :]
        of_even_rows = row * (width + k - 1) + column
        return torch.stack([of_even_rows, of_even_rows + width + k]).reshape(-1)

    def precomputed(self) -> dict[str, tuple[Tensor, ...]]:
        """Forms of tensors that depend on one parameter alone, by the name of that parameter."""
        return {"relative_position_table": (self._bias(),)}

    def _bias(self) -> Tensor:
        """(heads, 1, k², k²): what a place's score for another gets by where they lie to each other."""
        k = self.window
        place = torch.arange(k * k)
        row, column = (torch.div(place, k, rounding_mode="floor"), place % k)
        apart = (row[:, None] - row + k - 1) * (2 * k - 1) + column[:, None] - column + k - 1
        bias = self.relative_position_table.index_select(0, apart.reshape(-1))
        return bias.reshape(k * k, k * k, self.heads).permute(2, 0, 1)[:, None]


class ChannelContext(nn.Module):
    """The context of earlier slices at the same place and its neighbours: (N, inputs, H, W) to (N, 4C, H, W)."""

    def __init__(self, inputs: int, channels: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.fushion = convolutions((inputs, *hidden, 4 * channels), 3)

    def forward(self, decoded: Tensor) -> Tensor:
        return self.fushion(decoded)


def projection(channels: int) -> nn.Sequential:
    """A pointwise and a depthwise 3×3 convolution."""
    depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
    return nn.Sequential(nn.Conv2d(channels, channels, 1), depthwise)


def feed_forward(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    depthwise = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
    ends = nn.Conv2d(inputs, hidden, 1), nn.Conv2d(hidden, outputs, 1)
    return nn.Sequential(ends[0], nn.GELU(), depthwise, nn.GELU(), ends[1])


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor, head: int) -> Tensor:
    """Attention whose cost is linear in the positions: queries softmaxed over channels, keys over all positions.

    Args:
        queries, keys, values: (N, C, H, W).
        head: channels of a head.

    Returns:
        (N, C, H, W).
    """
    n, _, height, width = queries.shape
    query, key, value = (t.reshape(n, -1, head, height * width) for t in (queries, keys, values))
    summary = value @ torch.softmax(key, 3).transpose(2, 3)
    return (summary @ torch.softmax(query, 2)).reshape(n, -1, height, width)


class GlobalInterContext(nn.Module):
    """The context of all positions of earlier slices: (N, inputs, H, W) to (N, 2C, H, W).

    Raises:
        ValueError: `inputs` are no heads of 32.
    """

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        if inputs % HEAD:
            raise ValueError(f"{inputs} channels of earlier slices are no heads of {HEAD}")
        self.keys, self.queries, self.values = (projection(inputs) for _ in range(3))
        self.reprojection = nn.Conv2d(inputs, 3 * channels, 5, padding=2)
        self.mlp = feed_forward(3 * channels, 4 * channels, 2 * channels)
        self.skip = nn.Conv2d(3 * channels, 2 * channels, 1)

    def forward(self, decoded: Tensor) -> Tensor:
        found = linear_attention(self.queries(decoded), self.keys(decoded), self.values(decoded), HEAD)
        found = self.reprojection(found)
        return self.skip(found) + self.mlp(found)


class GlobalIntraContext(nn.Module):
    """The context of all anchors of the slice, weighed by how alike places were in the slice before: to (N, 2C, H, W).

    Two heads.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = channels // 2
        self.keys, self.queries, self.values = (projection(channels) for _ in range(3))
        self.reprojection = nn.Conv2d(channels, 2 * channels, 5, padding=2)
        self.mlp = feed_forward(2 * channels, 4 * channels, 2 * channels)

    def forward(self, previous: Tensor, anchors: Tensor, even: Tensor) -> Tensor:
        """The slice before, (N, C, H, W), this one, zero but at anchors, and the checkerboard."""
        queries = half(self.queries(previous * even), EVEN)
        keys = half(self.keys(previous * (1 - even)), ODD)
        values = half(self.values(anchors), ODD)
        found = self.reprojection(whole(linear_attention(queries, keys, values, self.head), EVEN))
        return found + self.mlp(found)


class EntropyParameters(nn.Module):
    """Contexts to scales and means, position by position: (N, inputs, H, W) to (N, 2C, H, W)."""

    def __init__(self, inputs: int, channels: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.fusion = convolutions((inputs, *hidden, 2 * channels), 1)

    def forward(self, contexts: Tensor) -> tuple[Tensor, Tensor]:
        scales, means = self.fusion(contexts).chunk(2, 1)
        return scales, means


class LatentResidual(nn.Module):
    """Latent residual prediction (Minnen and Singh 2020): what rounding took, within a half.

    Args:
        inputs: channels of hyper-means and decoded slices together.
        channels: of a slice.
        hidden: widths between.
    """

    def __init__(self, inputs: int, channels: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.lrp_transform = convolutions((inputs, *hidden, channels), 3)

    def forward(self, known: Tensor) -> Tensor:
        return 0.5 * torch.tanh(self.lrp_transform(known))


def side_of_window(relations: int) -> int:
    """The side of the windows whose places stand to each other in so many ways.

    Raises:
        ValueError: no window does.
    """
    side = (math.isqrt(relations) + 1) // 2
    if side < 1 or (2 * side - 1) ** 2 != relations or side % 2 == 0:
        raise ValueError(f"no window has {relations} relative positions")
    return side
