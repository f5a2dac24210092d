"""Conditions: names and numbers to the vectors that `g_s` takes."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import ConditionError


def condition_vectors(
    bundle: Bundle, condition: str | float | None, of_beta: Callable[[float], np.ndarray]
) -> np.ndarray | None:
    """(1, D) float32 vectors of a condition; None for a codec without conditions.

    Args:
        condition: a name of the bundle's, a beta in [0, 1], or None for the first name.
        of_beta: computes the vectors of a beta without a name.

    Raises:
        ConditionError: unknown, out of range, or asked of a codec with one view.
    """
    names = tuple(bundle.manifest.conditions)
    if not names:
        if condition is None:
            return None
        raise ConditionError(
            f"this codec ({bundle.manifest.architecture}) was trained for one view; leave --condition out"
        )
    if condition is None:
        condition = names[0]
    if isinstance(condition, str) and condition in bundle.condition_vectors:
        return bundle.condition_vectors[condition]
    try:
        beta = float(condition)
    except (TypeError, ValueError):
        beta = math.nan
    for name, named in bundle.manifest.conditions.items():
        if beta == named:
            return bundle.condition_vectors[name]
    if not 0 <= beta <= 1:
        raise ConditionError(f"unknown condition {condition!r}; give {', '.join(names)} or a number from 0 to 1")
    return of_beta(beta)
