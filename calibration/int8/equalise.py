"""Gives the channels of a tensor similar ranges, exactly: one step then serves them all.

Activations have one step a tensor, but their channels differ in range. A channel may be multiplied by any positive
factor if what makes it is multiplied too (rows of weights, biases) and what reads it divides (columns): ReLU, sums,
pixel shuffles and padding with zeros commute with that, and a square takes the square of the factor. The float
network then says the same in other units (cross-layer equalisation: Nagel et al. 2019, arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ugicm.calibration.int8.graph import FloatGraph, Layer
from ugicm.export.forms.rewriting import attribute, copy_node, new_node

Array = np.ndarray
LARGEST_RATIO = 64.0
"""Between factors of one tensor: more would only magnify channels that hardly move."""


class Equaliser:
    """Finds which tensors must share their factors, and rewrites graphs with factors.

    Tensors that graphs hand to each other under one name are the same tensor. What an operator of another kind
    makes or reads, and what enters or leaves the graphs, keeps its units.

    Args:
        graphs: name → graph.
    """

    def __init__(self, graphs: Mapping[str, FloatGraph]) -> None:
        self.graphs = graphs
        made = {o.name for g in graphs.values() for o in g.outputs}
        self._shared = made & {i.name for g in graphs.values() for i in g.inputs}
        self._parent: dict[str, tuple[str, int]] = {}  # and log2 of how many channels a unit has, against the parent's
        self._fixed: set[str] = set()
        self._squares: dict[str, str] = {}
        for name, graph in graphs.items():
            self._link(name, graph)

    def factors(self, ranges: Mapping[str, Mapping[str, Array]], strength: float) -> dict[str, dict[str, Array]]:
        """Graph → tensor → float64 (C,) factor of each channel, for the tensors that have one.

        Args:
            ranges: graph → tensor → (C,) largest magnitude of each channel.
            strength: 1 makes ranges equal, 0 leaves them, between is between.
        """
        members: dict[str, list[tuple[int, Array]]] = {}
        for name, tensors in ranges.items():
            for tensor, peaks in tensors.items():
                key = self._key(name, tensor)
                root, depth = self._find(key)
                if key not in self._squares and root not in self._fixed:
                    members.setdefault(root, []).append((depth, peaks))
        chosen: dict[str, tuple[int, Array]] = {}
        for root, found in members.items():
            least = min(depth for depth, _ in found)
            shared = [peaks.reshape(-1, 2 ** (depth - least)).max(1) for depth, peaks in found]
            relative = [np.maximum(peaks / peaks.max(), 1 / LARGEST_RATIO) for peaks in shared if peaks.max() > 0]
            if relative:
                chosen[root] = least, np.exp(-strength * np.mean(np.log(relative), axis=0))
        result: dict[str, dict[str, Array]] = {}
        for name, tensors in ranges.items():
            result[name] = {}
            for tensor in tensors:
                key = self._key(name, tensor)
                root, depth = self._find(self._squares.get(key, key))
                if root in chosen and root not in self._fixed:
                    least, values = chosen[root]
                    result[name][tensor] = np.repeat(values, 2 ** (depth - least)) ** (2 if key in self._squares else 1)
        return result

    def apply(self, factors: Mapping[str, Mapping[str, Array]]) -> dict[str, FloatGraph]:
        """The graphs in the units of `factors`; the graphs given are left as they are."""
        return {name: _rescaled(graph, factors.get(name, {})) for name, graph in self.graphs.items()}

    def _link(self, name: str, graph: FloatGraph) -> None:
        inside = {node.output[0] for layer in graph.layers for node in layer.nodes}
        for layer in graph.layers:
            keys = [self._key(name, t) for t in (*layer.inputs, layer.output)]
            if layer.kind == "add":
                self._join(keys[0], keys[1])
                self._join(keys[0], keys[2])
            elif layer.kind == "mul" and keys[0] == keys[1]:
                self._squares[keys[2]] = keys[0]
                if any(reader.op_type != "Conv" for reader in graph.consumers.get(layer.output, [])):
                    self._fix(keys[0])
            elif layer.kind == "mul":
                self._product(graph, layer.inputs, keys)
        for node in graph.nodes:
            if node.output[0] in inside:
                continue
            moving = [t for t in node.input if t not in graph.constants]
            keys = [self._key(name, t) for t in (*moving, node.output[0])]
            if node.op_type == "DepthToSpace" and attribute(node, "mode") == b"CRD":
                side = int(attribute(node, "blocksize"))
                if side & (side - 1):
                    self._fix(*keys)
                else:
                    self._join(keys[1], keys[0], 2 * (side.bit_length() - 1))
            elif node.op_type == "Div" and len(moving) == 2:
                self._product(graph, moving, keys)
            else:
                self._fix(*keys)
        self._fix(*(self._key(name, v.name) for v in (*graph.inputs, *graph.outputs) if v.name not in self._shared))

    def _product(self, graph: FloatGraph, tensors: tuple[str, ...] | list[str], keys: list[str]) -> None:
        """x times or over a norm, which keeps its units; where neither is one, all do."""
        norm = graph.producers.get(tensors[1])
        if norm is not None and norm.op_type in ("Sqrt", "Reciprocal"):
            self._join(keys[0], keys[2])
            self._fix(keys[1])
        else:
            self._fix(*keys)

    def _key(self, name: str, tensor: str) -> str:
        return tensor if tensor in self._shared else f"{name}:{tensor}"

    def _find(self, key: str) -> tuple[str, int]:
        """The group of a tensor, and log2 of the channels that share a factor in it, against the group's first."""
        depth = 0
        while key in self._parent:
            key, more = self._parent[key]
            depth += more
        return key, depth

    def _fix(self, *keys: str) -> None:
        self._fixed.update(self._find(key)[0] for key in keys)

    def _join(self, first: str, other: str, more: int = 0) -> None:
        """One group; in `other` 2^more times as many channels share a factor, as before a pixel shuffle."""
        (a, depth), (b, lower) = self._find(first), self._find(other)
        if a == b:
            if depth + more != lower:
                self._fixed.add(a)
            return
        self._parent[b] = a, depth + more - lower
        if b in self._fixed:
            self._fixed.add(a)


