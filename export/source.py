"""The facts that export needs of a codec, whatever checkpoint it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.calibration.exact.integer import FloatLayer
from ugicm.runtime.schedule import Schedule


@dataclass(frozen=True)
class GraphSource:
    """A graph to export.

    Attributes:
        module: the wrapper, in evaluation mode; its forward takes `inputs` in order.
        inputs, outputs: names in the bundle.
        example: (height, width in strides of the codec, batch) to example inputs.
        dynamic: for each input, axis → symbol as "n", "h", "w", or "p" for a number of positions, or a multiple such as
            "4h".
        tolerance: largest difference from PyTorch that the check after export accepts, in units of the output.
        like: an earlier graph of the same module class, which differs in the sizes and values of parameters and buffers
            alone: then tracing that one serves both. None traces this one.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    example: Callable[[int, int, int], tuple[Tensor, ...]]
    dynamic: tuple[dict[int, str], ...]
    tolerance: float
    like: str | None = None


@dataclass(frozen=True)
class HyperSynthesis:
    """The float `h_s`, as layers that calibration makes integer.

    Attributes:
        layers: convolutions in order.
        head: "row" where scale channels are fractional scale indexes, "linear" where they are the scales themselves.
        medians: (Nz,) what the float network saw added to the centred integers; None for nothing.
        has_means: whether as many mean channels follow the scale channels.
    """

    layers: list[FloatLayer]
    head: Literal["row", "linear"]
    medians: np.ndarray | None
    has_means: bool


@dataclass(frozen=True)
class Source:
    """A codec, ready to be written as a bundle.

    Attributes:
        architecture: e.g. "ugicm-fast".
        stride, latent_stride, latent_channels, hyper_channels, qualities: as in the manifest.
        graphs: name → graph, without an `h_s` that becomes integer; with `h_s` and the graphs of all stages where there
            is a schedule.
        hyper_synthesis: the part that becomes integer; None with a schedule, and where `y` has a factorised prior.
        scales: (rows,) standard deviation of each row of the scale table; none with a factorised prior.
        shares, widths: (rows, K) the mixture of normals of each row and their standard deviations; None is one, of
            the row's own.
        z_probabilities: (Nz, 2·reach + 1) P(z = n), n = -reach..reach, centred integers; Nz is 0 without `z`. Or as
            many rows for each quality, one quality after another.
        gain, inverse_gain: (qualities, M).
        conditions: name → (beta, (D,) vectors); empty for one view.
        context: "checkerboard" or None.
        context_digest: SHA-256 of the weights that decide means in float (the context's, or those of a float `h_s` for
            means), "" where there are none.
        analyse: (3, H, W) image in [0, 1] and 0-based quality to real integer `z`, for calibration on images.
        model: facts for people.
        y_probabilities: (M, 2·reach + 1), as of `z`, with a factorised prior of `y`, else None.
        skip_below: symbols of a scale whose probability of being non-zero is smaller are not coded but taken for 0.
        table_tail, table_floor: what a row's support may leave out on either side, and the least probability of an
            entry; see `ugicm.export.tables`.
        notes: what export should tell of the checkpoint, a line each.
        schedule: how a codec with context decodes `y`; its band is what export proposes before it has measured. None
            where every scale comes from integers.
        guarded: gives the same codec with a schedule of one stage, whose scales are floats, for a `h_s` of which no
            integers have a proof; None where there is no such form.
    """

    architecture: str
    stride: int
    latent_stride: int
    latent_channels: int
    hyper_channels: int
    qualities: int
    graphs: dict[str, GraphSource]
    hyper_synthesis: HyperSynthesis | None
    scales: np.ndarray
    z_probabilities: np.ndarray
    gain: np.ndarray
    inverse_gain: np.ndarray
    conditions: dict[str, tuple[float, np.ndarray]]
    context: str | None
    context_digest: str
    analyse: Callable[[Tensor, int], np.ndarray]
    model: dict[str, Any] = field(default_factory=dict)
    y_probabilities: np.ndarray | None = None
    shares: np.ndarray | None = None
    widths: np.ndarray | None = None
    skip_below: float = 1e-4
    table_tail: float = 1e-7
    table_floor: float = 0.0
    notes: tuple[str, ...] = ()
    schedule: Schedule | None = None
    guarded: Callable[[], Source] | None = None


class ImageInput(nn.Module):
    """(N, H, W, 3) uint8 to (N, 3, H, W) float in [0, 1]."""

    def forward(self, image: Tensor) -> Tensor:
        return image.permute(0, 3, 1, 2).float() / 255


class ImageOutput(nn.Module):
    """(N, 3, H, W) float, about [0, 1], to (N, H, W, 3) uint8."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.round(x.clamp(0, 1) * 255).to(torch.uint8).permute(0, 2, 3, 1)


def digest(module: nn.Module) -> str:
    """SHA-256 of a module's weights as fp32, names included."""
    h = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        h.update(name.encode() + b"\0" + tensor.float().numpy().tobytes())
    return h.hexdigest()
