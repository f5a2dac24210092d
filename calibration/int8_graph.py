"""A float ONNX graph as layers that can be quantised, and the graph with Q/DQ around those that are.

Three forms (ONNX QuantizeLinear and DequantizeLinear, opset 20). Two are of the same integer arithmetic:

"cpu": activations uint8 with a zero point, biases int32, shapes moved on bytes. ONNX Runtime fuses it into
QLinearConv and QLinearAdd on x86; where an image comes in or goes out its bytes are the quantised tensor.

"tensorrt": activations int8 with zero point 0, biases float, everything else float. TensorRT refuses zero points
and int32 DequantizeLinear.

Weights are int8 in both, a scale an output channel, zero point 0.

"fp8": what TensorRT reads on GPUs that have it: inputs and weights of convolutions in FP8 (E4M3), everything else
float. With three bits of mantissa, sums and products stay as they are, and so do depthwise convolutions, which wait for
memory, not for arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from calibration.phases import FIRST, PHASES, attribute, interleave, join, pads, phase_weights

Form = Literal["cpu", "tensorrt", "fp8"]
FORMS: tuple[Form, ...] = ("cpu", "tensorrt", "fp8")
Array = np.ndarray
FP8 = helper.tensor_dtype_to_np_dtype(TensorProto.FLOAT8E4M3FN)
LARGEST_FP8 = 448.0

_LAYOUT = ("DepthToSpace", "Transpose", "Reshape")
_BYTES = ("Clip", "Mul", "Round", "Cast")
IR_VERSION = 10


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
    """What is quantised or left as a whole.

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
        """Reads the bytes of an ONNX file; transposed convolutions and their norms in the joined form of `phases`."""
        graph = onnx.load_from_string(data).graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = []
        for node in graph.node:
            if node.op_type == "Cast" and node.input[0] in constants and attribute(node, "to") == TensorProto.FLOAT:
                constants[node.output[0]] = constants[node.input[0]].astype(np.float32)
            else:
                nodes.append(node)
        nodes, constants = join(nodes, constants, {o.name for o in graph.output})
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
        """What can be quantised, in the order of computation."""
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
            if node.op_type in _LAYOUT:
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
            if node.op_type not in _LAYOUT + _BYTES or node.input[0] != tensor:
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
        while (node := self.producers.get(tensor)) is not None and node.op_type in _LAYOUT:
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
        nodes = _needed(self.nodes, set(wanted))
        return _model(self.name, nodes, self.constants, given, [values[t] for t in wanted])

    def pruned(self) -> FloatGraph:
        """Without nodes that no output depends on."""
        return replace(self, nodes=_needed(self.nodes, {o.name for o in self.outputs}))


