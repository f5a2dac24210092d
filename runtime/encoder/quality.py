"""The quality that an encoder is asked for."""

from __future__ import annotations

import math

import numpy as np

from ugicm.runtime import between
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import QualityError

DEFAULT_QUALITY = 4


def default_quality(qualities: int) -> int:
    """The quality of a codec with so many, 1 to `qualities`, where none is named: 4, or its best if it has fewer."""
    return min(DEFAULT_QUALITY, qualities)


def ladder(bundle: Bundle) -> list[int]:
    """The bytes of all qualities of a codec, lowest quality first."""
    return between.ladder(bundle.manifest.qualities)


def quality_byte(asked: float | None, bundle: Bundle) -> int:
    """The byte of a quality from 1 to the codec's best, the nearest step where it is not whole; None: the default.

    Raises:
        QualityError: one that the codec does not have.
    """
    qualities = bundle.manifest.qualities
    if asked is None:
        return default_quality(qualities)
    number = not isinstance(asked, bool) and isinstance(asked, int | float | np.integer | np.floating)
    if not number or not math.isfinite(asked) or not 1 <= asked <= qualities:
        raise QualityError(f"quality {asked!r} is not one of this codec's: 1 to {qualities}")
    if asked != int(asked) and between.division(qualities) == 1:
        raise QualityError(f"quality {asked!r} is not one of this codec's: whole numbers from 1 to {qualities}")
    return between.byte_of(float(asked), qualities)
