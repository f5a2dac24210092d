"""Recognises a checkpoint and builds the `Source` that it describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ugicm.export.checkerboard_source import checkerboard_source
from ugicm.export.checkpoint_file import CheckpointError, read
from ugicm.export.compressai_source import compressai_source
from ugicm.export.compressai_zoo import (
    CHECKERBOARDS,
    RASTER_SCANS,
    SERVED,
    VARIABLE,
    ZooError,
    architecture_of,
    load_zoo,
)
from ugicm.export.mlic_source import architecture_of_mlic, load_mlic, mlic_source
from ugicm.export.source import Source
from ugicm.export.state import state_of
from ugicm.export.tcm_source import NAME as TCM_NAME
from ugicm.export.tcm_source import is_tcm, load_tcm, tcm_source
from ugicm.export.ugicm import ugicm_source, with_analysis
from ugicm.export.vbr_source import variable_source
from ugicm.export.wavefront_source import wavefront_source
from ugicm.models.ugicm import UGICM, UGICMConfig

FORMAT = "ugicm-checkpoint-1"
TAKEN = f"ugicm.training.train, UG-ICM's, MLIC++'s or TCM's authors, or CompressAI's {', '.join(SERVED)}"


def load(path: Path, architecture: str | None = None) -> Source:
    """Reads a checkpoint, PyTorch's or safetensors, without executing anything in it.

    Args:
        path: the file.
        architecture: of a checkpoint not written by `ugicm.training`, by name; None recognises it.

    Raises:
        CheckpointError: no such file, no checkpoint, or one of something else.
    """
    return recognise(read(path, TAKEN), path, architecture)


def recognise(values: Any, path: Path, architecture: str | None = None) -> Source:
    """The `Source` of loaded values.

    Raises:
        CheckpointError: they are of something else.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds a {type(values).__name__}, not a checkpoint of {TAKEN}")
    if values.get("format") != FORMAT:
        return _foreign(values, path, architecture)
    if architecture is not None:
        raise CheckpointError(f"{path}: a checkpoint of ugicm.training says itself what it is; leave --arch out")
    return ugicm_source(_own(values, path))


def load_with_analysis(path: Path, larger: Path) -> Source:
    """A codec of `ugicm.training`, and the analysis of another checkpoint of it for encoding with effort.

    Raises:
        CheckpointError: either is none, or they differ in more than `g_a`.
    """
    models = []
    for file in (path, larger):
        values = read(file, TAKEN)
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise CheckpointError(f"{file}: --analysis is of two checkpoints of ugicm.training; this is none")
        models.append(_own(values, file))
    try:
        return with_analysis(ugicm_source(models[0]), *models)
    except ValueError as error:
        raise CheckpointError(f"{larger}: {error}; train it with --config analysis --init {path}") from error


def _own(values: dict[str, Any], path: Path) -> UGICM:
    """The model of a checkpoint of `ugicm.training`. Raises CheckpointError."""
    try:
        model = UGICM(UGICMConfig.from_dict(values["config"]))
        state = values["state_dict"]
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its weights do not fit its configuration ({reason})") from error
    return model


def _foreign(values: dict[Any, Any], path: Path, architecture: str | None) -> Source:
    """The `Source` of a checkpoint that `ugicm.training` did not write, if it is one that is taken."""
    state = state_of(values)
    name = None if state is None else architecture_of_mlic(state) or (TCM_NAME if is_tcm(state) else None)
    if state is not None and name is not None:
        if architecture not in (None, name):
            raise CheckpointError(f"{path}: holds {name}, not {architecture}; leave --arch out")
        try:
            return tcm_source(*load_tcm(state)) if name == TCM_NAME else mlic_source(*load_mlic(state))
        except ZooError as error:
            raise CheckpointError(f"{path}: {error}") from error
    found = architecture or (architecture_of(state) if state else None)
    if state is None or found is None:
        keys = ", ".join(sorted(str(k) for k in values)[:4])
        raise CheckpointError(
            f"{path}: a checkpoint of something else (keys {keys}, …); taken are those of {TAKEN} (--arch says which)"
        )
    try:
        zoo = load_zoo(state, found)
        if found in VARIABLE:
            return variable_source(zoo)
        if found in RASTER_SCANS:
            return wavefront_source(zoo)
        return checkerboard_source(zoo) if found in CHECKERBOARDS else compressai_source(zoo)
    except (ZooError, ValueError) as error:
        raise CheckpointError(f"{path}: {error}") from error
