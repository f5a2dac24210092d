"""CompressAI's checkpoints: which model a state dict is of, and that model with the weights in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.models.entropy import LOG_STEP, SCALE_MIN, SCALE_ROWS, compressai_module

EXACT = {
    "bmshj2018-factorized": "google.FactorizedPrior",
    "bmshj2018-factorized-relu": "google.FactorizedPriorReLU",
    "bmshj2018-hyperprior": "google.ScaleHyperprior",
    "mbt2018-mean": "google.MeanScaleHyperprior",
}
"""Architectures whose scales come from `z` alone, or from nothing → their class in compressai.models."""
CHECKERBOARDS = {
    "cheng2020-anchor-checkerboard": "sensetime.Cheng2020AnchorCheckerboard",
    "elic2022-official": "sensetime.Elic2022Official",
    "elic2022-chandelier": "sensetime.Elic2022Chandelier",
}
"""Architectures with a checkerboard context → their class."""
RASTER_SCANS = {
    "mbt2018": "google.JointAutoregressiveHierarchicalPriors",
    "cheng2020-anchor": "waseda.Cheng2020Anchor",
    "cheng2020-attn": "waseda.Cheng2020Attention",
}
"""Architectures with a raster-scan context → their class."""
VARIABLE = {
    "bmshj2018-hyperprior-vbr": "vbr.ScaleHyperpriorVbr",
    "mbt2018-mean-vbr": "vbr.MeanScaleHyperpriorVbr",
    "mbt2018-vbr": "vbr.JointAutoregressiveHierarchicalPriorsVbr",
}
"""Architectures of a variable rate → their class."""
SERVED = EXACT | CHECKERBOARDS | RASTER_SCANS | VARIABLE

_STAGES = (
    "its latents are decoded slice by slice, and export does not know the networks of its stages; take a model with "
    "context that it knows, such as elic2022-official or cheng2020-attn"
)
REFUSED = {
    "channel-conditional": _STAGES,
    "STF": _STAGES,
    "ELiC-ReImplemetation": _STAGES,
    "MLIC": _STAGES,
    "ssf2020": "it codes video; take a model of images",
}
"""Architecture → why not."""

_OTHERS = {
    "STF": ("cc_mean_transforms.", "syn_layers."),
    "channel-conditional": ("cc_mean_transforms.",),
    "ELiC-ReImplemetation": ("cc_transforms.", "ParamAggregation."),
    "MLIC": ("channel_context.", "local_context."),
    "ssf2020": ("img_encoder.", "motion_encoder."),
}
"""Architectures that are refused → starts of names that all stand in their state dicts; the first that fits counts."""
_GROUP = "latent_codec.y.latent_codec.y{}.context_prediction.bias"
_STEPS = "vr_entbttlnck"
_LISTED = re.compile(r"^entropy_bottleneck\.(matrices|biases|factors)\.(\d+)$")
_SINGULAR = {"matrices": "matrix", "biases": "bias", "factors": "factor"}
_TABLES = ("._offset", "._quantized_cdf", "._cdf_length", ".scale_table", ".context_prediction.mask")
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


def architecture_of(state: Mapping[str, Tensor]) -> str | None:
    """The name of the model that a state dict is of, served or refused; None for something else."""

    def has(part: str) -> bool:
        return any(part in key for key in state)

    for name, marks in _OTHERS.items():
        if all(any(key.startswith(mark) for key in state) for mark in marks):
            return name
    if has("latent_codec.y.channel_context.y1.0."):
        return _elic(state)
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


def _elic(state: Mapping[str, Tensor]) -> str | None:
    """Tells the two apart: they differ in the last layer of `h_s`, a transposed convolution or a plain one."""
    before, last = (state.get(f"latent_codec.hyper.h_s.{i}.weight") for i in (2, 4))
    if before is None or last is None or before.ndim != 4 or last.ndim != 4:
        return None
    return "elic2022-chandelier" if last.shape[1] == before.shape[1] else "elic2022-official"


def load_zoo(state: Mapping[str, Tensor], architecture: str) -> ZooModel:
    """Builds a model from a state dict as `state_of` gives it; any widths.

    Raises:
        ZooError: an architecture that is not served, or weights that are not of it.
    """
    if architecture in REFUSED:
        raise ZooError(f"a {architecture} model is not served: {REFUSED[architecture]}")
    if architecture not in SERVED:
        raise ZooError(f"unknown architecture {architecture!r}; there are {', '.join(SERVED)}")
    weights = {k: v for k, v in state.items() if not k.endswith(_TABLES)}
    steps = any(k.startswith("gayn2zqstep.") for k in weights)
    module: nn.Module = class_of(architecture)(*_widths(architecture, weights), **({_STEPS: True} if steps else {}))
    if steps:  # its entropy bottleneck is of another class, which has the old names
        weights = {_with_steps(k): v for k, v in weights.items()}
    if reason := unfit(module, weights):
        raise ZooError(f"its weights are not those of {architecture} ({reason}); is --arch right?")
    # Its own load_state_dict wants every table present; nn.Module's takes what is left after they are gone.
    nn.Module.load_state_dict(module, weights, strict=False)
    if not all(torch.isfinite(p).all() for p in module.parameters()):
        raise ZooError("some of its weights are not finite; take a checkpoint of before the training diverged")
    updated = any(k.endswith("entropy_bottleneck._quantized_cdf") and v.numel() > 0 for k, v in state.items())
    return ZooModel(architecture, module.eval(), scales_of(state, "factorized" not in architecture), updated)


def _with_steps(key: str) -> str:
    """The name of a parameter in an entropy bottleneck whose steps vary."""
    found = _LISTED.match(key)
    return f"entropy_bottleneck._{_SINGULAR[found[1]]}{found[2]}" if found else key


def class_of(architecture: str) -> Any:
    """The class of a served architecture."""
    file, name = SERVED[architecture].split(".")
    return getattr(compressai_module(f"models.{file}"), name)


def _widths(architecture: str, weights: Mapping[str, Tensor]) -> Sequence[Any]:
    """The arguments of an architecture's class; small ones where the weights do not tell, which then do not fit."""

    def width(name: str) -> int:
        return len(weights[name]) if name in weights and weights[name].ndim else 0

    if architecture.startswith("cheng2020"):
        return (width("g_a.0.conv1.bias") or 1,)
    if architecture not in CHECKERBOARDS:
        return (width("g_a.0.bias") or 1, width("g_a.6.bias") or 1)
    groups: list[int] = []
    while size := width(_GROUP.format(len(groups))) // 2:
        groups.append(size)
    return (width("g_a.0.bias") or 2, sum(groups) or 1, groups or [1])


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
    """float64 (rows,), the checkpoint's scale table or the standard one; empty without a hyperprior.

    Raises:
        ZooError: no table, or several that differ.
    """
    if not hyperprior:
        return np.zeros(0)
    name = "gaussian_conditional.scale_table"
    tables = [v.double().numpy() for k, v in state.items() if k.endswith(name) and v.numel()]
    if not tables:
        return SCALE_MIN * np.exp(LOG_STEP * np.arange(SCALE_ROWS))
    table = tables[0]
    if table.ndim != 1 or not 2 <= len(table) <= 256 or not table[0] > 0 or not np.all(np.diff(table) > 0):
        raise ZooError("its scale table is not 2 to 256 ascending positive values; update() it with another")
    if not all(np.array_equal(table, other) for other in tables):
        raise ZooError("its slices have scale tables that differ; update() it with one")
    return table
