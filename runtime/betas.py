"""Conditions that are numbers: betas from 0 to 1."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime.errors import ConditionError

if TYPE_CHECKING:
    from ugicm.runtime.graphs.run import Networks


def vectors_of_beta(networks: Networks, condition: str | float) -> np.ndarray:
    """(1, D) float32 vectors of a beta, those of a name where it has one; see `Networks.condition`.

    Raises:
        ConditionError: no number from 0 to 1, or asked of a codec with one view.
    """
    bundle = networks.bundle
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
    return np.asarray(networks.run("condition", beta=np.asarray([beta], np.float32)))
