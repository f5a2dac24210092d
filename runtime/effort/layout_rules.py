"""Vector-Jacobian products of the operators that move numbers and change none."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from ugicm.runtime.effort.nodes import Node
from ugicm.runtime.effort.tape import Tape, UnsupportedError


def _transpose(tape: Tape, node: Node) -> None:
    order = node.attributes.get("perm")
    inverse = {} if order is None else {"perm": [int(n) for n in np.argsort(order)]}
    tape.add(node.inputs[0], tape.emit("Transpose", tape.gradient(node.outputs[0]), **inverse))


def _reshaped(tape: Tape, node: Node) -> None:
    shape = tape.emit("Shape", node.inputs[0])
    tape.add(node.inputs[0], tape.emit("Reshape", tape.gradient(node.outputs[0]), shape))


def _depth_to_space(tape: Tape, node: Node) -> None:
    block, gradient = node.attributes["blocksize"], tape.gradient(node.outputs[0])
    if node.attributes.get("mode", b"DCR") == b"DCR":
        tape.add(node.inputs[0], tape.emit("SpaceToDepth", gradient, blocksize=block))
        return
    # SpaceToDepth puts the place in the block before the channel, this operator reads it after.
    depth, whole = tape.emit("SpaceToDepth", gradient, blocksize=block), tape.emit("Shape", node.inputs[0])
    size = tape.emit("Slice", whole, *(tape.constant([n], np.int64) for n in (2, 4, 0)))
    apart = tape.emit("Concat", tape.constant([0, block * block, -1], np.int64), size, axis=0)
    turned = tape.emit("Transpose", tape.emit("Reshape", depth, apart), perm=[0, 2, 1, 3, 4])
    tape.add(node.inputs[0], tape.emit("Reshape", turned, whole))


def _space_to_depth(tape: Tape, node: Node) -> None:
    block = node.attributes["blocksize"]
    tape.add(node.inputs[0], tape.emit("DepthToSpace", tape.gradient(node.outputs[0]), blocksize=block))


def _concat(tape: Tape, node: Node) -> None:
    """Each part's piece of the gradient; where it begins is known when the graph runs."""
    gradient, axis = tape.gradient(node.outputs[0]), tape.constant([node.attributes["axis"]], np.int64)
    start = tape.constant([0], np.int64)
    for name in node.inputs:
        size = tape.emit("Gather", tape.emit("Shape", name), axis, axis=0)
        end = tape.emit("Add", start, size)
        if name in tape.on_the_way:
            tape.add(name, tape.emit("Slice", gradient, start, end, axis))
        start = end


def _slice(tape: Tape, node: Node) -> None:
    """The gradient with zeros around it."""
    x, starts, _, *rest = node.inputs
    first = tape.ints(starts, node)
    axes = tape.ints(rest[0], node) if rest and rest[0] else list(range(len(first)))
    steps = tape.ints(rest[1], node) if len(rest) > 1 and rest[1] else [1]
    if min(first) < 0 or min(axes) < 0 or set(steps) != {1}:
        raise UnsupportedError("a slice from the end or with steps has no gradient here")
    gradient, along = tape.gradient(node.outputs[0]), tape.constant(axes, np.int64)
    before = tape.constant(first, np.int64)
    whole, part = (tape.emit("Gather", tape.emit("Shape", name), along, axis=0) for name in (x, gradient))
    after = tape.emit("Sub", tape.emit("Sub", whole, part), before)
    pads = tape.emit("Concat", before, after, axis=0)
    tape.add(x, tape.emit("Pad", gradient, pads, tape.constant(0), along))


LAYOUT_RULES: Mapping[str, Callable[[Tape, Node], None]] = {
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Reshape": _reshaped,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Squeeze": _reshaped,
    "Transpose": _transpose,
    "Unsqueeze": _reshaped,
}
"""Operator → what notes the gradients by its inputs, given that by its output."""
