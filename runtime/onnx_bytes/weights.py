"""The constants of an ONNX file, by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes import wire
from ugicm.runtime.onnx_bytes.wire import content, fields, numbers, text

_TYPES: dict[object, np.dtype] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 7: np.dtype("<i8")}
_HALF = ".half"  # what export calls a weight that it stores in half precision, behind a Cast to the name without


def graph_weights(model: bytes, where: Path | str) -> dict[str, np.ndarray]:
    """float32 and int64 constants; those stored in half precision come as float32, by the name of their Cast.

    Raises BundleError: a constant whose bytes are not those of its shape.
    """
    found: dict[str, np.ndarray] = {}
    graphs = (content(value) for number, value in fields(memoryview(model)) if number == wire.MODEL_GRAPH)
    tensors = (
        content(value) for graph in graphs for number, value in fields(graph) if number == wire.GRAPH_INITIALIZER
    )
    for parts in map(list, map(fields, tensors)):
        said = dict(parts)
        kind, raw = _TYPES.get(said.get(wire.TENSOR_TYPE)), said.get(wire.TENSOR_RAW)
        if kind is None or raw is None:
            continue
        name = text(said.get(wire.TENSOR_NAME, memoryview(b"")))
        dims = [n for number, value in parts if number == wire.TENSOR_DIMS for n in numbers(value)]
        if min(dims, default=0) < 0 or math.prod(dims) * kind.itemsize != len(content(raw)):
            raise BundleError(f"{where}: {name[:80]!r} has fewer or more numbers than its shape says")
        array = np.frombuffer(content(raw), kind).reshape(dims)
        half = kind.itemsize == 2
        found[name.removesuffix(_HALF) if half else name] = array.astype(np.float32) if half else array
    return found
