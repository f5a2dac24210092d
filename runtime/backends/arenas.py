"""Memory that sessions of ONNX Runtime keep from one run to the next, given back."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ugicm.runtime.backends.onnxruntime import RUN_OPTIONS


@contextmanager
def given_back() -> Iterator[None]:
    """While this lasts each run of this thread ends by giving the system what its session keeps and does not need."""
    library = sys.modules.get("onnxruntime")
    if library is None:
        yield
        return
    options = library.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    token = RUN_OPTIONS.set(options)
    try:
        yield
    finally:
        RUN_OPTIONS.reset(token)
