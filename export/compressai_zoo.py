"""CompressAI's checkpoints: which model a state dict is of, and that model with the weights in it.

What is served are the models whose scales depend on `z` alone, or on nothing; the others are refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.models.entropy import LOG_STEP, SCALE_MIN, SCALE_ROWS, compressai_module

SERVED = {
    "bmshj2018-factorized": "FactorizedPrior",
    "bmshj2018-factorized-relu": "FactorizedPriorReLU",
    "bmshj2018-hyperprior": "ScaleHyperprior",
    "mbt2018-mean": "MeanScaleHyperprior",
}
"""Architecture → its class in compressai.models.google."""

_SERIAL = (
    "the scales of its latents depend on latents decoded before them (serial context), which cannot be served exactly "
    "here; take a model whose scales come from z alone, such as mbt2018-mean or bmshj2018-hyperprior"
)
_VARIABLE = (
    "its gains scale what h_s says too and its reconstruction adds learned offsets: more than a scaling of the "
    "latents; take a fixed-rate checkpoint for each quality, such as mbt2018-mean or bmshj2018-hyperprior"
)
REFUSED = {
    "elic2022": _SERIAL,
    "cheng2020-anchor-checkerboard": _SERIAL,
    "cheng2020-attn": _SERIAL,
    "cheng2020-anchor": _SERIAL,
    "mbt2018-vbr": _SERIAL,
    "mbt2018": _SERIAL,
    "channel-conditional": _SERIAL,
    "mbt2018-mean-vbr": _VARIABLE,
    "bmshj2018-hyperprior-vbr": _VARIABLE,
}
"""Architecture → why not."""

_WRAPPERS = ("state_dict", "network", "model_state_dict")
_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")
_OLD_NAME = re.compile(r"^entropy_bottleneck\._(matrix|bias|factor|matrices\.|biases\.|factors\.)(\d+)$")
_LISTS = {"matrix": "matrices.", "bias": "biases.", "factor": "factors."}
_TABLES = ("._offset", "._quantized_cdf", "._cdf_length", ".scale_table")
_CONSTANTS = (".bound", ".pedestal", ".target", ".scale_bound")


class ZooError(Exception):
    """A state dict that is not served; the message, which lacks the file's name, says why and what would serve."""


@dataclass(frozen=True)
class ZooModel:
    """A model of CompressAI, as a checkpoint holds it.

    Attributes:
        architecture: a name in `SERVED`.
        module: with the weights, in evaluation mode, its tables not updated.
        scales: float64 (rows,), the checkpoint's scale table, or the standard one; empty without a hyperprior.
        updated: whether the checkpoint holds entropy tables.
    """

    architecture: str
    module: nn.Module
    scales: np.ndarray
    updated: bool


def state_of(values: Mapping[Any, Any]) -> dict[str, Tensor] | None:
    """The state dict in what was loaded, bare or wrapped, with today's key names; None where there is none."""
    for key in _WRAPPERS:
        if isinstance(values.get(key), Mapping):
            values = values[key]
            break
    if not values or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in values.items()):
        return None
    return {_key(k): v.float() if v.is_floating_point() else v for k, v in values.items()}


def _key(key: str) -> str:
    """A key without the prefixes of wrappers, and with the entropy bottleneck's parameters in lists."""
    key = _PREFIX.sub("", key)
    if old := _OLD_NAME.match(key):
        return f"entropy_bottleneck.{_LISTS.get(old[1], old[1])}{old[2]}"
    return key


def architecture_of(state: Mapping[str, Tensor]) -> str | None:
    """The name of the model that a state dict is of, served or refused; None for something else."""

    def has(part: str) -> bool:
        return any(part in key for key in state)

    if has("cc_mean_transforms.") or has("cc_scale_transforms."):
        return "channel-conditional"
    if has("channel_context."):
        return "elic2022"
    if has("context_prediction."):
        if has("latent_codec."):
            return "cheng2020-anchor-checkerboard"
        if has("g_a.0.conv1."):
            return "cheng2020-attn" if has("g_a.3.conv_a.") or has("g_a.5.conv_a.") else "cheng2020-anchor"
        return "mbt2018-vbr" if "Gain" in state else "mbt2018"
    if "g_a.6.weight" not in state or "g_s.6.weight" not in state or not has("entropy_bottleneck.matrices."):
        return None
    if not has("h_s."):
        return "bmshj2018-factorized" if "g_a.1.gamma" in state else "bmshj2018-factorized-relu"
    if "h_s.4.weight" not in state:
        return None
    means = state["h_s.4.weight"].shape[0] == 2 * state["g_a.6.weight"].shape[0]
    return ("mbt2018-mean" if means else "bmshj2018-hyperprior") + ("-vbr" if "Gain" in state else "")


def load_zoo(state: Mapping[str, Tensor], architecture: str) -> ZooModel:
    """Builds a model from a state dict as `state_of` gives it; any widths.

    Raises:
        ZooError: an architecture that is not served, or weights that are not of it.
    """
    if architecture in REFUSED:
        raise ZooError(f"a {architecture} model is not served: {REFUSED[architecture]}")
    if architecture not in SERVED:
        raise ZooError(f"unknown architecture {architecture!r}; there are {', '.join(SERVED)}")
    kind = getattr(compressai_module("models.google"), SERVED[architecture])
    weights = {k: v for k, v in state.items() if not k.endswith(_TABLES)}
    n, m = (len(weights.get(f"g_a.{i}.bias", ())) for i in (0, 6))
    module: nn.Module = kind(n, m) if n and m else kind(1, 1)
    if reason := unfit(module, weights):
        raise ZooError(f"its weights are not those of {architecture} ({reason}); is --arch right?")
    # Its own load_state_dict wants every table present; nn.Module's takes what is left after they are gone.
    nn.Module.load_state_dict(module, weights, strict=False)
    if not all(torch.isfinite(p).all() for p in module.parameters()):
        raise ZooError("some of its weights are not finite; take a checkpoint of before the training diverged")
    updated = state.get("entropy_bottleneck._quantized_cdf", torch.empty(0)).numel() > 0
    return ZooModel(architecture, module.eval(), scales_of(state, hasattr(module, "h_s")), updated)


def unfit(module: nn.Module, weights: Mapping[str, Tensor]) -> str:
    """Why weights are not those of a module; empty where they are."""
    wanted = dict(module.named_parameters())
    known = {*wanted, *module.state_dict()}
    for name in weights:
        if name not in known and not name.endswith(_CONSTANTS):
            return f"{name} is none of them"
    for name, parameter in wanted.items():
        if name not in weights:
            return f"{name} is missing"
        if weights[name].shape != parameter.shape:
            return f"{name} has shape {tuple(weights[name].shape)}, not {tuple(parameter.shape)}"
    return ""


def scales_of(state: Mapping[str, Tensor], hyperprior: bool) -> np.ndarray:
    """float64 (rows,), the checkpoint's scale table or the standard one; empty without a hyperprior."""
    if not hyperprior:
        return np.zeros(0)
    table = state.get("gaussian_conditional.scale_table", torch.empty(0)).double().numpy()
    if not table.size:
        return SCALE_MIN * np.exp(LOG_STEP * np.arange(SCALE_ROWS))
    if table.ndim != 1 or not 2 <= len(table) <= 256 or table[0] <= 0 or np.any(np.diff(table) <= 0):
        raise ZooError("its scale table is not 2 to 256 ascending positive values; update() it with another")
    return table