def _rescaled(graph: FloatGraph, factors: Mapping[str, Array]) -> FloatGraph:
    constants, nodes = dict(graph.constants), [copy_node(node) for node in graph.nodes]
    by_output = {node.output[0]: node for node in nodes}
    added = []
    for layer in graph.layers:
        if layer.kind != "conv":
            continue
        rows, columns = factors.get(layer.output), factors.get(layer.inputs[0])
        if rows is None and columns is None:
            continue
        node = by_output[layer.nodes[0].output[0]]
        weight, bias = _in_units(graph, layer, rows, columns)
        names = [f"{node.name}/weight", f"{node.name}/bias"][: len(node.input) - 1]  # some have no bias
        constants.update(zip(names, (weight.astype(np.float32), bias.astype(np.float32)), strict=False))
        del node.input[1:]
        node.input.extend(names)
        if layer.vector and rows is not None:
            scaled, unit = f"{node.name}/vector", f"{node.name}/vector_units"
            constants[unit] = rows.astype(np.float32)[None, :, None, None]
            total = by_output[layer.nodes[1].output[0]]
            for i, name in enumerate(total.input):
                if name == layer.vector:
                    total.input[i] = scaled
            added.append((node, new_node("Mul", [layer.vector, unit], scaled)))
    for before, node in added:
        nodes.insert(nodes.index(before), node)
    return FloatGraph(nodes, constants, graph.inputs, graph.outputs, graph.name)


def _in_units(graph: FloatGraph, layer: Layer, rows: Array | None, columns: Array | None) -> tuple[Array, Array]:
    """Weights and bias of a convolution whose output and input have factors."""
    weight, bias = (values.astype(np.float64) for values in graph.parameters(layer))
    if columns is not None:
        groups = len(columns) // weight.shape[1]
        of_output = columns.reshape(groups, -1).repeat(len(weight) // groups, axis=0)
        weight = weight / of_output[:, :, None, None]
    if rows is not None:
        weight, bias = weight * rows[:, None, None, None], bias * rows
    return weight, bias
