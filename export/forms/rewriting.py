"""Graphs whose nodes and constants are exchanged for others that compute the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray
Nodes = list[onnx.NodeProto]
Rewritten = tuple[Nodes, dict[str, Array]]

LAST, FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations to channels last, and to channels first."""


def attribute(node: onnx.NodeProto, name: str) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


class Graph:
    """Nodes that are replaced, with who makes and who reads a tensor."""

    def __init__(self, nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> None:
        self.constants = dict(constants)
        self.outputs = outputs
        self.nodes = list(nodes)
        self._place = {id(n): i for i, n in enumerate(self.nodes)}
        self._replaced: dict[int, Nodes] = {}
        self._gone: set[int] = set()

    def readers(self, name: str) -> Nodes:
        return [n for n in self.nodes if name in n.input]

    def only_reader(self, name: str) -> onnx.NodeProto | None:
        found = self.readers(name)
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def maker(self, name: str) -> onnx.NodeProto | None:
        return next((n for n in self.nodes if name in n.output), None)

    def replace(self, old: Nodes, new: Nodes) -> None:
        """Puts nodes where the last of the old ones was."""
        self._gone.update(id(n) for n in old)
        self._replaced[max((id(n) for n in old), key=self._place.__getitem__)] = new

    def result(self) -> Rewritten:
        nodes: Nodes = []
        for node in self.nodes:
            nodes += self._replaced.get(id(node), [] if id(node) in self._gone else [node])
        used = {name for node in nodes for name in node.input}
        return nodes, {k: v for k, v in self.constants.items() if k in used}


def new_node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """A node called after its output."""
    return helper.make_node(kind, inputs, [output], name=output, **attributes)


def copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node that can be changed."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


Change = Callable[[Nodes, Mapping[str, Array], set[str]], Rewritten]
"""Nodes, constants and the names of outputs to nodes and constants that compute the same."""


def editing(edit: Callable[[Graph], None]) -> Change:
    """The change that an edit of a graph makes."""

    def change(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
        graph = Graph(nodes, constants, outputs)
        edit(graph)
        return graph.result()

    return change


def in_turn(changes: Iterable[Change], nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The result of changes, each made to the result of the one before."""
    for change in changes:
        nodes, constants = change(nodes, constants, outputs)
    return nodes, dict(constants)


def rewrite(model: onnx.ModelProto, change: Change) -> None:
    """Gives a model the nodes and constants that `change` makes of them, in place."""
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes, kept = change(list(graph.node), constants, {o.name for o in graph.output})
    if nodes != list(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(copies)
        graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in kept.items())
