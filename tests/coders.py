"""A test module under each coder: `from tests.coders import each_coder` runs all of its tests once with each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from ugicm.runtime.coders import NAMES, VARIABLE, coder

__all__ = ["chosen", "each_coder"]


@contextmanager
def chosen(name: str) -> Iterator[None]:
    """This coder in this process and those that it starts."""
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


@pytest.fixture(scope="module", autouse=True, params=NAMES)
def each_coder(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the coder."""
    pytest.importorskip(request.param)
    with chosen(request.param):
        yield request.param
