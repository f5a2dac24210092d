"""Recognises a checkpoint and builds the `Source` that it describes."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from export.source import Source
from export.ugicm import ugicm_source
from models.ugicm import UGICM, UGICMConfig

FORMAT = "ugicm-checkpoint-1"


class CheckpointError(Exception):
    """A checkpoint that cannot be served; the message says what was found and what is taken."""


def load(path: Path) -> Source:
    """Reads a checkpoint without executing anything in it.

    Raises:
        CheckpointError: no such file, no checkpoint, or one of something else.
    """
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; give a checkpoint written by training.train") from error
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        OSError,
        AttributeError,
    ) as error:
        raise CheckpointError(
            f"{path}: not a checkpoint that loads with weights_only=True; give one written by training.train"
        ) from error
    return recognise(values, path)


def recognise(values: Any, path: Path) -> Source:
    """The `Source` of loaded values.

    Raises:
        CheckpointError: they are of something else.
    """
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds a {type(values).__name__}, not a checkpoint written by training.train")
    if values.get("format") != FORMAT:
        keys = ", ".join(sorted(str(k) for k in values)[:4])
        raise CheckpointError(
            f"{path}: a checkpoint of something else (keys {keys}, …); "
            "taken are UG-ICM checkpoints as training.train writes them"
        )
    try:
        model = UGICM(UGICMConfig.from_dict(values["config"]))
        state = values["state_dict"]
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: its weights do not fit its configuration ({reason})") from error
    return ugicm_source(model)
