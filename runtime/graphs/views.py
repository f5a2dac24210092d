"""The weights of a view: those of the general graph, joined with what a condition adds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from ugicm.runtime.manifest import Join


def view_weights(
    weights: Mapping[str, np.ndarray], joins: Iterable[Join], condition: np.ndarray
) -> dict[str, np.ndarray]:
    """The general graph's weights (float32; int64 where a join names an order) under a condition, (1, D) float32.

    Raises ValueError: a tensor is missing or does not fit.
    """
    given = dict(weights)
    for join in joins:
        try:
            weight, down, up = (weights[name] for name in (join.weight, join.down, join.up))
            bias = weights.get(join.bias, np.zeros(weight.shape[0], np.float32))
            gate, shift = condition[0, slice(*join.gate)], None
            if join.shift is not None:
                shift = condition[0, slice(*join.shift)]
                shift = shift if join.order is None else shift[weights[join.order]]
                shift = shift if join.units is None else shift * weights[join.units].reshape(-1)
        except (KeyError, IndexError) as error:
            raise ValueError(f"nothing makes {str(error)[:80]}, which a view reads") from None
        (out, into), rank = weight.shape[:2], gate.size
        if weight.shape != (out, into, 1, 1) or down.shape != (rank, into, 1, 1) or up.shape != (out, rank, 1, 1):
            raise ValueError(f"what a condition adds to {join.weight[:80]!r} does not fit it")
        if bias.shape != (out,) or (shift is not None and shift.shape != (out,)):
            raise ValueError(f"what a condition adds to {join.bias[:80]!r} does not fit it")
        added = (up[:, :, 0, 0] * gate) @ down[:, :, 0, 0]
        given[join.weight] = weight + added[:, :, None, None]
        given[join.bias] = bias if shift is None else bias + shift
    return given
