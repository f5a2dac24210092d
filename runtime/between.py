"""Qualities between a codec's whole ones: the bytes that name them in a file, and their gains.

A codec of n qualities names them 1 to n. The next bytes name steps between them, from the lowest up: a whole quality is
divided into 32 steps, or into the largest power of two with which all fit into a byte. Gains are interpolated in their
logarithms, so they need no place in a bundle and every bundle of several qualities has them.
"""

from __future__ import annotations

import numpy as np

from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import CorruptFileError

FINEST = 32
LARGEST_BYTE = 255


def division(qualities: int) -> int:
    """How many steps lie from one whole quality to the next: 1 where there is no room for any between."""
    steps = FINEST
    while steps > 1 and (qualities - 1) * steps + 1 > LARGEST_BYTE:
        steps //= 2
    return steps if qualities > 1 else 1


def ladder(qualities: int) -> list[int]:
    """The bytes of all qualities, lowest quality first."""
    steps = division(qualities)
    return [byte_of(1 + k / steps, qualities) for k in range((qualities - 1) * steps + 1)]


def byte_of(quality: float, qualities: int) -> int:
    """The byte of the step nearest to a quality of 1 to `qualities`."""
    steps = division(qualities)
    whole, part = divmod(round((quality - 1) * steps), steps)
    return whole + 1 if not part else qualities + whole * (steps - 1) + part


def quality_of(byte: int, qualities: int) -> float:
    """The quality that a byte names. Raises ValueError: none of a codec with so many."""
    steps = division(qualities)
    if not 1 <= byte <= (qualities - 1) * steps + 1:
        raise ValueError(f"quality byte {byte} names no quality of a codec that has {qualities}")
    if byte <= qualities:
        return float(byte)
    whole, part = divmod(byte - qualities - 1, steps - 1)
    return whole + 1 + (part + 1) / steps


def between(gains: np.ndarray, byte: int) -> np.ndarray:
    """(1, M, 1, 1) float32 gains, or inverse gains, of a byte.

    Args:
        gains: (qualities, M, 1, 1) float32, those of the whole qualities, not 0 and of one sign in each channel.

    Raises:
        ValueError: none of these qualities, or one between gains without a logarithm.
    """
    quality = quality_of(byte, len(gains))
    low = min(int(quality), len(gains) - 1)
    pair, part = gains[low - 1 : low + 1].astype(np.float64), quality - low
    if not (pair[0] * pair[1] > 0).all():
        raise ValueError(f"quality byte {byte} lies between gains that cannot be interpolated")
    size = np.exp((1 - part) * np.log(np.abs(pair[0])) + part * np.log(np.abs(pair[1])))
    found: np.ndarray = (np.sign(pair[0]) * size).astype(np.float32)[None]
    return found


def check_byte(bundle: Bundle, byte: int, name: str) -> None:
    """Raises CorruptFileError: a file, which errors call `name`, is of a quality that a bundle does not have."""
    try:
        between(bundle.inverse_gain, byte)
    except ValueError as error:
        raise CorruptFileError(
            f"{name}: {error}; get the file again, or name a newer bundle of its codec with --bundle"
        ) from None
