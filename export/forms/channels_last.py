"""Pictures and pixel shuffles moved as runs of memory, with channels last, and back.

A CPU's kernels keep channels in blocks; to bring those to channels last takes as long as to bring them to channels
first. With channels last, and a shuffle's channels ordered row, column, channel, the pixels of a row lie beside each
other: a shuffle moves whole runs of them, where on channels first it moves single numbers. `pack` brings graphs to that
form:

- a pixel shuffle after a convolution has that convolution's channels reordered;
- a picture is clipped, rounded and made bytes by one QuantizeLinear, before its pixels are shuffled.

`unpack` undoes it, to the last bit of every weight.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto

from ugicm.export.forms.rewriting import (
    FIRST,
    LAST,
    Array,
    Graph,
    Nodes,
    Rewritten,
    attribute,
    copy_node,
    editing,
    in_turn,
    new_node,
)

LEAST_RUN = 16
"""Floats that a shuffle must move at once: below, it is no faster. Bytes of a picture, any number."""
WHITE = 255.0
_ROWS = [0, 1, 3, 2, 4]
_ELEMENTWISE = ("Relu", "LeakyRelu", "Clip")


def pack(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with its picture and pixel shuffles in this form."""
    return in_turn((_pack_picture, _pack_shuffles), nodes, constants, outputs)


