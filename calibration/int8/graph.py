"""A float ONNX graph as layers that can be quantised; `quantiser` writes it with some that are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ugicm.export.forms.cpu_form import from_cpu
from ugicm.export.forms.rewriting import Array, attribute

Form = Literal["cpu", "tensorrt", "fp8"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt", "fp8")
FP8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
LARGEST_FP8 = 448.0

LAYOUT = ("DepthToSpace", "Transpose", "Reshape")
BYTES = ("Clip", "Mul", "Round", "Cast")
IR_VERSION = 10
CONTRIBUTED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""


@dataclass(frozen=True)
class Step:
    """How a tensor is quantised: value = scale * (integer - zero_point), or scale * an FP8 number."""

    scale: float
    zero_point: int
    signed: bool = False
    fp8: bool = False

    @property
    def zero(self) -> Array:
        return np.asarray(self.zero_point, FP8 if self.fp8 else np.int8 if self.signed else np.uint8)

    def round_trip(self, values: Array) -> Array:
        """Values quantised and restored, in their own dtype."""
        if self.fp8:
            return (to_fp8(values / self.scale).astype(values.dtype) * self.scale).astype(values.dtype)
        low, high = (-128, 127) if self.signed else (0, 255)
        steps = np.clip(np.rint(values / self.scale) + self.zero_point, low, high)
        return ((steps - self.zero_point) * self.scale).astype(values.dtype)


def to_fp8(values: Array) -> Array:
    """Values rounded to E4M3, those beyond its range to its ends."""
    return np.clip(values, -LARGEST_FP8, LARGEST_FP8).astype(FP8)


@dataclass(frozen=True)
class Layer:
    """A part of a graph that is quantised or left as a whole.

    Attributes:
        name: as people read it.
        kind: "conv": a convolution with the vector added and the ReLU after it; "add", "mul": the sum or product of
            two tensors.
        nodes: the nodes that it consists of, the operator itself first.
        inputs, output: its activations.
        vector: name of a per-channel vector (N, C, 1, 1) added before the ReLU; "" for none.
        relu: whether it ends in a ReLU.
    """

    name: str
    kind: Literal["conv", "add", "mul"]
    nodes: tuple[onnx.NodeProto, ...]
    inputs: tuple[str, ...]
    output: str
    vector: str = ""
    relu: bool = False


@dataclass
class FloatGraph:
    """A graph of a bundle, taken apart.

    Attributes:
        nodes: without the Casts that widen stored half-precision weights.
        constants: name → array, fp32 where they were stored as halves.
        inputs, outputs: as in the model.
    """

    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    name: str = "graph"

    @classmethod
    def parse(cls, data: bytes) -> FloatGraph:
        """Reads the bytes of an ONNX file; what `cpu_form` did is undone."""
        graph = onnx.load_from_string(data).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            if node.op_type == "Cast" and node.input[0] in constants and attribute(node, "to") == TensorProto.FLOAT:
                constants[node.output[0]] = constants[node.input[0]].astype(np.float32)
            else:
                nodes.append(node)
        nodes, constants = from_cpu(nodes, constants, {o.name for o in graph.output})
        return cls(nodes, constants, list(graph.input), list(graph.output), graph.name)

    @cached_property
    def producers(self) -> dict[str, onnx.NodeProto]:
        return {output: node for node in self.nodes for output in node.output}

    @cached_property
    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        found: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def vectors(self) -> list[onnx.ValueInfoProto]:
        """Inputs that are no activations: gains and conditions, whose height and width are not symbols."""
        return [i for i in self.inputs if not any(d.dim_param for d in i.type.tensor_type.shape.dim[2:])]

    @cached_property
    def layers(self) -> list[Layer]:
        """The elements that can be quantised, in the order of computation."""
        found: list[Layer] = []
        inside: set[str] = set()
        for node in self.nodes:
            if node.output[0] in inside:
                continue
            layer = self._layer(node)
            if layer is not None:
                found.append(layer)
                inside.update(n.output[0] for n in layer.nodes)
        return found

    def _layer(self, node: onnx.NodeProto) -> Layer | None:
        if node.op_type == "Conv" and node.input[1] in self.constants:
            return self._convolution(node)
        moving = [name for name in node.input if name not in self.constants and not self._is_vector(name)]
        if node.op_type in ("Add", "Mul") and len(moving) == 2 and not set(moving) & {i.name for i in self.vectors}:
            kind: Literal["add", "mul"] = "add" if node.op_type == "Add" else "mul"
            return Layer(node.name, kind, (node,), tuple(node.input), node.output[0])
        return None

    def _convolution(self, node: onnx.NodeProto) -> Layer:
        parts, vector, relu = [node], "", False
        following = self.only_consumer(parts[-1].output[0])
        if following is not None and following.op_type == "Add":
            other = next((n for n in following.input if n != parts[-1].output[0]), "")
            if self._is_vector(other):
                parts.append(following)
                vector = other
                following = self.only_consumer(parts[-1].output[0])
        if following is not None and following.op_type == "Relu":
            parts.append(following)
            relu = True
        return Layer(node.name, "conv", tuple(parts), (node.input[0],), parts[-1].output[0], vector, relu)

    def _is_vector(self, name: str) -> bool:
        """Whether a tensor is a vector brought to (N, C, 1, 1), as conditions are."""
        node = self.producers.get(name)
        if node is not None and node.op_type == "Mul" and node.input[1] in self.constants:
            return self._is_vector(node.input[0])
        return node is not None and node.op_type in ("Unsqueeze", "Reshape")

    def parameters(self, layer: Layer) -> tuple[Array, Array]:
        """Weight (O, C / group, kh, kw) and bias (O,) of a convolution."""
        node = layer.nodes[0]
        weight = self.constants[node.input[1]]
        return weight, self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight), np.float32)

    def takes(self, layer: Layer, form: Form) -> bool:
        """Whether a form quantises a layer at all."""
        if form != "fp8":
            return True
        return layer.kind == "conv" and (attribute(layer.nodes[0], "group") or 1) == 1

    def only_consumer(self, name: str) -> onnx.NodeProto | None:
        """The one node that reads a tensor which is no output; None where there is none, or several."""
        readers = self.consumers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in {o.name for o in self.outputs} else None

    def image_in(self, tensor: str) -> tuple[list[onnx.NodeProto], Step] | None:
        """Where a tensor is an image's bytes times a constant: the layout nodes before it, and that step."""
        layout: list[onnx.NodeProto] = []
        scale, cast = 1.0, False
        while (node := self.producers.get(tensor)) is not None:
            if node.op_type in LAYOUT:
                layout.insert(0, node)
            elif node.op_type == "Cast" and not cast:
                cast = True
            elif node.op_type in ("Div", "Mul") and node.input[1] in self.constants and not cast:
                value = self.constants[node.input[1]]
                if value.size != 1:
                    return None
                scale *= float(value) if node.op_type == "Mul" else 1 / float(value)
            else:
                return None
            tensor = node.input[0]
        source = next((i for i in self.inputs if i.name == tensor), None)
        if not cast or source is None or source.type.tensor_type.elem_type != TensorProto.UINT8:
            return None
        return layout, Step(scale, 0)

    def image_out(self, tensor: str) -> tuple[list[onnx.NodeProto], Step] | None:
        """Where a tensor ends as an image, clipped and rounded: all nodes after it, and the step that does the same."""
        chain: list[onnx.NodeProto] = []
        factor, bounds = 1.0, []
        while (node := self.only_consumer(tensor)) is not None:
            constants = [self.constants.get(name) for name in node.input[1:]]
            if node.op_type not in LAYOUT + BYTES or node.input[0] != tensor:
                return None
            if node.op_type in ("Mul", "Clip"):
                if any(c is None or c.size != 1 for c in constants):
                    return None
                values = [float(c) for c in constants if c is not None]
                if node.op_type == "Mul":
                    factor *= values[0]
                else:
                    bounds.append((values[0] / factor, values[1] / factor))
            if node.op_type == "Cast" and attribute(node, "to") != TensorProto.UINT8:
                return None
            chain.append(node)
            tensor = node.output[0]
        if tensor not in {o.name for o in self.outputs} or not any(n.op_type == "Cast" for n in chain):
            return None
        if any(abs(low) > 1e-6 or abs(high * factor - 255) > 1e-3 for low, high in bounds):
            return None
        return chain, Step(1 / factor, 0)

    def source(self, tensor: str) -> str:
        """The tensor whose values a tensor holds in another layout."""
        while (node := self.producers.get(tensor)) is not None and node.op_type in LAYOUT:
            tensor = node.input[0]
        return tensor

    def model(self, tensors: Collection[str] = (), *, only: bool = False, inputs: Collection[str] = ()) -> bytes:
        """The graph as an ONNX file.

        Args:
            tensors: more of its tensors that become outputs, in this order.
            only: whether they are the only outputs.
            inputs: the only inputs that it has; empty for all.
        """
        values = {o.name: o for o in self.outputs}
        wanted = [*([] if only else values), *(t for t in tensors if only or t not in values)]
        unknown = [helper.make_tensor_value_info(t, TensorProto.FLOAT, [None] * 4) for t in wanted if t not in values]
        values.update({v.name: v for v in unknown})
        given = [i for i in self.inputs if not inputs or i.name in inputs]
        nodes = needed(self.nodes, set(wanted))
        return to_model(self.name, nodes, self.constants, given, [values[t] for t in wanted])

    def pruned(self) -> FloatGraph:
        """Without nodes that no output depends on."""
        return replace(self, nodes=needed(self.nodes, {o.name for o in self.outputs}))


