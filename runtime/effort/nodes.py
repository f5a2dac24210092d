"""The nodes of an ONNX file, read and written without the package onnx: what reverse-mode differentiation works on."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ugicm.runtime.onnx_bytes import wire
from ugicm.runtime.onnx_bytes.wire import content, fields, numbers, text
from ugicm.runtime.onnx_bytes.write import field as written

TYPES: dict[int, np.dtype] = {
    1: np.dtype("<f4"),
    2: np.dtype("u1"),
    3: np.dtype("i1"),
    6: np.dtype("<i4"),
    7: np.dtype("<i8"),
    9: np.dtype("bool"),
    10: np.dtype("<f2"),
    11: np.dtype("<f8"),
}
"""Numbers of ONNX tensor types that graphs of bundles use."""
FLOAT, INT64 = 1, 7
_INPUT, _OUTPUT, _GRAPH_INPUT, _GRAPH_OUTPUT, _OPSETS = 1, 2, 11, 12, 8
_FLOATS, _INTS, _INT64S, _DOUBLES = 4, 5, 7, 10  # fields of a tensor whose numbers are not raw bytes


@dataclass(frozen=True)
class Node:
    """An operator: names of its inputs ("" where one is left out) and outputs; attributes by name."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Graph:
    """A network.

    Attributes:
        nodes: in an order in which they can run.
        constants: name → array.
        inputs: name → ONNX tensor type of what is fed.
        outputs: names.
        opset: version of the operators of the default domain.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, np.ndarray]
    inputs: Mapping[str, int]
    outputs: tuple[str, ...]
    opset: int

    def renamed(self, prefix: str, known: Mapping[str, str]) -> Graph:
        """The same graph with a prefix before each name, but for those that `known` renames."""

        def name(old: str) -> str:
            return old if not old else known.get(old, prefix + old)

        nodes = tuple(
            replace(n, inputs=tuple(map(name, n.inputs)), outputs=tuple(map(name, n.outputs))) for n in self.nodes
        )
        return replace(
            self,
            nodes=nodes,
            constants={name(k): v for k, v in self.constants.items()},
            inputs={name(k): v for k, v in self.inputs.items()},
            outputs=tuple(map(name, self.outputs)),
        )


def joined(first: Graph, second: Graph, link: str) -> Graph:
    """`second` reading the first output of `first` as its input `link`."""
    later = second.renamed("then/", {link: first.outputs[0]})
    inputs = {k: v for k, v in later.inputs.items() if k != first.outputs[0]}
    return Graph(
        first.nodes + later.nodes,
        {**first.constants, **later.constants},
        {**first.inputs, **inputs},
        later.outputs,
        max(first.opset, second.opset),
    )


def read(model: bytes, given: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph of an ONNX file; `given` holds the weights that the file says are given.

    Raises:
        ValueError: not such a file, or one with tensors of other types.
    """
    nodes: list[Node] = []
    constants: dict[str, np.ndarray] = {}
    inputs: dict[str, int] = {}
    outputs: list[str] = []
    opset = 0
    for number, value in fields(memoryview(model)):
        if number == _OPSETS:
            parts = dict(fields(content(value)))
            if not bytes(content(parts.get(1, memoryview(b"")))) and isinstance(parts.get(2), int):
                opset = int(parts[2])
        if number != wire.MODEL_GRAPH:
            continue
        for part, inner in fields(content(value)):
            if part == wire.GRAPH_NODE:
                nodes.append(_node(content(inner)))
            elif part == wire.GRAPH_INITIALIZER:
                name, array = _tensor(content(inner))
                constants[name] = (given or {})[name] if array is None else array
            elif part == _GRAPH_INPUT:
                name, kind = _value(content(inner))
                inputs[name] = kind
            elif part == _GRAPH_OUTPUT:
                outputs.append(_value(content(inner))[0])
    kept = []
    for node in nodes:
        if node.operator == "Constant":
            constants[node.outputs[0]] = np.asarray(next(iter(node.attributes.values())))
        else:
            kept.append(node)
    inputs = {name: kind for name, kind in inputs.items() if name not in constants}
    return Graph(tuple(kept), constants, inputs, tuple(outputs), opset)