def _model(
    name: str,
    nodes: Collection[onnx.NodeProto],
    constants: Mapping[str, Array],
    inputs: Collection[onnx.ValueInfoProto],
    outputs: Collection[onnx.ValueInfoProto],
) -> bytes:
    used = {i for node in nodes for i in node.input}
    kept = [numpy_helper.from_array(np.asarray(v, order="C"), k) for k, v in constants.items() if k in used]
    graph = helper.make_graph(
        _sorted(nodes, {*constants, *(i.name for i in inputs)}), name, list(inputs), list(outputs), kept
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=IR_VERSION, producer_name="ugicm"
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


class Quantiser:
    """Writes a graph with some of its layers quantised.

    Args:
        graph: the float graph.
        steps: tensor → step, for every input and output of the layers that will be quantised; by
            `FloatGraph.source` names.
        weights: layer → (int8 weights, a scale an output channel, float bias).
        form: see the module.
        byte_tensors: float inputs and outputs of the graph that become uint8; form "cpu" alone.
    """

    def __init__(
        self,
        graph: FloatGraph,
        steps: Mapping[str, Step],
        weights: Mapping[str, tuple[Array, Array, Array]],
        form: Form = "cpu",
        byte_tensors: Collection[str] = (),
    ) -> None:
        self.graph, self.steps, self.weights, self.form = graph, steps, weights, form
        self.byte_tensors = set(byte_tensors) if form == "cpu" else set()
        self._outputs = {o.name for o in graph.outputs}

    def write(self, quantised: Collection[str]) -> bytes:
        """The ONNX file with the named layers quantised."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants = dict(self.graph.constants)
        self._integers: dict[str, str] = {}  # tensor → its integers
        self._restored: dict[str, str] = {}  # tensor → its integers as floats
        self._phase_first: dict[str, int] = {}  # bytes whose channels `_shuffle` expects → how many they are
        self._phase_parts: dict[str, list[str]] = {}  # bytes that `_shuffle` makes of four phases → the phases
        self._born = {i.name for i in self.graph.inputs} & self.byte_tensors  # tensors that exist as integers only
        self._integers.update({name: name for name in self._born})
        chosen = [layer for layer in self.graph.layers if layer.name in quantised]
        first = {layer.nodes[0].output[0]: layer for layer in chosen}
        done = {node.output[0] for layer in chosen for node in layer.nodes[1:]}
        for node in self.graph.nodes:
            if node.output[0] in done:
                continue
            if node.output[0] in first:
                done |= self._layer(first[node.output[0]])
            elif self.form == "cpu" and node.op_type in _LAYOUT and node.input[0] in self._born:
                self._bear(node.output[0], node, self._integers[node.input[0]])
            else:
                copied = copy_node(node)
                for i, name in enumerate(copied.input):
                    copied.input[i] = self._restore(name) if name in self._born else name
                self._nodes.append(copied)
        inputs, outputs = (
            [_bytes_of(v) if v.name in self.byte_tensors else v for v in values]
            for values in (self.graph.inputs, self.graph.outputs)
        )
        nodes = _needed(self._nodes, self._outputs)
        return _model(self.graph.name, nodes, self._constants, inputs, outputs)

    def _layer(self, layer: Layer) -> set[str]:
        """Writes a layer; the outputs of the nodes after it that it has made superfluous."""
        sources = [self._restore(name) for name in layer.inputs]
        image = self.graph.image_out(layer.output) if self.form == "cpu" else None
        phased = image is None and self._shuffled_side(layer) == 2 and not layer.relu
        if phased and (kernels := phase_weights(self.weights[layer.name][0])) is not None:
            self._phases(layer, sources[0], kernels)
            return set()
        if layer.kind == "conv":
            sources += self._parameters(layer)
        folded = [n for n in layer.nodes[1:] if self.form != "cpu" or n.op_type != "Add"]
        node = copy_node(layer.nodes[0])
        del node.input[:]
        node.input.extend(sources)
        self._nodes.append(node)
        for part in folded:
            before, node = node.output[0], copy_node(part)
            for i, name in enumerate(node.input):
                if name in {n.output[0] for n in layer.nodes}:
                    node.input[i] = before
            self._nodes.append(node)
        if self.form == "fp8":
            return set()
        node.output[0] = f"{layer.output}/float"
        if image is not None:
            chain, step = image
            current = self._quantise(layer.output, node.output[0], step)
            self._mark(layer, current)
            for part in chain:
                if part.op_type in _LAYOUT:
                    current = self._move(part, current, f"{part.output[0]}/bytes")
            self._nodes[-1].output[0] = chain[-1].output[0]
            return {part.output[0] for part in chain}
        self._bear(layer.output, None, node.output[0])
        self._mark(layer, self._integers[layer.output])
        return set()

    def _phases(self, layer: Layer, source: str, kernels: list[Array]) -> None:
        """A convolution whose phases have fewer taps than it: one a phase, all quantised alike."""
        _, scales, bias = self.weights[layer.name]
        parts = []
        for i, (phase, kernel) in enumerate(zip(PHASES, kernels, strict=True)):
            name = f"{layer.name}/phase{phase[0]}{phase[1]}"
            units = (scales[i::4].astype(np.float64) * self._step(layer.inputs[0]).scale).astype(np.float32)
            parameters = [
                self._constant(f"{name}/weight", kernel, scales[i::4]),
                self._constant(f"{name}/bias", np.rint(bias[i::4] / units).astype(np.int32), units),
            ]
            values = self._emit("Conv", f"{name}/float", [source, *parameters], pads=pads(*phase))
            parts.append(self._quantise(layer.output, values, self._step(layer.output), f"{name}/bytes"))
        self._integers[layer.output] = together = f"{layer.output}/bytes"
        self._phase_parts[together] = parts
        self._born.add(layer.output)

    def _mark(self, layer: Layer, integers: str) -> None:
        if self._shuffled_side(layer):
            self._phase_first[integers] = len(self.weights[layer.name][1])

    def _bear(self, tensor: str, layout: onnx.NodeProto | None, source: str) -> None:
        """A tensor comes into being as integers: floats quantised, or other integers in another layout."""
        name = tensor if tensor in self.byte_tensors else f"{tensor}/bytes"
        if layout is None:
            self._integers[tensor] = self._quantise(tensor, source, self._step(tensor), name)
        else:
            self._integers[tensor] = self._move(layout, source, name)
        self._born.add(tensor)
        if tensor in self._outputs and tensor not in self.byte_tensors:
            self._restore(tensor, tensor)

    def _restore(self, tensor: str, name: str = "") -> str:
        """The floats that a tensor's integers stand for; the tensor is quantised if it is not yet."""
        if tensor not in self._restored:
            if tensor not in self._integers:
                image = self.graph.image_in(tensor) if self.form == "cpu" else None
                if image is None:
                    self._integers[tensor] = self._quantise(tensor, tensor, self._step(tensor))
                else:
                    self._integers[tensor] = image[0][0].input[0] if image[0] else self.graph.inputs[0].name
                    for node in image[0]:
                        name_ = f"{node.output[0]}/bytes"
                        self._integers[tensor] = self._move(node, self._integers[tensor], name_)
            constants = self._step_constants(tensor, self._step(tensor))
            self._restored[tensor] = self._emit(
                "DequantizeLinear", name or f"{tensor}/restored", [self._integers[tensor], *constants]
            )
        return self._restored[tensor]

    def _quantise(self, tensor: str, source: str, step: Step, name: str = "") -> str:
        constants = self._step_constants(tensor, step)
        return self._emit("QuantizeLinear", name or f"{tensor}/bytes", [source, *constants])

    def _move(self, layout: onnx.NodeProto, source: str, name: str) -> str:
        if source in self._phase_parts:
            parts = self._phase_parts[source]
            channels = len(self._constants[f"{parts[0].removesuffix('/bytes')}/bias/integers"])
            nodes, constants = interleave(parts, f"{name}/last", channels)
            self._nodes += nodes
            self._constants |= constants
            return self._emit("Transpose", name, [f"{name}/last"], perm=FIRST)
        if source in self._phase_first:
            return self._shuffle(layout, source, name)
        moved = self._emit(layout.op_type, name, [source, *layout.input[1:]])
        self._nodes[-1].attribute.extend(layout.attribute)
        return moved

    def _shuffle(self, layout: onnx.NodeProto, source: str, name: str) -> str:
        """A pixel shuffle that moves runs of bytes: what integer convolutions make lies in memory as (N, H, W, C).

        Channels are ordered row phase, column phase, channel, so that a row's phases lie beside each other.
        """
        side = int(attribute(layout, "blocksize"))
        last = self._phase_first[source]
        units = {
            "order": [0, 2, 3, 1],
            "grow": [1, side, side, 1],
            "shrink": [1, 1, 1, side**2],
            "split": [0, 0, 0, side, last // side],
        }
        self._constants.update({f"{name}/{k}": np.asarray(v, np.int64) for k, v in units.items()})
        shape = self._emit("Shape", f"{name}/shape", [source])
        shape = self._emit("Gather", f"{name}/shape_ordered", [shape, f"{name}/order"])
        shape = self._emit("Mul", f"{name}/shape_grown", [shape, f"{name}/grow"])
        shape = self._emit("Div", f"{name}/shape_after", [shape, f"{name}/shrink"])
        moved = self._emit("Transpose", f"{name}/last", [source], perm=[0, 2, 3, 1])
        moved = self._emit("Reshape", f"{name}/phases", [moved, f"{name}/split"])
        moved = self._emit("Transpose", f"{name}/rows", [moved], perm=[0, 1, 3, 2, 4])
        moved = self._emit("Reshape", f"{name}/joined", [moved, shape])
        return self._emit("Transpose", name, [moved], perm=[0, 3, 1, 2])

    def _shuffled_side(self, layer: Layer) -> int:
        """The side of the pixel shuffle that alone reads a layer; 0 where there is none, or its order must stay."""
        reader = self.graph.only_consumer(layer.output)
        if self.form != "cpu" or layer.kind != "conv" or layer.vector or reader is None:
            return 0
        crd = reader.op_type == "DepthToSpace" and attribute(reader, "mode") == b"CRD"
        return int(attribute(reader, "blocksize")) if crd else 0

    def _step(self, tensor: str) -> Step:
        if self.form == "cpu" and (image := self.graph.image_in(tensor)) is not None:
            return image[1]
        return self.steps[self.graph.source(tensor)]

    def _step_constants(self, tensor: str, step: Step) -> list[str]:
        names = [f"{tensor}/scale", f"{tensor}/zero"]
        self._constants.update(zip(names, (np.asarray(step.scale, np.float32), step.zero), strict=True))
        return names

    def _parameters(self, layer: Layer) -> list[str]:
        """Names of the weights and the bias of a convolution, as floats."""
        node = layer.nodes[0]
        integers, scales, bias = self.weights[layer.name]
        if side := self._shuffled_side(layer):
            rows = np.arange(len(scales)).reshape(-1, side, side).transpose(1, 2, 0).ravel()
            integers, scales, bias = integers[rows], scales[rows], bias[rows]
        # Layers may share a stored bias; their integers differ.
        weight, name = self._constant(f"{node.name}/weight", integers, scales), f"{node.name}/bias"
        if self.form != "cpu":
            self._constants[name] = bias.astype(np.float32)
            return [weight, name]
        units = (scales.astype(np.float64) * self._step(layer.inputs[0]).scale).astype(np.float32)
        if not layer.vector:
            return [weight, self._constant(name, np.rint(bias / units).astype(np.int32), units)]
        # The vector is an input: the sum becomes integers when the graph runs.
        self._constants[name] = bias.astype(np.float32)
        self._constants[f"{name}/units"] = units
        self._constants["flat"] = np.asarray([-1], np.int64)
        value = self._emit("Reshape", f"{name}/vector", [layer.vector, "flat"])
        value = self._emit("Add", f"{name}/sum", [name, value])
        value = self._emit("Div", f"{name}/quotient", [value, f"{name}/units"])
        value = self._emit("Round", f"{name}/rounded", [value])
        value = self._emit("Cast", f"{name}/integers", [value], to=TensorProto.INT32)
        return [weight, self._channels(name, value, units, np.int32)]

    def _constant(self, name: str, integers: Array, scales: Array) -> str:
        self._constants[f"{name}/integers"] = integers
        return self._channels(name, f"{name}/integers", scales, integers.dtype)

    def _channels(self, name: str, integers: str, scales: Array, kind: Any) -> str:
        """A tensor restored with a scale an output channel."""
        self._constants[f"{name}/scales"] = scales.astype(np.float32)
        self._constants[f"{name}/zeros"] = np.zeros(len(scales), kind)
        return self._emit("DequantizeLinear", f"{name}/restored", [integers, f"{name}/scales", f"{name}/zeros"], axis=0)

    def _emit(self, operator: str, name: str, inputs: list[str], **attributes: Any) -> str:
        self._nodes.append(new_node(operator, name, inputs, **attributes))
        return name


def new_node(operator: str, output: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """A node called after its output."""
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def copy_node(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _bytes_of(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    copied.type.tensor_type.elem_type = TensorProto.UINT8
    return copied


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


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on, in the order given."""
    makers = {output: i for i, node in enumerate(nodes) for output in node.output}
    wanted, found = [makers[name] for name in outputs if name in makers], set[int]()
    while wanted:
        if (i := wanted.pop()) not in found:
            found.add(i)
            wanted += [makers[name] for name in nodes[i].input if name in makers]
    return [nodes[i] for i in sorted(found)]
