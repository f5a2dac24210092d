"""Which range coder runs on this machine, in words, and another one for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ugicm.runtime.coders import VARIABLE, coder
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


@contextmanager
def chosen(name: str) -> Iterator[None]:
    """This coder in this process, and in those that it starts."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = name
    coder.cache_clear()
    try:
        yield
    finally:
        del os.environ[VARIABLE]
        if before is not None:
            os.environ[VARIABLE] = before
        coder.cache_clear()
