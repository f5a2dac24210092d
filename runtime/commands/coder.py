"""Which range coder runs on this machine, for `ugicm env` and `ugicm info`."""

from __future__ import annotations

from ugicm.runtime.coders import coder
from ugicm.runtime.errors import BackendError


def coder_name() -> str:
    """One of `ugicm.runtime.coders.NAMES`. Raises BackendError: there is none."""
    return coder().__name__.rsplit("_", 1)[-1]


def coder_here() -> str:
    """Its name, or why there is none, in words."""
    try:
        return coder_name()
    except BackendError as error:
        return f"none works: {error}"
