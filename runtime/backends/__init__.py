"""Inference backends: load a graph of a bundle, run it on named arrays, tell what you are.

One folder entry a backend; each imports its library inside the function that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from runtime.errors import BackendError

NAMES = ("onnxruntime",)


class Graph(Protocol):
    """A loaded graph."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Runs on named arrays; outputs in the order of the graph."""
        ...


class Backend(Protocol):
    """Where graphs run."""

    @property
    def name(self) -> str:
        """Short name with the device, e.g. "onnxruntime (CPU)"."""
        ...

    def load(self, model: bytes, name: str) -> Graph:
        """Prepares a graph given as the bytes of an ONNX file.

        Raises:
            BackendError: the backend cannot run it; the message names the graph.
        """
        ...


def open_backend(name: str, threads: int | None = None) -> Backend:
    """The backend of a name, with `threads` CPU threads (None: the library's choice).

    Raises:
        BackendError: no such backend, or its library is missing; the message says how to install it.
    """
    if name == "onnxruntime":
        from runtime.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads=threads)
    raise BackendError(f"unknown backend {name!r}; there is: {', '.join(NAMES)}")
