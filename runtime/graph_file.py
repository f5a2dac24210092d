"""What an ONNX file may hold that comes from somebody else: networks only, and nothing from outside of the file.

And a graph whose input is given once and for all. Reads and writes the protocol buffer's wire format itself, as far as
it needs to, since the runtime goes without the package onnx (field numbers: onnx.proto3 of ONNX 1.x). Inference
libraries do look at external data's paths, each in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from runtime.errors import BundleError

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_GRAPH_INPUT, _INPUT_NAME = 11, 1
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW, _FLOAT = 1, 2, 8, 9, 1
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 5, 6, 10, 11, 22
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_DOMAINS = (b"", b"ai.onnx", b"com.microsoft")  # those that the libraries themselves implement


def check_graph(model: bytes, where: Path) -> None:
    """Refuse a graph with external data, control flow, functions or operators of another domain.

    A network has no use for any of them; with them, a file could read other files or run without end. How much memory
    its operators ask for cannot be told from the file.

    Raises:
        BundleError: what was found, or a file that is no protocol buffer.
    """

    def refuse(what: str) -> None:
        raise BundleError(f"{where}: {what}; use a bundle that export wrote")

    def check_tensor(tensor: memoryview) -> None:
        if any(
            number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value) for number, value in _fields(tensor)
        ):
            refuse("its weights lie outside of the file")

    def check_node(node: memoryview) -> None:
        operator = b"?"
        for number, value in _fields(node):
            if number == _NODE_OPERATOR:
                operator = bytes(_message(value))
            elif number == _NODE_DOMAIN and bytes(_message(value)) not in _DOMAINS:
                refuse("an operator is of an unknown domain")
            elif number == _NODE_ATTRIBUTE:
                for kind, content in _fields(_message(value)):
                    if kind in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        refuse(f"operator {operator.decode('ascii', 'replace')} has a graph of its own")
                    if kind in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                        check_tensor(_message(content))
                    if kind == _ATTRIBUTE_SPARSE:
                        refuse("it holds sparse weights")

    try:
        graphs = 0
        for number, value in _fields(memoryview(model)):
            if number == _MODEL_FUNCTIONS:
                refuse("it defines functions")
            if number == _MODEL_GRAPH:
                graphs += 1
                for part, content in _fields(_message(value)):
                    if part == _GRAPH_NODE:
                        check_node(_message(content))
                    elif part == _GRAPH_INITIALIZER:
                        check_tensor(_message(content))
                    elif part == _GRAPH_SPARSE:
                        refuse("it holds sparse weights")
    except ValueError as error:
        raise BundleError(f"{where}: not an ONNX file ({error}); copy or export the bundle again") from None
    if graphs != 1:
        refuse(f"it holds {graphs} graphs, not one")


def with_constant(model: bytes, name: str, value: np.ndarray) -> bytes:
    """The model with a float32 input made a constant, which inference libraries fold into what they prepare.

    Raises:
        ValueError: no such input, or no protocol buffer.
    """
    tensor = b"".join(_field(_TENSOR_DIMS, n) for n in value.shape) + _field(_TENSOR_TYPE, _FLOAT)
    tensor += _field(_TENSOR_NAME, name.encode()) + _field(_TENSOR_RAW, value.astype("<f4").tobytes())
    out = []
    found = False
    for number, content in _fields(memoryview(model)):
        if number == _MODEL_GRAPH:
            parts = []
            for part, inner in _fields(_message(content)):
                if part == _GRAPH_INPUT and dict(_fields(_message(inner))).get(_INPUT_NAME) == name.encode():
                    found = True
                    continue
                parts.append(_field(part, inner))
            content = memoryview(b"".join([*parts, _field(_GRAPH_INITIALIZER, tensor)]))
        out.append(_field(number, content))
    if not found:
        raise ValueError(f"the graph has no input {name}")
    return b"".join(out)


def _field(number: int, value: int | bytes | memoryview) -> bytes:
    """A field of a model or graph message: those hold numbers and lengths of bytes, nothing of fixed size."""
    if isinstance(value, int):
        return _varint_bytes(number << 3) + _varint_bytes(value)
    return b"".join([_varint_bytes(number << 3 | 2), _varint_bytes(len(value)), value])


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, its number or bytes) of a protocol buffer message; 4- and 8-byte fields come as bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if size > len(message) - at:
            raise ValueError("it ends in the middle")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ValueError("a number without an end")
