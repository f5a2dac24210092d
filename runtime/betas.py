"""Conditions that are numbers: betas from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import ConditionError


def vectors_of_beta(bundle: Bundle, condition: str | float, run: Callable[..., Any]) -> np.ndarray:
    """(1, D) float32 vectors of a beta, those of a name where it has one; see `Networks.condition`.

    Raises:
        ConditionError: no number from 0 to 1, or asked of a codec with one view.
    """
    if not bundle.manifest.conditions:
        raise ConditionError(
            f"this codec ({bundle.manifest.architecture}) was trained for one view; leave --condition out"
        )
    try:
        beta = float(condition)
    except (TypeError, ValueError):
        beta = math.nan
    for name, named in bundle.manifest.conditions.items():
        if beta == named:
            return bundle.condition_vectors[name]
    if not 0 <= beta <= 1:
        names = ", ".join(bundle.manifest.conditions)
        raise ConditionError(f"unknown condition {condition!r}; give {names} or a number from 0 to 1")
    return np.asarray(run("condition", beta=np.asarray([beta], np.float32)))
