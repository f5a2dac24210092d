"""Probabilities to the integer frequencies of the bundle: computed once, here, and never at decode time."""

from __future__ import annotations

import numpy as np
from scipy.special import erfc

TOTAL = 1 << 24


def integer_row(probabilities: np.ndarray, escape: float, floor: float = 0.0) -> np.ndarray:
    """Frequencies of a row, its escape last: each at least 1, summing to 2^24.

    Args:
        probabilities: (n,) of the symbols inside the support, any positive sum.
        escape: probability of everything outside it.
        floor: added to the probability of every entry. Real latents have heavier tails than their model, and what
            an unlikely symbol costs ends at -log2(floor) bits; it takes next to nothing from the likely ones.
    """
    shares = np.append(np.maximum(probabilities, 0.0), max(escape, 0.0))
    shares = shares / shares.sum() + floor
    shares = shares / shares.sum()
    frequencies = np.floor(shares * (TOTAL - len(shares))).astype(np.int64) + 1
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies.astype(np.uint32)


def mixture_row(
    shares: np.ndarray, scales: np.ndarray, tail: float = 1e-7, floor: float = 0.0
) -> tuple[np.ndarray, int]:
    """(frequencies, offset) of round(x), x of a mixture of normals with mean 0.

    Args:
        shares: (K,) of the components, summing to 1.
        scales: (K,) their standard deviations.
        tail: the support leaves at most this on either side.
        floor: as of `integer_row`.
    """

    def beyond(x: np.ndarray | float) -> np.ndarray:
        """P(value > x)."""
        return 0.5 * erfc(np.asarray(x)[..., None] / scales / np.sqrt(2)) @ shares

    reach = 1
    while beyond(reach + 0.5) > tail:
        reach += 1
    values = np.abs(np.arange(-reach, reach + 1))
    return integer_row(beyond(values - 0.5) - beyond(values + 0.5), float(2 * beyond(reach + 0.5)), floor), -reach


def latent_tables(
    shares: np.ndarray, scales: np.ndarray, skip_below: float, tail: float = 1e-7, floor: float = 0.0
) -> dict[str, np.ndarray]:
    """The `y_*` arrays of (rows, K) mixtures of normals.

    Rows whose symbols are non-zero with less than the probability `skip_below` are skipped.
    """
    rows = []
    for share, scale in zip(shares, scales, strict=True):
        skipped = erfc(0.5 / scale / np.sqrt(2)) @ share < skip_below
        rows.append((np.zeros(0, np.uint32), 0) if skipped else mixture_row(share, scale, tail, floor))
    return _arrays("y", rows)


def factorised_tables(
    probabilities: np.ndarray, name: str = "z", tail: float = 1e-7, floor: float = 0.0
) -> dict[str, np.ndarray]:
    """The `z_*` (or `y_*`) arrays from (channels, 2·reach + 1) probabilities of n = -reach..reach, a row a channel.

    The support of a channel drops on either side what holds at most `tail`.
    """
    reach = probabilities.shape[1] // 2
    rows = []
    for p in probabilities:
        first = int(np.searchsorted(np.cumsum(p), tail))
        last = len(p) - int(np.searchsorted(np.cumsum(p[::-1]), tail))
        first, last = (first, last) if first < last else (reach, reach + 1)
        rows.append((integer_row(p[first:last], 1.0 - float(p[first:last].sum()), floor), first - reach))
    return _arrays(name, rows)


def _arrays(name: str, rows: list[tuple[np.ndarray, int]]) -> dict[str, np.ndarray]:
    return {
        f"{name}_frequencies": np.concatenate([np.zeros(0, np.uint32), *(frequencies for frequencies, _ in rows)]),
        f"{name}_lengths": np.array([len(frequencies) for frequencies, _ in rows], np.int32),
        f"{name}_offsets": np.array([offset for _, offset in rows], np.int32),
    }
