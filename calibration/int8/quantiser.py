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

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
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
    as_bytes,
    needed,
    to_model,
)
from ugicm.calibration.int8.kernels import Weights, is_product, shuffled_side, widened, widening
from ugicm.export.forms.channels_last import pixel_order, spread
from ugicm.export.forms.cpu_form import to_cpu
from ugicm.export.forms.phases import PHASES, interleave, pads, phase_weights
from ugicm.export.forms.rewriting import FIRST, LAST, Array, copy_node, new_node


@dataclass(frozen=True)
class Integers:
    """A tensor's integers in the written graph.

    Attributes:
        name: of the tensor that holds them.
        channels, side: of the pixel shuffle that reads them, where the convolution before it ordered its channels row
            phase, column phase, channel; 0 elsewhere.
        parts: names of the four phases that they are to be made of, where the tensor itself is not written; else none.
    """

    name: str
    channels: int = 0
    side: int = 0
    parts: tuple[str, ...] = ()


@dataclass
class Tensor:
    """The forms in which a tensor of the float graph exists in the written one.

    Attributes:
        integers: its integers, None while there are none.
        only_integers: whether its floats are made from them; else they are there, or are written with channels last.
        restored: name of its integers as floats; "" while there are none.
        last: name of its floats with channels last; "" while there are none.
        first: whether its floats exist with channels first, under its own name.
        product: whether an integer matrix product made it.
    """

    integers: Integers | None = None
    only_integers: bool = False
    restored: str = ""
    last: str = ""
    first: bool = True
    product: bool = False


class Quantiser:
    """Writes a graph with some of its layers quantised.

    Args:
        graph: the float graph.
        steps: tensor → step, for every input and output of the layers that will be quantised; by
            `FloatGraph.source` names.
        weights: layer → its integers, for convolutions.
        form: see the module.
        byte_tensors: float inputs and outputs of the graph that become uint8; form "cpu" alone.
    """

    def __init__(
        self,
        graph: FloatGraph,
        steps: Mapping[str, Step],
        weights: Mapping[str, Weights],
        form: Form = "cpu",
        byte_tensors: Collection[str] = (),
    ) -> None:
        self.graph, self.steps, self.weights, self.form = graph, steps, weights, form
        self.byte_tensors = set(byte_tensors) if form == "cpu" else set()

    def write(self, quantised: Collection[str]) -> bytes:
        """The ONNX file with the named layers quantised."""
        return _Writing(self, quantised).write()


