"""The limits of an ONNX file that comes from somebody else: networks only, and nothing from outside of the file.

Inference libraries do look at external data's paths, each in its own way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes import wire
from ugicm.runtime.onnx_bytes.wire import Value, content, fields, numbers, text

GIVEN = "given"
"""The location of a weight that whoever loads the graph gives; no file of that name is ever looked for."""
_FLOAT, _EXTERNAL = 1, 1
_OF_GIVEN = {wire.TENSOR_DIMS, wire.TENSOR_TYPE, wire.TENSOR_NAME, wire.TENSOR_EXTERNAL, wire.TENSOR_LOCATION}
_DOMAINS = (b"", b"ai.onnx", b"com.microsoft")  # those that the libraries themselves implement
_OUTSIDE, _SPARSE = "its weights lie outside of the file", "it holds sparse weights"


def check_graph(model: bytes, where: Path) -> dict[str, tuple[int, ...]]:
    """Refuse a graph with external data, control flow, functions or operators of another domain, and another format.

    A network has no use for any of them; with them, a file could read other files or run without end. How much memory
    its operators ask for cannot be told from the file.

    Returns the float32 weights that whoever loads the graph has to give: name → shape. The file says no more of them.
    Raises BundleError: what was found, or a file that is no protocol buffer.
    """
    given: dict[str, tuple[int, ...]] = {}
    try:
        fault = next(_faults(model, given), None)
    except ValueError as error:
        raise BundleError(f"{where}: not an ONNX file ({error}); copy or export the bundle again") from None
    if fault:
        raise BundleError(f"{where}: {fault}; use a bundle that export wrote")
    return given


def _faults(model: bytes, given: dict[str, tuple[int, ...]]) -> Iterator[str]:
    """What is wrong with a model; of a sound one, `given` becomes the weights that have to be given."""
    if model[4:8] == b"ORTM":  # what ONNX Runtime takes for its own format, whatever else the file may be
        yield "it is of ONNX Runtime's own format, or looks so"
    graphs = 0
    for number, value in fields(memoryview(model)):
        if number == wire.MODEL_FUNCTIONS:
            yield "it defines functions"
        if number == wire.MODEL_GRAPH:
            graphs += 1
            for part, inner in fields(content(value)):
                if part == wire.GRAPH_NODE:
                    yield from _node_faults(content(inner))
                elif part == wire.GRAPH_INITIALIZER:
                    yield from _tensor_faults(content(inner), given)
                elif part == wire.GRAPH_SPARSE:
                    yield _SPARSE
                elif part in (wire.GRAPH_INPUT, wire.GRAPH_OUTPUT):
                    _text_of(inner, wire.VALUE_NAME)
    if graphs != 1:
        yield f"it holds {graphs} graphs, not one"


def _node_faults(node: memoryview) -> Iterator[str]:
    operator = b"?"
    for number, value in fields(node):
        if number == wire.NODE_OPERATOR:
            operator = bytes(content(value))
        elif number == wire.NODE_DOMAIN and bytes(content(value)) not in _DOMAINS:
            yield "an operator is of an unknown domain"
        elif number == wire.NODE_ATTRIBUTE:
            for kind, inner in fields(content(value)):
                if kind in (wire.ATTRIBUTE_GRAPH, wire.ATTRIBUTE_GRAPHS):
                    yield f"operator {operator.decode('ascii', 'replace')} has a graph of its own"
                if kind in (wire.ATTRIBUTE_TENSOR, wire.ATTRIBUTE_TENSORS):
                    yield from _tensor_faults(content(inner))
                if kind == wire.ATTRIBUTE_SPARSE:
                    yield _SPARSE


def _tensor_faults(tensor: memoryview, given: dict[str, tuple[int, ...]] | None = None) -> Iterator[str]:
    """An initializer, and no other tensor, may lie outside: where `GIVEN` says that it is given."""
    parts = list(fields(tensor))
    said = dict(parts)
    name = text(said.get(wire.TENSOR_NAME, memoryview(b"")))
    if wire.TENSOR_EXTERNAL in said or any(number == wire.TENSOR_LOCATION and value for number, value in parts):
        entries = [value for number, value in parts if number == wire.TENSOR_EXTERNAL]
        where = [(_text_of(entry, wire.ENTRY_KEY), _text_of(entry, wire.ENTRY_VALUE)) for entry in entries]
        kind = (said.get(wire.TENSOR_TYPE), said.get(wire.TENSOR_LOCATION), set(said) | {wire.TENSOR_DIMS})
        fits = where == [("location", GIVEN)] and kind == (_FLOAT, _EXTERNAL, _OF_GIVEN)
        if given is None or not fits:
            yield _OUTSIDE
        else:
            shape = (n for number, value in parts if number == wire.TENSOR_DIMS for n in numbers(value))
            given[name] = tuple(shape)


def _text_of(message: Value, number: int) -> str:
    """A text in a message, "" where there is none."""
    found = ""
    for key, value in fields(content(message)):
        found = text(value) if key == number else found
    return found
