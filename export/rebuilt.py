"""What networks of our own modules with their authors' weights have in common: loading, and counts of work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.export.compressai_zoo import ZooError, scales_of, unfit
from ugicm.models.macs import count_macs

Network = TypeVar("Network", bound=nn.Module)
Shapes = dict[str, tuple[int, ...]]


def rebuilt(
    name: str, state: Mapping[str, Tensor], follows: tuple[str, ...], build: Callable[[Shapes], Network]
) -> tuple[Network, np.ndarray]:
    """A network in evaluation mode with the weights of a state dict, and its scale table, float64 (rows,).

    Args:
        name: of the network, in words.
        state: the state dict.
        follows: endings of keys that repeat others, or the scale table.
        build: the network of the shapes by name that the other weights have; raises ValueError and the like.

    Raises:
        ZooError: weights that are not those of such a network.
    """
    weights = {k: v for k, v in state.items() if not k.endswith(follows)}
    try:
        model = build({key: tuple(tensor.shape) for key, tensor in weights.items()})
    except (ValueError, TypeError, IndexError, RuntimeError, ZeroDivisionError) as error:
        raise ZooError(f"its weights are not those of {name} ({str(error).splitlines()[0]})") from error
    if reason := unfit(model, weights):
        raise ZooError(f"its weights are not those of {name} ({reason})")
    model.load_state_dict(weights, strict=False)
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise ZooError("some of its weights are not finite; take a checkpoint of before the training diverged")
    return model.eval(), scales_of(state, hyperprior=True)


def kmac_per_pixel(
    model: nn.Module,
    runs: Mapping[str, tuple[nn.Module, Callable[[], Any]]],
    encode: Callable[[], Any],
    pixels: int,
) -> dict[str, float]:
    """kMAC/pixel of the transforms, of all stages, and of "encode" and "decode"; products within attention apart.

    Args:
        model: the whole network.
        runs: "g_a", "h_a", "h_s" and "g_s" → module and a run of it.
        encode: a run of all but `g_s`.
        pixels: of the picture that the runs are of.
    """
    counts = {k: count_macs(module, run) / pixels / 1000 for k, (module, run) in runs.items()}
    whole = count_macs(model, encode) / pixels / 1000
    counts["stages"] = whole - counts["g_a"] - counts["h_a"] - counts["h_s"]
    counts["encode"], counts["decode"] = whole, counts["h_s"] + counts["stages"] + counts["g_s"]
    return {k: round(v, 3) for k, v in counts.items()}
