"""Reverse-mode differentiation of ONNX graphs: the nodes that turn a gradient by an output into one by an input.

Every rule is the vector-Jacobian product of one operator, in stock operators again, so that the backward pass runs
where the forward pass does and at every size. Weights are constants: no gradient is taken by them. Rounding passes
gradients as if it were not there, so that a quantised graph is differentiated as the float network that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ugicm.runtime.effort.layout_rules import LAYOUT_RULES
from ugicm.runtime.effort.nodes import FLOAT, INT64, TYPES, Graph, Node
from ugicm.runtime.effort.tape import Tape, UnsupportedError

_SHAPES = ("Shape", "Size")  # operators that read no number of their input


@dataclass(frozen=True)
class Gradient:
    """A graph that also computes a vector-Jacobian product.

    Attributes:
        graph: the nodes of both directions.
        name: of the gradient by the input.
    """

    graph: Graph
    name: str


def relaxed(graph: Graph) -> Graph:
    """A graph without rounding: quantised activations are the numbers they stand for, weights are unpacked.

    Casts to and from integers of pictures vanish as well: a uint8 picture becomes the float picture before rounding,
    not yet clipped. What follows from shapes alone stays as it is.
    """
    constants = dict(graph.constants)
    sizes = {name for name, kind in graph.inputs.items() if kind == INT64}
    nodes: list[Node] = []
    for node in graph.nodes:
        known = [constants.get(name) for name in node.inputs if name]
        computed = {name for name in node.inputs if name and name not in constants}
        of_sizes = bool(computed) and computed <= sizes
        if all(value is not None for value in known) and (fold := _FOLDS.get(node.operator)):
            constants[node.outputs[0]] = fold(node, *known)
        elif node.operator in ("QuantizeLinear", "DequantizeLinear"):
            nodes += _scaled(node, constants)
        elif node.operator in ("Round", "Cast") and not of_sizes:
            nodes.append(Node("Identity", node.inputs, node.outputs))
        else:
            nodes.append(node)
        if node.operator in _SHAPES or of_sizes:
            sizes.update(node.outputs)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def vector_jacobian(graph: Graph, output: str, wrt: str, seed: str) -> Gradient:
    """`graph` with nodes that turn `seed`, the gradient by `output`, into the gradient by `wrt`.

    Raises:
        UnsupportedError: an operator on the way has no rule.
    """
    on_the_way = {wrt}
    for node in graph.nodes:
        if node.operator not in _SHAPES and on_the_way.intersection(node.inputs):
            on_the_way.update(node.outputs)
    if output not in on_the_way:
        raise UnsupportedError(f"{output} does not depend on {wrt}")
    tape = Tape(graph, on_the_way)
    tape.add(output, seed)
    for node in reversed(graph.nodes):
        if on_the_way.intersection(node.outputs) and any(tape.gradients.get(name) for name in node.outputs):
            rule = _RULES.get(node.operator)
            if rule is None:
                raise UnsupportedError(f"operator {node.operator} has no gradient here")
            rule(tape, node)
    name = tape.gradient(wrt)
    done = replace(graph, nodes=graph.nodes + tuple(tape.nodes), constants={**graph.constants, **tape.constants})
    return Gradient(done, name)


# ---- rules


def _conv(tape: Tape, node: Node) -> None:
    weight, gradient = tape.known(node.inputs[1]), tape.gradient(node.outputs[0])
    if weight is None or node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise UnsupportedError("a convolution with computed weights or automatic padding has no gradient here")
    rank = weight.ndim - 2
    group = node.attributes.get("group", 1)
    strides = node.attributes.get("strides", [1] * rank)
    dilations = node.attributes.get("dilations", [1] * rank)
    pads = node.attributes.get("pads", [0] * 2 * rank)
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    if max(strides) == 1:
        out, into = weight.shape[:2]
        swapped = weight.reshape(group, out // group, into, *weight.shape[2:]).swapaxes(1, 2)
        swapped = np.flip(swapped.reshape(group * into, out // group, *weight.shape[2:]), tuple(range(2, 2 + rank)))
        back = [r - p for r, p in zip(reach * 2, pads, strict=True)]
        tape.add(
            node.inputs[0],
            tape.emit("Conv", gradient, tape.constant(swapped), group=group, dilations=list(dilations), pads=back),
        )
        return
    attributes = {"group": group, "strides": list(strides), "dilations": list(dilations)}
    if any(end >= step > 1 for end, step in zip(pads[rank:], strides, strict=True)):
        # Any size: all that windows reach, and what they leave over, of which the input is a part.
        whole = [step - 1 for step in strides]
        spread = tape.emit("ConvTranspose", gradient, node.inputs[1], output_padding=whole, **attributes)
        axes, starts = (tape.constant(v, np.int64) for v in (range(2, 2 + rank), pads[:rank]))
        sizes = tape.emit("Shape", node.inputs[0], start=2)
        tape.add(node.inputs[0], tape.emit("Slice", spread, starts, tape.emit("Add", sizes, starts), axes))
        return
    # Sizes are multiples of the stride: what a strided window leaves over at the end is known without the size.
    over = [(p + q - r - 1) % s for p, q, r, s in zip(pads[:rank], pads[rank:], reach, strides, strict=True)]
    attributes |= {"pads": list(pads), "output_padding": over}
    tape.add(node.inputs[0], tape.emit("ConvTranspose", gradient, node.inputs[1], **attributes))


def _matmul(tape: Tape, node: Node) -> None:
    known = [tape.known(name) for name in node.inputs]
    which = next((i for i, value in enumerate(known) if value is not None and value.ndim == 2), None)
    if which is None:
        raise UnsupportedError("a matrix product without a constant matrix has no gradient here")
    matrix, gradient = tape.constant(np.ascontiguousarray(known[which].T)), tape.gradient(node.outputs[0])  # type: ignore[union-attr]
    pair = (gradient, matrix) if which else (matrix, gradient)
    tape.add(node.inputs[1 - which], tape.emit("MatMul", *pair))


def _conv_transpose(tape: Tape, node: Node) -> None:
    if tape.known(node.inputs[1]) is None:
        raise UnsupportedError("a transposed convolution with computed weights has no gradient here")
    kept = {k: v for k, v in node.attributes.items() if k in ("group", "strides", "dilations")}
    weight = tape.known(node.inputs[1])
    assert weight is not None
    rank = weight.ndim - 2
    pads = list(node.attributes.get("pads", [0] * 2 * rank))
    tape.add(node.inputs[0], tape.emit("Conv", tape.gradient(node.outputs[0]), node.inputs[1], pads=pads, **kept))


def _same(tape: Tape, node: Node) -> None:
    tape.add(node.inputs[0], tape.gradient(node.outputs[0]))


def _add(tape: Tape, node: Node) -> None:
    for name in node.inputs:
        tape.add(name, tape.gradient(node.outputs[0]))


def _sub(tape: Tape, node: Node) -> None:
    gradient = tape.gradient(node.outputs[0])
    tape.add(node.inputs[0], gradient)
    if node.inputs[1] in tape.on_the_way:
        tape.add(node.inputs[1], tape.emit("Neg", gradient))


def _mul(tape: Tape, node: Node) -> None:
    gradient, (one, other) = tape.gradient(node.outputs[0]), node.inputs
    for name, factor in ((one, other), (other, one)):
        if name in tape.on_the_way:
            tape.add(name, tape.emit("Mul", gradient, factor))


def _div(tape: Tape, node: Node) -> None:
    gradient, (above, below) = tape.gradient(node.outputs[0]), node.inputs
    part = tape.emit("Div", gradient, below)
    tape.add(above, part)
    if below in tape.on_the_way:
        tape.add(below, tape.emit("Neg", tape.emit("Mul", part, node.outputs[0])))


def _relu(tape: Tape, node: Node) -> None:
    sign = tape.emit("Sign", node.outputs[0])
    tape.add(node.inputs[0], tape.emit("Mul", tape.gradient(node.outputs[0]), sign))


def _leaky_relu(tape: Tape, node: Node) -> None:
    gradient = tape.gradient(node.outputs[0])
    slope = tape.constant(node.attributes.get("alpha", 0.01))
    above = tape.emit("Greater", node.inputs[0], tape.constant(0))
    tape.add(node.inputs[0], tape.emit("Where", above, gradient, tape.emit("Mul", gradient, slope)))


def _clip(tape: Tape, node: Node) -> None:
    same = tape.emit("Equal", node.inputs[0], node.outputs[0])
    tape.add(node.inputs[0], tape.emit("Where", same, tape.gradient(node.outputs[0]), tape.constant(0)))


def _by_output(derivative: Callable[[Tape, str], str]) -> Callable[[Tape, Node], None]:
    """The rule of a function of one number whose derivative follows from its value."""

    def rule(tape: Tape, node: Node) -> None:
        tape.add(node.inputs[0], tape.emit("Mul", tape.gradient(node.outputs[0]), derivative(tape, node.outputs[0])))

    return rule


def _sqrt(tape: Tape, value: str) -> str:
    return tape.emit("Div", tape.constant(0.5), value)


def _sigmoid(tape: Tape, value: str) -> str:
    return tape.emit("Mul", value, tape.emit("Sub", tape.constant(1), value))


def _tanh(tape: Tape, value: str) -> str:
    return tape.emit("Sub", tape.constant(1), tape.emit("Mul", value, value))


def _erf(tape: Tape, node: Node) -> None:
    x = node.inputs[0]
    bell = tape.emit("Exp", tape.emit("Neg", tape.emit("Mul", x, x)))
    slope = tape.emit("Mul", bell, tape.constant(2 / np.sqrt(np.pi)))
    tape.add(x, tape.emit("Mul", tape.gradient(node.outputs[0]), slope))


def _gelu(tape: Tape, node: Node) -> None:
    if node.attributes.get("approximate", b"none") != b"none":
        raise UnsupportedError("an approximate Gelu has no gradient here")
    x = node.inputs[0]
    half, one = tape.constant(0.5), tape.constant(1)
    erf = tape.emit("Erf", tape.emit("Mul", x, tape.constant(np.sqrt(0.5))))
    below = tape.emit("Mul", tape.emit("Add", erf, one), half)
    bell = tape.emit("Exp", tape.emit("Mul", tape.emit("Mul", x, x), tape.constant(-0.5)))
    density = tape.emit("Mul", bell, tape.constant(1 / np.sqrt(2 * np.pi)))
    slope = tape.emit("Add", below, tape.emit("Mul", x, density))
    tape.add(x, tape.emit("Mul", tape.gradient(node.outputs[0]), slope))


def _pow(tape: Tape, node: Node) -> None:
    power = tape.known(node.inputs[1])
    if power is None or power.size != 1:
        raise UnsupportedError("a computed power has no gradient here")
    p = float(np.ravel(power)[0])
    lower = tape.emit("Pow", node.inputs[0], tape.constant(p - 1)) if p != 2 else node.inputs[0]
    slope = tape.emit("Mul", lower, tape.constant(p))
    tape.add(node.inputs[0], tape.emit("Mul", tape.gradient(node.outputs[0]), slope))


def _average_pool(tape: Tape, node: Node) -> None:
    if set(node.attributes.get("kernel_shape", ())) != {1}:
        raise UnsupportedError("pooling of more than one position has no gradient here")
    _same(tape, node)


def _reduce_mean(tape: Tape, node: Node) -> None:
    if not node.attributes.get("keepdims", 1):
        raise UnsupportedError("a mean that drops axes has no gradient here")
    x, y = node.inputs[0], node.outputs[0]
    counts = [tape.emit("Cast", tape.emit("Size", name), to=FLOAT) for name in (y, x)]
    each = tape.emit("Mul", tape.gradient(y), tape.emit("Div", *counts))
    tape.add(x, tape.emit("Expand", each, tape.emit("Shape", x)))


_RULES: Mapping[str, Callable[[Tape, Node], None]] = {
    **LAYOUT_RULES,
    "Add": _add,
    "AveragePool": _average_pool,
    "Clip": _clip,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Div": _div,
    "Erf": _erf,
    "Exp": _by_output(lambda tape, value: value),
    "Gelu": _gelu,
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Mul": _mul,
    "Neg": lambda tape, node: tape.add(node.inputs[0], tape.emit("Neg", tape.gradient(node.outputs[0]))),
    "Pow": _pow,
    "ReduceMean": _reduce_mean,
    "Relu": _relu,
    "Sigmoid": _by_output(_sigmoid),
    "Sqrt": _by_output(_sqrt),
    "Sub": _sub,
    "Tanh": _by_output(_tanh),
}


# ---- without rounding


def _dequantised(node: Node, value: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None) -> np.ndarray:
    def along(array: np.ndarray) -> np.ndarray:
        if not array.ndim or value.ndim < 2:
            return array
        axis = node.attributes.get("axis", 1) % value.ndim
        return array.reshape([-1 if i == axis else 1 for i in range(value.ndim)])

    centred = value.astype(np.float32) - (0 if zero is None else along(zero).astype(np.float32))
    return (centred * along(scale)).astype(np.float32)


_FOLDS: Mapping[str, Callable[..., np.ndarray]] = {
    "Concat": lambda node, *values: np.concatenate(values, node.attributes["axis"]),
    "Cast": lambda node, value: value.astype(TYPES[node.attributes["to"]]),
    "DequantizeLinear": _dequantised,
    "Identity": lambda node, value: value,
    "MatMul": lambda node, one, other: one @ other,
    "Mul": lambda node, one, other: one * other,
    "Neg": lambda node, value: -value,
    "Reshape": lambda node, value, shape: value.reshape(
        [value.shape[i] if n == 0 else int(n) for i, n in enumerate(shape)]
    ),
    "Transpose": lambda node, value: value.transpose(node.attributes.get("perm")),
    "Unsqueeze": lambda node, value, axes: np.expand_dims(value, tuple(int(n) for n in axes)),
}


def _scaled(node: Node, constants: dict[str, np.ndarray]) -> list[Node]:
    """What a quantisation or its inverse does to a number but for the rounding."""
    (x, scale, *zero), (out,) = node.inputs, node.outputs
    there = node.operator == "QuantizeLinear"
    shift = constants[zero[0]].astype(np.float32) if zero else np.zeros((), np.float32)
    size = constants[scale]
    if size.ndim and size.size > 1:
        raise UnsupportedError("activations quantised by channel have no gradient here")
    size, shift = size.reshape(()), shift.reshape(())
    if size == 1 and not shift:
        return [Node("Identity", (x,), (out,))]
    constants[f"{out}/scale"], constants[f"{out}/zero"] = size, shift
    between = f"{out}/between"
    first, second = (("Div", "scale"), ("Add", "zero")) if there else (("Sub", "zero"), ("Mul", "scale"))
    return [
        Node(first[0], (x, f"{out}/{first[1]}"), (between,)),
        Node(second[0], (between, f"{out}/{second[1]}"), (out,)),
    ]
