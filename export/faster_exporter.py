"""PyTorch's exporter without work that it does again for every graph, most of all for small ones."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator
from typing import Any

_KEPT: dict[tuple[tuple[str, Any], ...], Any] = {}


@contextlib.contextmanager
def hurried() -> Iterator[None]:
    """The exporter parses its translations once a process, and no garbage is collected while it runs.

    What it makes is the same. It asks for the translations of all operators before each graph, and would parse their
    sources each time; and the objects of a trace, through which the collector goes again and again, are needed to its
    end.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _translations_kept():
            yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _translations_kept() -> Iterator[None]:
    """A registry of translations is read once for each set of options, where this version of torch has that class."""
    try:
        registry = importlib.import_module("torch.onnx._internal.exporter._registration").ONNXRegistry
        read, own = registry.from_torchlib, vars(registry)["from_torchlib"]
    except (ImportError, AttributeError, KeyError):
        yield
        return

    def kept(**options: Any) -> Any:
        key = tuple(sorted(options.items()))
        if key not in _KEPT:
            _KEPT[key] = read(**options)
        return _KEPT[key]

    registry.from_torchlib = staticmethod(kept)
    try:
        yield
    finally:
        registry.from_torchlib = own