class _Writing:
    """One graph being written."""

    def __init__(self, quantiser: Quantiser, quantised: Collection[str]) -> None:
        self.graph, self.steps, self.form = quantiser.graph, quantiser.steps, quantiser.form
        self.weights, self.byte_tensors = quantiser.weights, quantiser.byte_tensors
        self._quantised = set(quantised)
        self._outputs = {o.name for o in self.graph.outputs}
        self._nodes: list[onnx.NodeProto] = []
        self._constants = dict(self.graph.constants)
        self._tensors = defaultdict[str, Tensor](Tensor)
        for name in {i.name for i in self.graph.inputs} & self.byte_tensors:
            self._tensors[name] = Tensor(Integers(name), only_integers=True)

    def write(self) -> bytes:
        chosen = [layer for layer in self.graph.layers if layer.name in self._quantised]
        first = {layer.nodes[0].output[0]: layer for layer in chosen}
        done = {node.output[0] for layer in chosen for node in layer.nodes[1:]}
        for node in self.graph.nodes:
            if node.output[0] in done:
                continue
            if node.output[0] in first:
                done |= self._layer(first[node.output[0]])
            elif self.form == "cpu" and node.op_type in LAYOUT and self._tensors[node.input[0]].only_integers:
                self._bear(node.output[0], self._move(node, self._integers(node.input[0]), self._bytes(node.output[0])))
            elif node.op_type == "Add" and any(self._tensors[name].product for name in node.input):
                self._sum(node)
            else:
                copied = copy_node(node)
                for i, name in enumerate(copied.input):
                    copied.input[i] = self._floats(name)
                self._nodes.append(copied)
        inputs, outputs = (
            [as_bytes(v) if v.name in self.byte_tensors else v for v in values]
            for values in (self.graph.inputs, self.graph.outputs)
        )
        nodes, constants = needed(self._nodes, self._outputs), self._constants
        if self.form == "cpu":
            nodes, constants = to_cpu(nodes, constants, self._outputs)
        return to_model(self.graph.name, nodes, constants, inputs, outputs)

    def _floats(self, name: str) -> str:
        """A tensor's floats, with channels first."""
        tensor = self._tensors[name]
        if tensor.only_integers:
            return self._restore(name)
        if not tensor.first:
            tensor.first = True
            self._emit("Transpose", name, [tensor.last], perm=FIRST)
        return name

    def _integers(self, name: str) -> Integers:
        """A tensor's integers; it is quantised if it is not yet."""
        tensor = self._tensors[name]
        if tensor.integers is None:
            image = self.graph.image_in(name) if self.form == "cpu" else None
            if tensor.last:
                last = self._quantise(name, tensor.last, self._step(name), f"{name}/bytes/last")
                tensor.integers = Integers(self._emit("Transpose", f"{name}/bytes", [last], perm=FIRST))
            elif image is None:
                tensor.integers = Integers(self._quantise(name, name, self._step(name)))
            else:
                tensor.integers = Integers(image[0][0].input[0] if image[0] else self.graph.inputs[0].name)
                for node in image[0]:
                    tensor.integers = self._move(node, tensor.integers, f"{node.output[0]}/bytes")
        return tensor.integers

    def _restore(self, name: str, restored: str = "") -> str:
        """The floats that a tensor's integers stand for; the tensor is quantised if it is not yet."""
        tensor = self._tensors[name]
        if not tensor.restored:
            integers = self._integers(name).name
            inputs = [integers, *self._step_constants(name, self._step(name))]
            tensor.restored = self._emit("DequantizeLinear", restored or f"{name}/restored", inputs)
        return tensor.restored

    def _bytes(self, name: str) -> str:
        """The name that a tensor's integers get."""
        return name if name in self.byte_tensors else f"{name}/bytes"

    def _bear(self, name: str, integers: Integers) -> None:
        """A tensor comes into being as integers."""
        self._tensors[name] = Tensor(integers, only_integers=True)
        if name in self._outputs and name not in self.byte_tensors:
            self._restore(name, name)

    def _multiplies(self, layer: Layer) -> bool:
        """Whether a layer is a matrix product whose floats alone are wanted, for a sum that stays in float."""
        reader = self.graph.only_consumer(layer.output)
        if self.form != "cpu" or reader is None or reader.op_type != "Add" or reader.name in self._quantised:
            return False
        return layer.kind == "conv" and is_product(layer, self.weights[layer.name])

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
        source = self._emit("Transpose", f"{name}/source", [self._integers(tensor).name], perm=LAST)
        inputs = [source, f"{name}/matrix", scale, f"{name}/scales", zero, f"{name}/zero", f"{name}/offset"]
        made = self._emit("MatMulIntegerToFloat", f"{layer.output}/channels_last", inputs, domain=CONTRIBUTED)
        self._tensors[layer.output] = Tensor(last=made, first=False, product=True)

    def _sum(self, node: onnx.NodeProto) -> None:
        """A sum in float of what `_product` made: with channels last, as all of its residual chain is then."""
        terms = []
        for name in node.input:
            tensor = self._tensors[name]
            if not tensor.last:
                tensor.last = self._emit("Transpose", f"{name}/channels_last", [self._floats(name)], perm=LAST)
            terms.append(tensor.last)
        output = node.output[0]
        self._tensors[output] = Tensor(last=self._emit("Add", f"{output}/channels_last", terms), first=False)
        if output in self._outputs:
            self._floats(output)

    def _layer(self, layer: Layer) -> set[str]:
        """Writes a layer; the outputs of the nodes after it that it has made superfluous."""
        if self._multiplies(layer):
            self._product(layer)
            return set()
        sources = [self._restore(name) for name in layer.inputs]
        image = self.graph.image_out(layer.output) if self.form == "cpu" else None
        phased = image is None and self._side(layer) == 2 and not layer.relu
        if phased and (kernels := phase_weights(self.weights[layer.name].integers)) is not None:
            self._phases(layer, sources[0], kernels)
            return set()
        if layer.kind == "conv":
            sources += self._parameters(layer)
        folded = [n for n in layer.nodes[1:] if self.form != "cpu" or n.op_type != "Add"]
        node = copy_node(layer.nodes[0])
        if layer.kind == "conv" and self._widening(layer) == 2:
            del node.attribute[:]
            attributes = {"kernel_shape": [4, 4], "strides": [2, 2], "pads": [1] * 4}
            node.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
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
            current = self._ordered(layer, self._quantise(layer.output, node.output[0], step))
            for part in chain:
                if part.op_type in LAYOUT:
                    current = self._move(part, current, f"{part.output[0]}/bytes")
            self._nodes[-1].output[0] = chain[-1].output[0]
            return {part.output[0] for part in chain}
        values, output = node.output[0], layer.output
        made = self._quantise(output, values, self._step(output), self._bytes(output))
        self._bear(output, self._ordered(layer, made))
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
        # The name stands for no tensor: the pixel shuffle that reads it takes the parts.
        self._tensors[layer.output] = Tensor(Integers(f"{layer.output}/bytes", parts=tuple(parts)), only_integers=True)

    def _ordered(self, layer: Layer, name: str) -> Integers:
        """The integers that a layer makes, which lie as `_parameters` orders its channels."""
        side = self._side(layer)
        if not side:
            return Integers(name)
        wider = self._widening(layer)
        return Integers(name, len(self.weights[layer.name].scales) * wider**2, side * wider)

    def _quantise(self, tensor: str, source: str, step: Step, name: str = "") -> str:
        constants = self._step_constants(tensor, step)
        return self._emit("QuantizeLinear", name or f"{tensor}/bytes", [source, *constants])

    def _move(self, layout: onnx.NodeProto, source: Integers, name: str) -> Integers:
        """Integers in another layout."""
        if source.parts:
            channels = len(self._constants[f"{source.parts[0].removesuffix('/bytes')}/bias/integers"])
            nodes, constants = interleave(list(source.parts), f"{name}/last", channels)
            self._nodes += nodes
            self._constants |= constants
            self._emit("Transpose", name, [f"{name}/last"], perm=FIRST)
        elif source.side:
            self._shuffle(source, name)
        else:
            self._emit(layout.op_type, name, [source.name, *layout.input[1:]])
            self._nodes[-1].attribute.extend(layout.attribute)
        return Integers(name)

    def _shuffle(self, source: Integers, name: str) -> None:
        """A pixel shuffle that moves runs of bytes: what integer convolutions make lies in memory as (N, H, W, C).

        Channels are ordered row phase, column phase, channel, so that a row's phases lie beside each other.
        """
        last = self._emit("Transpose", f"{name}/unshuffled", [source.name], perm=LAST)
        nodes, constants = spread(last, f"{name}/last", source.side, source.channels // source.side)
        self._nodes += nodes
        self._constants |= constants
        self._emit("Transpose", name, [f"{name}/last"], perm=FIRST)

    def _side(self, layer: Layer) -> int:
        """The side of the pixel shuffle that a layer's channels are ordered for; 0 where they keep their order."""
        return shuffled_side(self.graph, layer) if self.form == "cpu" else 0

    def _widening(self, layer: Layer) -> int:
        """2 where a convolution makes four of its outputs at once; else 1."""
        return widening(self.graph, layer, self.weights[layer.name]) if self._side(layer) else 1

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
        if side := self._side(layer):
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
