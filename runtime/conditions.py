"""Conditions: names and numbers to the vectors that `g_s` takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ugicm.runtime.bundle import Bundle


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
    if condition is None:
        return next(iter(bundle.condition_vectors.values()), None)
    if isinstance(condition, str) and condition in bundle.condition_vectors:
        return bundle.condition_vectors[condition]
    from ugicm.runtime.betas import vectors_of_beta

    return vectors_of_beta(bundle, condition, of_beta)
