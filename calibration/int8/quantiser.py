"""A graph with Q/DQ around the layers that are quantised.

Three forms (ONNX QuantizeLinear and DequantizeLinear, opset 20). Two are of the same integer arithmetic:

"cpu": activations uint8 with a zero point, biases int32, shapes moved on bytes. ONNX Runtime fuses it into
QLinearConv and QLinearAdd on x86; where an image comes in or goes out its bytes are the quantised tensor. Where a sum
stays in float, a pointwise convolution before it gives floats at once (MatMulIntegerToFloat, ONNX Runtime's own), and
the whole residual chain lies with channels last, as integer kernels want it: nothing is rounded or moved on the way.

"tensorrt": activations int8 with zero point 0, biases float, everything else float. TensorRT refuses zero points
and int32 DequantizeLinear.

Weights are int8 in both, a scale an output channel, zero point 0.

"fp8": what TensorRT reads on GPUs that have it: inputs and weights of convolutions in FP8 (E4M3), everything else
float. With three bits of mantissa, sums and products stay as they are, and so do depthwise convolutions, which wait for
memory, not for arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from ugicm.calibration.int8.graph import (
    CONTRIBUTED,
    LAYOUT,
    FloatGraph,
    Form,
    Layer,
    Step,
    needed,
    to_model,
)
from ugicm.export.forms.channels_last import pixel_order, spread
from ugicm.export.forms.cpu_form import to_cpu
from ugicm.export.forms.phases import LEAST_CHANNELS, PHASES, interleave, pads, phase_weights
from ugicm.export.forms.rewriting import FIRST, LAST, Array, attribute, copy_node, new_node


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
        self._phase_first: dict[
            str, tuple[int, int]
        ] = {}  # bytes that `_shuffle` expects → channels, side of its squares
        self._phase_parts: dict[str, list[str]] = {}  # bytes that `_shuffle` makes of four phases → the phases
        self._born = {i.name for i in self.graph.inputs} & self.byte_tensors  # tensors that exist as integers only
        self._integers.update({name: name for name in self._born})
        self._last: dict[str, str] = {}  # tensor → its floats with channels last
        self._first = set[str]()  # of these, those that exist with channels first too
        self._products = set[str]()  # of these, those that an integer matrix product makes
        self._quantised = set(quantised)
        chosen = [layer for layer in self.graph.layers if layer.name in quantised]
        first = {layer.nodes[0].output[0]: layer for layer in chosen}
        done = {node.output[0] for layer in chosen for node in layer.nodes[1:]}
        for node in self.graph.nodes:
            if node.output[0] in done:
                continue
            if node.output[0] in first:
                done |= self._layer(first[node.output[0]])
            elif self.form == "cpu" and node.op_type in LAYOUT and node.input[0] in self._born:
                self._bear(node.output[0], node, self._integers[node.input[0]])
            elif node.op_type == "Add" and self._products & set(node.input):
                self._sum(node)
            else:
                copied = copy_node(node)
                for i, name in enumerate(copied.input):
                    copied.input[i] = self._floats(name)
                self._nodes.append(copied)
        inputs, outputs = (
            [_bytes_of(v) if v.name in self.byte_tensors else v for v in values]
            for values in (self.graph.inputs, self.graph.outputs)
        )
        nodes, constants = needed(self._nodes, self._outputs), self._constants
        if self.form == "cpu":
            nodes, constants = to_cpu(nodes, constants, self._outputs)
        return to_model(self.graph.name, nodes, constants, inputs, outputs)

    def _floats(self, tensor: str) -> str:
        """A tensor's floats, with channels first."""
        if tensor in self._born:
            return self._restore(tensor)
        if tensor in self._last and tensor not in self._first:
            self._first.add(tensor)
            self._emit("Transpose", tensor, [self._last[tensor]], perm=FIRST)
        return tensor

    def _multiplies(self, layer: Layer) -> bool:
        """Whether a layer is a matrix product whose floats alone are wanted, for a sum that stays in float."""
        node, reader = layer.nodes[0], self.graph.only_consumer(layer.output)
        if self.form != "cpu" or layer.kind != "conv" or layer.relu or layer.vector or reader is None:
            return False
        told = [attribute(node, name) for name in ("group", "strides", "pads")]
        pointwise = self.weights[layer.name][0].shape[2:] == (1, 1) and told[0] in (None, 1)
        plain = told[1] in (None, [1, 1]) and not any(told[2] or [])
        return reader.op_type == "Add" and reader.name not in self._quantised and pointwise and plain

    def _product(self, layer: Layer) -> None:
        """A pointwise convolution as a product of integer matrices whose sums become floats, with channels last."""
        tensor, name = layer.inputs[0], layer.name
        integers, scales, bias = self.weights[name]
        self._restore(tensor)
        self._constants |= {
            f"{name}/matrix": np.ascontiguousarray(integers[:, :, 0, 0].T),
            f"{name}/zero": np.asarray(0, np.int8),
            f"{name}/scales": scales.astype(np.float32),
            f"{name}/offset": bias.astype(np.float32),
        }
        scale, zero = self._step_constants(tensor, self._step(tensor))
        source = self._emit("Transpose", f"{name}/source", [self._integers[tensor]], perm=LAST)
        inputs = [source, f"{name}/matrix", scale, f"{name}/scales", zero, f"{name}/zero", f"{name}/offset"]
        made = self._emit("MatMulIntegerToFloat", f"{layer.output}/channels_last", inputs, domain=CONTRIBUTED)
        self._last[layer.output] = made
        self._products.add(layer.output)

    def _sum(self, node: onnx.NodeProto) -> None:
        """A sum in float of what `_product` made: with channels last, as all of its residual chain is then."""
        for name in node.input:
            if name not in self._last:
                self._last[name] = self._emit("Transpose", f"{name}/channels_last", [self._floats(name)], perm=LAST)
                self._first.add(name)
        output = node.output[0]
        self._last[output] = self._emit("Add", f"{output}/channels_last", [self._last[name] for name in node.input])
        if output in self._outputs:
            self._floats(output)

    def _layer(self, layer: Layer) -> set[str]:
        """Writes a layer; the outputs of the nodes after it that it has made superfluous."""
        if self._multiplies(layer):
            self._product(layer)
            return set()
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
        if layer.kind == "conv" and self._widening(layer) == 2:
            del node.attribute[:]
            told = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
            node.attribute.extend(helper.make_attribute(k, v) for k, v in told.items())
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
                if part.op_type in LAYOUT:
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
        if side := self._shuffled_side(layer):
            wider = self._widening(layer)
            self._phase_first[integers] = (len(self.weights[layer.name][1]) * wider**2, side * wider)

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
                if tensor in self._last:
                    last = self._quantise(tensor, self._last[tensor], self._step(tensor), f"{tensor}/bytes/last")
                    self._integers[tensor] = self._emit("Transpose", f"{tensor}/bytes", [last], perm=FIRST)
                elif image is None:
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
            return self._shuffle(source, name)
        moved = self._emit(layout.op_type, name, [source, *layout.input[1:]])
        self._nodes[-1].attribute.extend(layout.attribute)
        return moved

    def _shuffle(self, source: str, name: str) -> str:
        """A pixel shuffle that moves runs of bytes: what integer convolutions make lies in memory as (N, H, W, C).

        Channels are ordered row phase, column phase, channel, so that a row's phases lie beside each other.
        """
        channels, side = self._phase_first[source]
        last = self._emit("Transpose", f"{name}/unshuffled", [source], perm=LAST)
        nodes, constants = spread(last, f"{name}/last", side, channels // side)
        self._nodes += nodes
        self._constants |= constants
        return self._emit("Transpose", name, [f"{name}/last"], perm=FIRST)

    def _shuffled_side(self, layer: Layer) -> int:
        """The side of the pixel shuffle that alone reads a layer; 0 where there is none, or its order must stay."""
        reader = self.graph.only_consumer(layer.output)
        if self.form != "cpu" or layer.kind != "conv" or layer.vector or reader is None:
            return 0
        crd = reader.op_type == "DepthToSpace" and attribute(reader, "mode") == b"CRD"
        return int(attribute(reader, "blocksize")) if crd else 0

    def _widening(self, layer: Layer) -> int:
        """2 where a convolution makes four of its outputs at once, see `widened`; else 1.

        Its input has even sides: a picture's are multiples of more.
        """
        side = self._shuffled_side(layer)
        if not side or self.graph.image_out(layer.output) is None:
            return 1
        node, weight = layer.nodes[0], self.weights[layer.name][0]
        told = (attribute(node, "pads"), attribute(node, "strides") or [1, 1], attribute(node, "group") or 1)
        small = weight.shape[2:] == (3, 3) and len(weight) < LEAST_CHANNELS
        return 2 if small and told == ([1] * 4, [1, 1], 1) else 1

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
            if self._widening(layer) == 2:
                integers, origin = widened(integers, side)
                scales, bias, side = scales[origin], bias[origin], 2 * side
            rows = pixel_order(len(scales), side)
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
        self._nodes.append(new_node(operator, inputs, name, **attributes))
        return name


def widened(weight: Array, side: int) -> tuple[Array, Array]:
    """A 3×3 convolution that makes a square of four outputs at each second position, and each channel's origin.

    An integer matrix product takes as long for few columns as for many, and what a convolution copies for it, its
    input once for each tap, is here less by half.

    Args:
        weight: (C·side², K, 3, 3), ordered for a pixel shuffle of that side.
        side: of the pixel shuffle.

    Returns:
        (C·4·side², K, 4, 4), of stride 2, for a pixel shuffle of twice the side, and (C·4·side²,) indexes into the
        channels given.
    """
    given = weight.reshape(-1, side, side, *weight.shape[1:])
    channels, inputs = len(given), weight.shape[1]
    kernel = np.zeros((channels, 2, side, 2, side, inputs, 4, 4), weight.dtype)
    for row in range(2):
        for column in range(2):
            kernel[:, row, :, column, :, :, row : row + 3, column : column + 3] = given
    origin = np.arange(len(weight)).reshape(channels, 1, side, 1, side)
    return kernel.reshape(-1, inputs, 4, 4), np.broadcast_to(origin, kernel.shape[:5]).ravel()


def _bytes_of(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    copied = onnx.ValueInfoProto()
    copied.CopyFrom(value)
    copied.type.tensor_type.elem_type = TensorProto.UINT8
    return copied
