"""Inference backends; each imports its library inside the function that needs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ugicm.runtime.errors import BackendError

if TYPE_CHECKING:
    from ugicm.runtime.bundle import Bundle

NAMES = ("onnxruntime", "onnxruntime-cuda", "tensorrt", "tensorrt-rtx", "webgpu")


class Graph(Protocol):
    """A loaded graph."""

    def __call__(self, inputs: Mapping[str, np.ndarray], /) -> list[np.ndarray]:
        """Runs on named arrays; outputs in the order of the graph."""
        ...


class Backend(Protocol):
    """Where graphs run."""

    @property
    def name(self) -> str:
        """Short name with the device, e.g. "onnxruntime (CPU)"."""
        ...

    def load(self, model: bytes, name: str, weights: Mapping[str, np.ndarray] | None = None) -> Graph:
        """Prepares an ONNX file, with the weights that it says are given. Raises BackendError naming the graph."""
        ...


def open_backend(
    name: str, threads: int | None = None, bundle: Bundle | None = None, precision: str | None = None
) -> Backend:
    """The backend of a name.

    Args:
        name: one of `NAMES`.
        threads: CPU threads of an operator (None: the library's choice).
        bundle: whose device graphs a GPU backend is to run.
        precision: of the transforms on a GPU, "fp32", "fp16" or "int8". None is the bundle's own graphs with
            onnxruntime-cuda, fp16 with TensorRT.

    Raises BackendError: no such backend or precision, or its library, driver or device is missing; the message says
    what, and how to install it.
    """
    if name not in NAMES:
        raise BackendError(f"unknown backend {name!r}; there is: {', '.join(NAMES)}")
    if name == "onnxruntime":
        if precision is not None:
            raise BackendError(f"backend {name} runs a bundle as it is; a precision is for {', '.join(NAMES[1:])}")
        from ugicm.runtime.backends.onnxruntime import OnnxRuntime

        return OnnxRuntime(threads=threads)
    from ugicm.runtime.backends.gpu.opening import open_gpu

    return open_gpu(name, bundle, precision, threads)
