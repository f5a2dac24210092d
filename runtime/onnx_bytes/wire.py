"""The wire format of protocol buffers, as far as ONNX files need it: the runtime goes without the package onnx."""

from __future__ import annotations

from collections.abc import Iterator

# Field numbers: onnx.proto3 of ONNX 1.x.
MODEL_GRAPH, MODEL_FUNCTIONS = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT, GRAPH_SPARSE = 1, 5, 11, 12, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS, ATTRIBUTE_SPARSE = 5, 6, 10, 11, 22
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW, TENSOR_EXTERNAL, TENSOR_LOCATION = 1, 2, 8, 9, 13, 14
ENTRY_KEY, ENTRY_VALUE, VALUE_NAME = 1, 2, 1

Value = int | memoryview
"""Of a field: a number, or the bytes of a text, a message or numbers of fixed size."""


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """(number, value) of the fields of a message, in order; 4- and 8-byte numbers as bytes. Raises ValueError: none."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not 0 < number < 2**29:  # libraries keep 32 bits of a key: to them it may be another field
            raise ValueError(f"field number {number}")
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


def content(value: Value) -> memoryview:
    """The bytes of a field that must not be a number, else ValueError."""
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def text(value: Value) -> str:
    """The text of a field, else ValueError."""
    return bytes(content(value)).decode()


def numbers(value: Value) -> list[int]:
    """The integers of a repeated field: one, or several packed together; signed, of 64 bits."""
    found, at = [value] if isinstance(value, int) else [], 0
    while not isinstance(value, int) and at < len(value):
        number, at = _varint(value, at)
        found.append(number)
    return [number - 2**64 if number >= 2**63 else number for number in found]


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