def to_model(
    name: str,
    nodes: Collection[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: Collection[onnx.ValueInfoProto],
    outputs: Collection[onnx.ValueInfoProto],
) -> bytes:
    """An ONNX file of nodes in any order, with those of the constants that they read."""
    used = {i for node in nodes for i in node.input}
    kept = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in constants.items() if k in used]
    graph = helper.make_graph(
        _sorted(nodes, {*constants, *(i.name for i in inputs)}), name, list(inputs), list(outputs), kept
    )
    domains = {"": 20, **({CONTRIBUTED: 1} if any(node.domain == CONTRIBUTED for node in nodes) else {})}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="ugicm")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _sorted(nodes: Collection[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Nodes after those that they read; in the order given as far as that allows."""
    waiting, ordered = list(nodes), list[onnx.NodeProto]()
    while waiting:
        later = []
        for node in waiting:
            if all(not name or name in known for name in node.input):
                ordered.append(node)
                known.update(node.output)
            else:
                later.append(node)
        if len(later) == len(waiting):
            break  # a name that nothing makes: the checker says which
        waiting = later
    return ordered + waiting


def needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on, in the order given."""
    makers = {output: i for i, node in enumerate(nodes) for output in node.output}
    wanted, found = [makers[name] for name in outputs if name in makers], set[int]()
    while wanted:
        if (i := wanted.pop()) not in found:
            found.add(i)
            wanted += [makers[name] for name in nodes[i].input if name in makers]
    return [nodes[i] for i in sorted(found)]


def as_bytes(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """An input or output of the same shape whose elements are uint8."""
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    copied.type.tensor_type.elem_type = TensorProto.UINT8
    return copied
