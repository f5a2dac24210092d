"""Which range coder runs on this machine, for `ugicm env` and `ugicm info`."""

from __future__ import annotations

from ugicm.runtime import coders
from ugicm.runtime.errors import BackendError


def coder_here() -> str:
    """Its name, or why there is none, in words."""
    try:
        return coders.name()
    except BackendError as error:
        return f"none works: {error}"
