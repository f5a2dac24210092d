"""What an ONNX file may hold that comes from somebody else: networks only, and nothing from outside of the file.

Inference libraries do look at external data's paths, each in its own way. Field numbers: onnx.proto3 of ONNX 1.x.
"""

from __future__ import annotations

from pathlib import Path

from ugicm.runtime.errors import BundleError
from ugicm.runtime.onnx_bytes.wire import content, fields

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
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
            number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value) for number, value in fields(tensor)
        ):
            refuse("its weights lie outside of the file")

    def check_node(node: memoryview) -> None:
        operator = b"?"
        for number, value in fields(node):
            if number == _NODE_OPERATOR:
                operator = bytes(content(value))
            elif number == _NODE_DOMAIN and bytes(content(value)) not in _DOMAINS:
                refuse("an operator is of an unknown domain")
            elif number == _NODE_ATTRIBUTE:
                for kind, inner in fields(content(value)):
                    if kind in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        refuse(f"operator {operator.decode('ascii', 'replace')} has a graph of its own")
                    if kind in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                        check_tensor(content(inner))
                    if kind == _ATTRIBUTE_SPARSE:
                        refuse("it holds sparse weights")

    try:
        graphs = 0
        for number, value in fields(memoryview(model)):
            if number == _MODEL_FUNCTIONS:
                refuse("it defines functions")
            if number == _MODEL_GRAPH:
                graphs += 1
                for part, inner in fields(content(value)):
                    if part == _GRAPH_NODE:
                        check_node(content(inner))
                    elif part == _GRAPH_INITIALIZER:
                        check_tensor(content(inner))
                    elif part == _GRAPH_SPARSE:
                        refuse("it holds sparse weights")
    except ValueError as error:
        raise BundleError(f"{where}: not an ONNX file ({error}); copy or export the bundle again") from None
    if graphs != 1:
        refuse(f"it holds {graphs} graphs, not one")