def write(graph: Graph, outputs: Mapping[str, int]) -> bytes:
    """An ONNX file of what a graph's `outputs`, name → type, need."""
    needed = set(outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    body = b"".join(written(wire.GRAPH_NODE, _node_bytes(node)) for node in reversed(kept)) + written(2, b"g")
    for name, array in graph.constants.items():
        if name in needed:
            body += written(wire.GRAPH_INITIALIZER, _tensor_bytes(name, array))
    for part, values in ((_GRAPH_INPUT, graph.inputs), (_GRAPH_OUTPUT, outputs)):
        for name, kind in values.items():
            body += written(part, written(1, name.encode()) + written(2, written(1, written(1, kind))))
    imports = written(_OPSETS, written(2, graph.opset)) + written(_OPSETS, written(1, b"com.microsoft") + written(2, 1))
    return written(1, 9) + imports + written(wire.MODEL_GRAPH, body)


# ---- reading


def _node(message: memoryview) -> Node:
    names: dict[int, list[str]] = {_INPUT: [], _OUTPUT: []}
    operator = domain = ""
    attributes: dict[str, Any] = {}
    for number, value in fields(message):
        if number in names:
            names[number].append(text(value))
        elif number == wire.NODE_OPERATOR:
            operator = text(value)
        elif number == wire.NODE_DOMAIN:
            domain = text(value)
        elif number == wire.NODE_ATTRIBUTE:
            name, found = _attribute(content(value))
            attributes[name] = found
    return Node(operator, tuple(names[_INPUT]), tuple(names[_OUTPUT]), attributes, domain)


def _attribute(message: memoryview) -> tuple[str, Any]:
    name, kind = "", 0
    single: Any = None
    floats: list[float] = []
    ints: list[int] = []
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            single = struct.unpack("<f", content(value))[0]
        elif number == 3:
            (single,) = numbers(value)
        elif number == 4:
            single = bytes(content(value))
        elif number == 5:
            single = _tensor(content(value))[1]
        elif number == 7:
            floats += np.frombuffer(content(value), "<f4").tolist()
        elif number == 8:
            ints += numbers(value)
        elif number == 20 and isinstance(value, int):
            kind = value
    return name, floats if kind == 6 else ints if kind == 7 else single


def _tensor(message: memoryview) -> tuple[str, np.ndarray | None]:
    """The name and the numbers of a tensor, None of one that is given."""
    name, kind, raw, given = "", 0, b"", False
    dims: list[int] = []
    listed: list[Any] = []
    for number, value in fields(message):
        if number == wire.TENSOR_DIMS:
            dims += numbers(value)
        elif number == wire.TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == wire.TENSOR_NAME:
            name = text(value)
        elif number == wire.TENSOR_RAW:
            raw = bytes(content(value))
        elif number in (_INTS, _INT64S):
            listed += numbers(value)
        elif number in (_FLOATS, _DOUBLES):
            listed += np.frombuffer(content(value), "<f4" if number == _FLOATS else "<f8").tolist()
        elif number == wire.TENSOR_LOCATION:
            given = bool(value)
    if given:
        return name, None
    if kind not in TYPES:
        raise ValueError(f"tensor {name[:80]!r} is of type {kind}")
    array = np.asarray(listed, TYPES[kind]) if listed else np.frombuffer(raw, TYPES[kind])
    if array.size != math.prod(dims):
        raise ValueError(f"tensor {name[:80]!r} has fewer or more numbers than its shape says")
    return name, array.reshape(dims)


def _value(message: memoryview) -> tuple[str, int]:
    """The name and the tensor type of an input or output."""
    name, kind = "", FLOAT
    for number, value in fields(message):
        if number == 1:
            name = text(value)
        elif number == 2:
            for _, tensor in fields(content(value)):
                for part, inner in fields(content(tensor)):
                    if part == 1 and isinstance(inner, int):
                        kind = inner
    return name, kind


# ---- writing


def _node_bytes(node: Node) -> bytes:
    parts = [written(_INPUT, name.encode()) for name in node.inputs]
    parts += [written(_OUTPUT, name.encode()) for name in node.outputs]
    parts.append(written(wire.NODE_OPERATOR, node.operator.encode()))
    parts += [written(wire.NODE_ATTRIBUTE, _attribute_bytes(k, v)) for k, v in node.attributes.items()]
    return b"".join([*parts, written(wire.NODE_DOMAIN, node.domain.encode())] if node.domain else parts)


def _attribute_bytes(name: str, value: Any) -> bytes:
    head = written(1, name.encode())
    if isinstance(value, float):
        return head + bytes([2 << 3 | 5]) + struct.pack("<f", value) + written(20, 1)
    if isinstance(value, int):
        return head + written(3, value % 2**64) + written(20, 2)
    if isinstance(value, bytes):
        return head + written(4, value) + written(20, 3)
    if isinstance(value, np.ndarray):
        return head + written(5, _tensor_bytes("", value)) + written(20, 4)
    if all(isinstance(v, int) for v in value):
        return head + _repeated(8, value) + written(20, 7)
    return head + written(7, np.asarray(value, "<f4").tobytes()) + written(20, 6)


def _tensor_bytes(name: str, array: np.ndarray) -> bytes:
    array = np.asarray(array)
    kind = next(number for number, dtype in TYPES.items() if dtype == array.dtype.newbyteorder("<"))
    head = _repeated(1, array.shape) + written(2, kind) + written(8, name.encode())
    return head + written(9, np.ascontiguousarray(array, TYPES[kind]).tobytes())


def _repeated(number: int, values: Iterable[int]) -> bytes:
    return b"".join(written(number, int(value) % 2**64) for value in values)
