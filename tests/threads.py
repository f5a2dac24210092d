"""PyTorch's threads, which are one setting of a whole process."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def torchs_threads_kept() -> Iterator[None]:
    """Puts their number back in the end, where PyTorch was imported in the beginning."""
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    try:
        yield
    finally:
        if torch is not None and torch.get_num_threads() != before:
            torch.set_num_threads(before)
