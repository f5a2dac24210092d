"""The limits of an ONNX file that comes from somebody else: networks only, and nothing from outside of the file.

Inference libraries do look at external data's paths, each in its own way.
"""

from __future__ import annotations

from pathlib import Path

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes import wire
from ugicm.runtime.onnx_bytes.wire import Value, content, fields, numbers, text

GIVEN = "given"
"""The location of a weight that whoever loads the graph gives; no file of that name is ever looked for."""
_FLOAT, _EXTERNAL = 1, 1
_DOMAINS = (b"", b"ai.onnx", b"com.microsoft")  # those that the libraries themselves implement


def check_graph(model: bytes, where: Path) -> dict[str, tuple[int, ...]]:
    """Refuse a graph with external data, control flow, functions or operators of another domain, and another format.

    A network has no use for any of them; with them, a file could read other files or run without end. How much memory
    its operators ask for cannot be told from the file.

    Returns:
        The float32 weights that whoever loads the graph has to give: name → shape. The file says no more of them.

    Raises:
        BundleError: what was found, or a file that is no protocol buffer.
    """

    def refuse(what: str) -> None:
        raise BundleError(f"{where}: {what}; use a bundle that export wrote")

    if model[4:8] == b"ORTM":  # what ONNX Runtime takes for its own format, whatever else the file may be
        refuse("it is of ONNX Runtime's own format, or looks so")
    given: dict[str, tuple[int, ...]] = {}

    def check_tensor(tensor: memoryview, initializer: bool = False) -> None:
        parts = list(fields(tensor))
        if not any(
            number == wire.TENSOR_EXTERNAL or (number == wire.TENSOR_LOCATION and value) for number, value in parts
        ):
            return
        entries = [_entry(value) for number, value in parts if number == wire.TENSOR_EXTERNAL]
        known = {wire.TENSOR_DIMS, wire.TENSOR_TYPE, wire.TENSOR_NAME, wire.TENSOR_EXTERNAL, wire.TENSOR_LOCATION}
        said = {number: value for number, value in parts}
        if (
            not initializer
            or entries != [("location", GIVEN)]
            or not set(said) <= known
            or (said.get(wire.TENSOR_TYPE), said.get(wire.TENSOR_LOCATION)) != (_FLOAT, _EXTERNAL)
            or wire.TENSOR_NAME not in said
        ):
            refuse("its weights lie outside of the file")
        shape = tuple(n for number, value in parts if number == wire.TENSOR_DIMS for n in numbers(value))
        given[text(said[wire.TENSOR_NAME])] = shape

    def check_node(node: memoryview) -> None:
        operator = b"?"
        for number, value in fields(node):
            if number == wire.NODE_OPERATOR:
                operator = bytes(content(value))
            elif number == wire.NODE_DOMAIN and bytes(content(value)) not in _DOMAINS:
                refuse("an operator is of an unknown domain")
            elif number == wire.NODE_ATTRIBUTE:
                for kind, inner in fields(content(value)):
                    if kind in (wire.ATTRIBUTE_GRAPH, wire.ATTRIBUTE_GRAPHS):
                        refuse(f"operator {operator.decode('ascii', 'replace')} has a graph of its own")
                    if kind in (wire.ATTRIBUTE_TENSOR, wire.ATTRIBUTE_TENSORS):
                        check_tensor(content(inner))
                    if kind == wire.ATTRIBUTE_SPARSE:
                        refuse("it holds sparse weights")

    try:
        graphs = 0
        for number, value in fields(memoryview(model)):
            if number == wire.MODEL_FUNCTIONS:
                refuse("it defines functions")
            if number == wire.MODEL_GRAPH:
                graphs += 1
                for part, inner in fields(content(value)):
                    if part == wire.GRAPH_NODE:
                        check_node(content(inner))
                    elif part == wire.GRAPH_INITIALIZER:
                        check_tensor(content(inner), initializer=True)
                    elif part == wire.GRAPH_SPARSE:
                        refuse("it holds sparse weights")
                    elif part in (wire.GRAPH_INPUT, wire.GRAPH_OUTPUT):
                        for key, name in fields(content(inner)):
                            if key == wire.VALUE_NAME:
                                text(name)
    except ValueError as error:
        raise BundleError(f"{where}: not an ONNX file ({error}); copy or export the bundle again") from None
    if graphs != 1:
        refuse(f"it holds {graphs} graphs, not one")
    return given


def _entry(message: Value) -> tuple[str, str]:
    """The key and the value of a StringStringEntryProto."""
    parts = dict(fields(content(message)))
    return text(parts.get(wire.ENTRY_KEY, memoryview(b""))), text(parts.get(wire.ENTRY_VALUE, memoryview(b"")))