def unpack(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with all that `pack` did undone."""
    return in_turn((_unpack_shuffles, _unpack_picture), nodes, constants, outputs)


# ---- a pixel shuffle as four nodes


def spread(source: str, output: str, side: int, run: int) -> Rewritten:
    """Nodes, and their constants, from (N, H, W, side·run) to (N, side·H, side·W, run / side)."""
    shapes = {"apart": [0, 0, 0, side, run], "together": [0, 0, -1, run], "picture": [0, -1, 0, run // side]}
    constants = {f"{output}/{k}": np.asarray(v, np.int64) for k, v in shapes.items()}
    nodes = [
        new_node("Reshape", [source, f"{output}/apart"], f"{output}/runs"),
        new_node("Transpose", [f"{output}/runs"], f"{output}/rows", perm=_ROWS),
        new_node("Reshape", [f"{output}/rows", f"{output}/together"], f"{output}/joined"),
        new_node("Reshape", [f"{output}/joined", f"{output}/picture"], output),
    ]
    return nodes, constants


def _spreading(graph: Graph, first: onnx.NodeProto) -> tuple[Nodes, int] | None:
    """The nodes of a shuffle that begins at a Reshape, and its side."""
    shape = graph.constants.get(first.input[1]) if first.op_type == "Reshape" else None
    if shape is None or len(shape) != 5 or shape[:3].any():
        return None
    side, run = int(shape[3]), int(shape[4])
    expected = [("Transpose", _ROWS), ("Reshape", [0, 0, -1, run]), ("Reshape", [0, -1, 0, run // max(1, side)])]
    chain = _follow(graph, first, expected)
    return None if chain is None else (chain, side)


def _follow(graph: Graph, first: onnx.NodeProto, expected: Sequence[tuple[str, list[int]]]) -> Nodes | None:
    """A node and those after it, each the only reader: Transposes and Reshapes as given."""
    chain = [first]
    for kind, numbers in expected:
        node = graph.only_reader(chain[-1].output[0])
        if node is None or node.op_type != kind:
            return None
        if kind == "Transpose":
            found = attribute(node, "perm")
        else:
            shape = graph.constants.get(node.input[1])
            found = None if shape is None else shape.tolist()
        if found != numbers:
            return None
        chain.append(node)
    return chain


# ---- the order of a convolution's channels


def pixel_order(channels: int, side: int) -> Array:
    """The pixel shuffle's channels that, ordered channel, row, column, are where they are row, column, channel."""
    return np.arange(channels).reshape(-1, side, side).transpose(1, 2, 0).ravel()


def _reordering(graph: Graph, tensor: str, order: Array, back: bool) -> list[tuple[onnx.NodeProto, Nodes]] | None:
    """The replacements for the channels of a tensor, which one node reads, to come in an order; None where they cannot.

    They come from convolutions, sums of them, and what a condition adds, a vector brought to (N, C, 1, 1).
    """
    node = graph.maker(tensor)
    if node is None or tensor in graph.outputs or len(graph.readers(tensor)) != 1:
        return None
    if node.op_type in _ELEMENTWISE:
        return _reordering(graph, node.input[0], order, back)
    if node.op_type == "Conv" and (attribute(node, "group") or 1) == 1:
        parameters = [graph.constants.get(name) for name in node.input[1:]]
        if any(p is None or len(p) != len(order) for p in parameters):
            return None
        made = copy_node(node)
        for i, array in enumerate(parameters):
            assert array is not None
            name = f"{node.name}/{('weight', 'bias')[i]}" + ("" if back else "/shuffled")
            graph.constants[name] = np.ascontiguousarray(array[np.argsort(order) if back else order])
            made.input[1 + i] = name
        return [(node, [made])]
    if node.op_type != "Add":
        return None
    found: list[tuple[onnx.NodeProto, Nodes]] = []
    total = copy_node(node)
    before: Nodes = []
    for i, name in enumerate(node.input):
        made_by = graph.maker(name)
        kind = "" if made_by is None else made_by.op_type
        if kind == "Gather" and back:
            assert made_by is not None
            total.input[i] = made_by.input[0]
            found.append((made_by, []))
        elif kind == "Unsqueeze" and not back:
            before.append(new_node("Gather", [name, f"{node.name}/order"], f"{node.name}/shuffled", axis=1))
            graph.constants[f"{node.name}/order"] = order.astype(np.int64)
            total.input[i] = f"{node.name}/shuffled"
        else:
            parts = _reordering(graph, name, order, back)
            if parts is None:
                return None
            found += parts
    return [*found, (node, [*before, total])]


def _shuffle(graph: Graph, node: onnx.NodeProto | None, least: int) -> tuple[int, int] | None:
    """The side and the channels of a pixel shuffle after convolutions; None where it moves less than that at once."""
    if node is None or node.op_type != "DepthToSpace" or attribute(node, "mode") != b"CRD":
        return None
    side, channels = int(attribute(node, "blocksize")), _channels(graph, node.input[0])
    return (side, channels) if channels and channels // side >= least else None


def _channels(graph: Graph, tensor: str) -> int:
    """The channels of a tensor that comes from a convolution; 0 where that cannot be told."""
    while (node := graph.maker(tensor)) is not None and node.op_type in ("Add", *_ELEMENTWISE):
        tensor = node.input[0]
    weight = graph.constants.get(node.input[1]) if node is not None and node.op_type == "Conv" else None
    return 0 if weight is None else len(weight)


# ---- pixel shuffles inside of a graph


@editing
def _pack_shuffles(graph: Graph) -> None:
    for node in graph.nodes:
        if (told := _shuffle(graph, node, LEAST_RUN)) is None or node.output[0] in graph.outputs:
            continue
        side, channels = told
        changes = _reordering(graph, node.input[0], pixel_order(channels, side), False)
        if changes is None:
            continue
        picture, source = node.output[0], node.input[0]
        nodes, shapes = spread(f"{source}/last", f"{picture}/last", side, channels // side)
        graph.constants |= shapes
        _apply(graph, changes)
        first = new_node("Transpose", [source], f"{source}/last", perm=LAST)
        graph.replace([node], [first, *nodes, new_node("Transpose", [f"{picture}/last"], picture, perm=FIRST)])


@editing
def _unpack_shuffles(graph: Graph) -> None:
    for node in graph.nodes:
        apart = graph.only_reader(node.output[0]) if attribute(node, "perm") == LAST else None
        if apart is None or (found := _spreading(graph, apart)) is None:
            continue
        chain, side = found
        end = graph.only_reader(chain[-1].output[0])
        if end is None or attribute(end, "perm") != FIRST:
            continue
        changes = _reordering(graph, node.input[0], pixel_order(_channels(graph, node.input[0]), side), True)
        if changes is not None:
            _apply(graph, changes)
            graph.replace([node, *chain, end], [_depth_to_space(node.input[0], end.output[0], side)])


def _apply(graph: Graph, changes: list[tuple[onnx.NodeProto, Nodes]]) -> None:
    for old, new in changes:
        graph.replace([old], new)


def _depth_to_space(source: str, output: str, side: int) -> onnx.NodeProto:
    return new_node("DepthToSpace", [source], output, blocksize=side, mode="CRD")


# ---- pictures


@editing
def _pack_picture(graph: Graph) -> None:
    end = next((n for n in graph.nodes if n.output[0] in graph.outputs and attribute(n, "perm") == LAST), None)
    chain: Nodes = []
    before = end
    for kind in ("Cast", "Round", "Mul", "Clip"):
        before = None if before is None else graph.maker(before.input[0])
        if before is None or before.op_type != kind or graph.only_reader(before.output[0]) is None:
            return
        chain.insert(0, before)
    assert end is not None
    clip, mul, _, cast = chain
    bounds = [graph.constants.get(name) for name in (*clip.input[1:], mul.input[1])]
    if [None if b is None or b.size != 1 else float(b) for b in bounds] != [0.0, 1.0, WHITE]:
        return
    if attribute(cast, "to") != TensorProto.UINT8 or graph.only_reader(clip.input[0]) is None:
        return
    source, picture = clip.input[0], end.output[0]
    old: Nodes = [*chain, end]
    shuffle = graph.maker(source)
    told = _shuffle(graph, shuffle, 1)
    changes = None
    if told is not None and shuffle is not None:
        changes = _reordering(graph, shuffle.input[0], pixel_order(told[1], told[0]), False)
    if changes is None or shuffle is None or told is None:
        new = _to_bytes(graph, source, picture)
    else:
        _apply(graph, changes)
        old, (side, channels) = [shuffle, *old], told
        nodes, shapes = spread(f"{picture}/unshuffled", picture, side, channels // side)
        graph.constants |= shapes
        new = [*_to_bytes(graph, shuffle.input[0], f"{picture}/unshuffled"), *nodes]
    graph.replace(old, new)


def _to_bytes(graph: Graph, source: str, output: str) -> Nodes:
    """Clipped, times 255, rounded and made bytes; what is below 0 or above 255 becomes that."""
    constants = {"white": np.asarray(WHITE, np.float32), "scale": np.asarray(1, np.float32), "zero": np.uint8(0)}
    graph.constants |= {f"{output}/{k}": np.asarray(v) for k, v in constants.items()}
    return [
        new_node("Transpose", [source], f"{output}/last", perm=LAST),
        new_node("Mul", [f"{output}/last", f"{output}/white"], f"{output}/scaled"),
        new_node("QuantizeLinear", [f"{output}/scaled", f"{output}/scale", f"{output}/zero"], output),
    ]


def _of_bytes(graph: Graph, node: onnx.NodeProto) -> Nodes | None:
    """The nodes that `_to_bytes` made, of which this is the last."""
    if node.op_type != "QuantizeLinear" or len(node.input) != 3:
        return None
    mul = graph.maker(node.input[0])
    turn = None if mul is None or mul.op_type != "Mul" else graph.maker(mul.input[0])
    if mul is None or turn is None or attribute(turn, "perm") != LAST:
        return None
    scale, zero, white = (graph.constants.get(name) for name in (*node.input[1:], mul.input[1]))
    if scale is None or zero is None or white is None or zero.dtype != np.uint8 or white.size != 1:
        return None
    return [turn, mul, node] if (float(scale), int(zero), float(white)) == (1, 0, WHITE) else None


@editing
def _unpack_picture(graph: Graph) -> None:
    for node in graph.nodes:
        if (old := _of_bytes(graph, node)) is None:
            continue
        new: Nodes = []
        source = old[0].input[0]
        picture = node.output[0]
        if picture not in graph.outputs:
            apart = graph.only_reader(picture)
            found = None if apart is None else _spreading(graph, apart)
            if found is None or found[0][-1].output[0] not in graph.outputs:
                continue
            chain, side = found
            changes = _reordering(graph, source, pixel_order(_channels(graph, source), side), True)
            if changes is None:
                continue
            _apply(graph, changes)
            picture = chain[-1].output[0]
            new.append(_depth_to_space(source, f"{picture}/shuffled", side))
            old, source = [*old, *chain], f"{picture}/shuffled"
        for name, value in (("low", 0.0), ("high", 1.0), ("white", WHITE)):
            graph.constants[f"{picture}/{name}"] = np.asarray(value, np.float32)
        new += [
            new_node("Clip", [source, f"{picture}/low", f"{picture}/high"], f"{picture}/clipped"),
            new_node("Mul", [f"{picture}/clipped", f"{picture}/white"], f"{picture}/scaled"),
            new_node("Round", [f"{picture}/scaled"], f"{picture}/rounded"),
            new_node("Cast", [f"{picture}/rounded"], f"{picture}/bytes", to=TensorProto.UINT8),
            new_node("Transpose", [f"{picture}/bytes"], picture, perm=LAST),
        ]
        graph.replace(old, new)
        return
