"""A graph under a condition that is not yet known, without the condition: the view graph and how its weights are made.

A condition changes a pointwise convolution by a vector and a matrix of low rank (`models/fast.py`): as operators, three
convolutions, a product and two sums.

    Conv(x, W, bias) + shift + Conv(gate · Conv(x, down), up)    is    Conv(x, W + up · diag(gate) · down, bias + shift)

The right-hand side takes no more time than a network without conditions. Its structure is a graph of its own, whose
weights are given when it is loaded: the runtime takes them from the general graph and joins what a condition adds
(`ugicm.runtime.graphs.views`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ugicm.export.forms.rewriting import Array, attribute
from ugicm.runtime.manifest import Join
from ugicm.runtime.onnx_bytes.check import GIVEN

CONDITION = "condition"


@dataclass(frozen=True)
class _Part:
    """Numbers start to stop of the condition, in another order or other units where these are named."""

    start: int
    stop: int
    order: str | None = None
    units: str | None = None


class _General:
    """A graph with a condition: its weights, who makes what, and what it makes of the condition alone."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.nodes = list(graph.node)
        self.made = {output: node for node in self.nodes for output in node.output}
        self.outputs = {o.name for o in graph.output}
        self.weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        for node in self.nodes:  # weights stored in half precision
            if node.op_type == "Cast" and node.input[0] in self.weights and attribute(node, "to") == TensorProto.FLOAT:
                self.weights[node.output[0]] = self.weights[node.input[0]].astype(np.float32)
        condition = next(i for i in graph.input if i.name == CONDITION)
        self.parts = self._parts(condition.type.tensor_type.shape.dim[1].dim_value)

    def uses(self, name: str) -> int:
        return sum(list(node.input).count(name) for node in self.nodes) + (name in self.outputs)

    def once(self, name: str, kind: str) -> onnx.NodeProto | None:
        """The producer of `name` if it is a `kind` and has one reader, else None."""
        node = self.made.get(name)
        return node if node is not None and node.op_type == kind and self.uses(name) == 1 else None

    def pointwise(self, node: onnx.NodeProto | None) -> Array | None:
        """The (O, I) matrix of a pointwise convolution without strides, groups and padding, else None."""
        weight = None if node is None else self.weights.get(node.input[1])
        if node is None or weight is None or weight.ndim != 4 or weight.shape[2:] != (1, 1):
            return None
        plain = set(attribute(node, "strides") or [1]) == {1} and not any(attribute(node, "pads") or [])
        return weight[:, :, 0, 0] if plain and (attribute(node, "group") or 1) == 1 else None

    def _parts(self, width: int) -> dict[str, _Part]:
        found = {CONDITION: _Part(0, width)}
        for node in self.nodes:
            if node.op_type == "Split" and node.input[0] == CONDITION:
                ends = np.cumsum(self.weights[node.input[1]]).tolist()
                found.update({n: _Part(a, b) for n, a, b in zip(node.output, [0, *ends], ends, strict=False)})
                continue
            part = found.get(node.input[0]) if node.input else None
            if part is None:
                continue
            if node.op_type == "Unsqueeze":
                found[node.output[0]] = part
            elif node.op_type == "Gather" and attribute(node, "axis") == 1 and part.order is None:
                found[node.output[0]] = replace(part, order=node.input[1])
            elif node.op_type == "Mul" and node.input[1] in self.weights and part.units is None:
                found[node.output[0]] = replace(part, units=node.input[1])
        return found

    def join(self, total: onnx.NodeProto) -> tuple[Join, onnx.NodeProto] | None:
        """A sum that adds a condition to a convolution, as the convolution that does the same; None for another."""
        if total.op_type != "Add":
            return None
        for plain, added in (total.input, total.input[::-1]):
            up = self.once(added, "Conv")
            product = self.once(up.input[0], "Mul") if up is not None else None
            if up is None or product is None:
                continue
            for gate, inner in (product.input, product.input[::-1]):
                down = self.once(inner, "Conv")
                if gate in self.parts and self.pointwise(up) is not None and self.pointwise(down) is not None:
                    assert down is not None
                    return self._joined(total, plain, self.parts[gate], down, up)
        return None

    def _joined(
        self, total: onnx.NodeProto, plain: str, gate: _Part, down: onnx.NodeProto, up: onnx.NodeProto
    ) -> tuple[Join, onnx.NodeProto] | None:
        shift: _Part | None = None
        if (add := self.once(plain, "Add")) is not None:
            for vector, rest in (add.input, add.input[::-1]):
                if vector in self.parts:
                    shift, plain = self.parts[vector], rest
        conv = self.once(plain, "Conv")
        if self.pointwise(conv) is None or conv is None or conv.input[0] != down.input[0] or gate.order or gate.units:
            return None
        bias = conv.input[2] if len(conv.input) > 2 else None
        join = Join(
            weight=conv.input[1],
            bias=bias or f"{conv.input[1]}.bias",
            down=down.input[1],
            up=up.input[1],
            gate=(gate.start, gate.stop),
            shift=None if shift is None else (shift.start, shift.stop),
            order=None if shift is None else shift.order,
            units=None if shift is None else shift.units,
        )
        node = onnx.NodeProto()
        node.CopyFrom(conv)
        node.ClearField("input")
        node.ClearField("output")
        node.input.extend([conv.input[0], join.weight, join.bias])
        node.output.append(total.output[0])
        return join, node


