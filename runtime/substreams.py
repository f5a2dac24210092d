"""Where substreams begin that share the coded symbols of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 8192  # symbols that are counted at once


def shares(coded: NDArray[np.bool_] | None, size: int, substreams: int) -> list[slice]:
    """Consecutive parts of so many symbols, of which some are coded (None: all are): equal numbers of these in each."""
    total = size if coded is None else int(np.count_nonzero(coded))
    cuts = [i * total // substreams for i in range(substreams)]
    if coded is not None and total < size:
        cuts = positions(coded, cuts, total)
    cuts[0] = 0
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], size], strict=True)]


def positions(mask: NDArray[np.bool_], ordinals: list[int], total: int) -> list[int]:
    """Where the true elements of these ordinals stand, of `total`; the end for one past the last. Ascending."""
    if len(ordinals) * _BLOCK > mask.size:
        positions = np.append(np.flatnonzero(mask), mask.size)
        return [int(p) for p in positions[ordinals]]
    # Counting is a hundred times faster than listing, so only the blocks that are wanted are listed.
    counts = [np.count_nonzero(mask[at : at + _BLOCK]) for at in range(0, mask.size, _BLOCK)]
    ends = np.cumsum(counts)
    out = []
    for ordinal, block in zip(ordinals, np.searchsorted(ends, ordinals, side="right").tolist(), strict=True):
        if ordinal >= total:
            out.append(mask.size)
            continue
        inside = np.flatnonzero(mask[block * _BLOCK : (block + 1) * _BLOCK])
        out.append(block * _BLOCK + int(inside[ordinal - int(ends[block]) + counts[block]]))
    return out
