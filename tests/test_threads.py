"""A test's threads of PyTorch are its own."""

from __future__ import annotations

import pytest
import torch

from tests.threads import torchs_threads_kept


def test_threads_are_put_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), torchs_threads_kept():
        torch.set_num_threads(before + 1)
        raise ZeroDivisionError
    assert torch.get_num_threads() == before


def test_every_test_has_this(request: pytest.FixtureRequest) -> None:
    assert "own_threads" in request.fixturenames
