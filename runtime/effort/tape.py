"""The backward pass of a graph as it is written: nodes, constants, and the gradients noted so far."""

from __future__ import annotations

from typing import Any

import numpy as np

from ugicm.runtime.effort.nodes import Graph, Node


class UnsupportedError(ValueError):
    """An operator between input and output has no rule here; the message names it."""


class Tape:
    """Nodes and constants of the backward pass as they are written."""

    def __init__(self, graph: Graph, on_the_way: set[str]) -> None:
        self.graph = graph
        self.on_the_way = on_the_way
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = {}
        self.gradients: dict[str, list[str]] = {}
        self.made_by = {name: node for node in graph.nodes for name in node.outputs}

    def add(self, name: str, gradient: str) -> None:
        """Notes a gradient by a tensor, if one is wanted."""
        if name in self.on_the_way:
            self.gradients.setdefault(name, []).append(gradient)

    def gradient(self, name: str) -> str:
        """The gradient by a tensor: the sum of those noted."""
        found = self.gradients[name]
        while len(found) > 1:
            found.append(self.emit("Add", found.pop(0), found.pop(0)))
        return found[0]

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output, whose name is returned."""
        name = f"back/{len(self.nodes)}"
        self.nodes.append(Node(operator, inputs, (name,), attributes))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """A constant's name."""
        name = f"back/constant{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def known(self, name: str) -> np.ndarray | None:
        """A constant's numbers, else None."""
        return self.graph.constants.get(name)

    def ints(self, name: str, node: Node) -> list[int]:
        """The integers of an input that must be a constant."""
        value = self.known(name)
        if value is None:
            raise UnsupportedError(f"operator {node.operator} with a computed shape has no gradient here")
        return [int(n) for n in np.ravel(value)]
