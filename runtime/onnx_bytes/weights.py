"""The constants of an ONNX file, by name."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes import wire
from ugicm.runtime.onnx_bytes.wire import content, fields, numbers, text

_TYPES: dict[int, np.dtype] = {1: np.dtype("<f4"), 10: np.dtype("<f2"), 7: np.dtype("<i8")}
_HALF = ".half"  # what export calls a weight that it stores in half precision, behind a Cast to the name without


def graph_weights(model: bytes, where: Path | str) -> dict[str, np.ndarray]:
    """float32 and int64 constants; those stored in half precision come as float32, by the name of their Cast.

    Raises:
        BundleError: a constant whose bytes are not those of its shape.
    """
    found: dict[str, np.ndarray] = {}
    for number, graph in fields(memoryview(model)):
        for part, tensor in fields(content(graph)) if number == wire.MODEL_GRAPH else ():
            if part != wire.GRAPH_INITIALIZER:
                continue
            dims: list[int] = []
            name, kind, raw = "", 0, None
            for key, value in fields(content(tensor)):
                if key == wire.TENSOR_DIMS:
                    dims += numbers(value)
                elif key == wire.TENSOR_TYPE and isinstance(value, int):
                    kind = value
                elif key == wire.TENSOR_NAME:
                    name = text(value)
                elif key == wire.TENSOR_RAW:
                    raw = content(value)
            if kind not in _TYPES or raw is None:
                continue
            if any(n < 0 for n in dims) or math.prod(dims) * _TYPES[kind].itemsize != len(raw):
                raise BundleError(f"{where}: {name[:80]!r} has fewer or more numbers than its shape says")
            array = np.frombuffer(raw, _TYPES[kind]).reshape(dims)
            half = array.dtype.itemsize == 2
            found[name.removesuffix(_HALF) if half else name] = array.astype(np.float32) if half else array
    return found