def view_graph(model: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[Join, ...]] | None:
    """The view graph of a general one, and the joins of its weights.

    None where the condition is no input, or goes anywhere but into pointwise convolutions.
    """
    if CONDITION not in {i.name for i in model.graph.input}:
        return None
    general = _General(model.graph)
    joins, nodes = list[Join](), list[onnx.NodeProto]()
    for node in general.nodes:
        joined = general.join(node)
        if joined is not None:
            joins.append(joined[0])
        nodes.append(node if joined is None else joined[1])
    needed, kept = set(general.outputs), list[onnx.NodeProto]()
    for node in reversed(nodes):
        if needed.intersection(node.output) and not set(node.output) & set(general.weights):
            needed.update(node.input)
            kept.insert(0, node)
    if CONDITION in needed or not joins or len({j.weight for j in joins}) < len(joins):
        return None
    view = onnx.ModelProto()
    view.CopyFrom(model)
    del view.graph.node[:], view.graph.initializer[:], view.graph.input[:]
    view.graph.name = f"{model.graph.name}.view"
    view.graph.node.extend(kept)
    view.graph.input.extend(i for i in model.graph.input if i.name != CONDITION)
    shapes = {name: w.shape for name, w in general.weights.items()}
    shapes.update({j.bias: (general.weights[j.weight].shape[0],) for j in joins})
    for name in sorted(needed & set(shapes)):
        weight = general.weights.get(name)
        if weight is not None and weight.dtype not in (np.float32, np.float16):
            view.graph.initializer.append(numpy_helper.from_array(weight, name))
            continue
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
        tensor.dims.extend(shapes[name])
        tensor.external_data.add(key="location", value=GIVEN)
        view.graph.initializer.append(tensor)
    return view, tuple(joins)


def inlined(view: onnx.ModelProto, weights: Mapping[str, Array]) -> onnx.ModelProto:
    """A view graph with the weights that it would be given in it."""
    model = onnx.ModelProto()
    model.CopyFrom(view)
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    return model


def constant(model: onnx.ModelProto, name: str, value: Array) -> onnx.ModelProto:
    """A model with one of its inputs given once and for all."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    del fixed.graph.input[:]
    fixed.graph.input.extend(i for i in model.graph.input if i.name != name)
    fixed.graph.initializer.append(numpy_helper.from_array(value, name))
    return fixed
