"""The quality that is meant where none is named."""

from __future__ import annotations

DEFAULT_QUALITY = 4


def default_quality(qualities: int) -> int:
    """The quality of a codec with so many, 1 to `qualities`, where none is named: 4, or its best if it has fewer."""
    return min(DEFAULT_QUALITY, qualities)
