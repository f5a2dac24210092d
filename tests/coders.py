"""A test module under each coder: `from tests.coders import each_coder` runs all of its tests once with each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ugicm.runtime.coders import NAMES
from ugicm.runtime.commands.coder import chosen

__all__ = ["chosen", "each_coder"]


@pytest.fixture(scope="module", autouse=True, params=NAMES)
def each_coder(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the coder."""
    pytest.importorskip(request.param)
    with chosen(request.param):
        yield request.param
