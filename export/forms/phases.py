"""Transposed 5×5 convolutions of stride 2 in the form that CPUs run fastest, and back.

The *joined* form is one 3×3 convolution to four phases and a pixel shuffle: 36 taps, of which 11 are zeros. The *split*
form has a convolution a phase, of 3×3, 3×2, 2×3 and 2×2 taps, 25 in all, and puts their outputs beside each other with
channels last, where a pixel is a run of memory; a GDN that follows reads that layout, its 1×1 convolution as a matrix
product, so that nothing is transposed twice. Both hold the same weights: `join` undoes `split`, to the last bit.

Calibration and the graphs of other devices begin at the joined form.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from ugicm.export.forms.rewriting import FIRST, LAST, Array, Graph, Nodes, Rewritten, attribute, new_node

PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))
"""(row, column) of an output pixel in its square of four, in the order of a pixel shuffle's channels."""
LEAST_CHANNELS = 16
"""Of the output: below, kernels compute as many anyway, and four convolutions do more than one."""


def phase_weights(weight: Array) -> list[Array] | None:
    """The kernels of the four phases of a joined convolution (4·O, C, 3, 3), `PHASES`; None where it has none.

    An odd row or column does not reach back: its first taps are zero.
    """
    if weight.ndim != 4 or weight.shape[2:] != (3, 3) or len(weight) % 4 or len(weight) < 4 * LEAST_CHANNELS:
        return None
    parts = weight.reshape(-1, 4, *weight.shape[1:])
    if parts[:, 2:, :, 0].any() or parts[:, 1::2, :, :, 0].any():
        return None
    return [np.ascontiguousarray(parts[:, i, :, row:, column:]) for i, (row, column) in enumerate(PHASES)]


def pads(row: int, column: int) -> list[int]:
    """Zeros above, left, below and right of a phase's input."""
    return [1 - row, 1 - column, 1, 1]


def interleave(parts: list[str], output: str, channels: int) -> Rewritten:
    """Nodes, and their constants, from four phases (N, C, H, W), `PHASES`, to one picture (N, 2H, 2W, C)."""
    nodes = [new_node("Transpose", [part], f"{part}/last", perm=LAST) for part in parts]
    shapes = {
        "apart": [0, 0, 1, -1, 2 * channels],
        "together": [0, 0, -1, 2 * channels],
        "picture": [0, -1, 0, channels],
    }
    constants = {f"{output}/{k}": np.asarray(v, np.int64) for k, v in shapes.items()}
    rows = []
    for i in range(2):
        row = f"{output}/row{i}"
        nodes.append(new_node("Concat", [f"{part}/last" for part in parts[2 * i : 2 * i + 2]], row, axis=3))
        # Five axes, lest ONNX Runtime join the rows first and transpose them after that.
        nodes.append(new_node("Reshape", [row, f"{output}/apart"], f"{row}/apart"))
        rows.append(f"{row}/apart")
    # A row of pixels of the one phase, then one of the other: in memory already the rows of the larger picture.
    nodes.append(new_node("Concat", rows, f"{output}/rows", axis=2))
    nodes.append(new_node("Reshape", [f"{output}/rows", f"{output}/together"], f"{output}/joined"))
    nodes.append(new_node("Reshape", [f"{output}/joined", f"{output}/picture"], output))
    return nodes, constants


def split(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with every joined convolution of `LEAST_CHANNELS` split."""
    graph = Graph(nodes, constants, outputs)
    for conv in nodes:
        shuffle = graph.only_reader(conv.output[0])
        if conv.op_type != "Conv" or shuffle is None or shuffle.op_type != "DepthToSpace" or len(conv.input) != 3:
            continue
        weight, bias = (graph.constants.get(name) for name in conv.input[1:])
        kernels = None if weight is None else phase_weights(weight)
        told = (attribute(conv, "pads"), attribute(conv, "group") or 1, attribute(conv, "strides") or [1, 1])
        shuffled = (attribute(shuffle, "blocksize"), attribute(shuffle, "mode"))
        if kernels is None or bias is None or told != ([1] * 4, 1, [1, 1]) or shuffled != (2, b"CRD"):
            continue
        picture = shuffle.output[0]
        if picture in outputs or not np.array_equal(bias.reshape(-1, 4), bias[::4, None].repeat(4, 1)):
            continue
        new: Nodes = []
        graph.constants[f"{conv.name}/bias"] = np.ascontiguousarray(bias[::4])
        for phase, kernel in zip(PHASES, kernels, strict=True):
            name = f"{conv.name}/phase{phase[0]}{phase[1]}"
            graph.constants[f"{name}/weight"] = kernel
            inputs = [conv.input[0], f"{name}/weight", f"{conv.name}/bias"]
            new.append(new_node("Conv", inputs, name, pads=pads(*phase), kernel_shape=list(kernel.shape[2:])))
        last = f"{picture}/last"
        joining, shapes = interleave([n.output[0] for n in new], last, len(bias) // 4)
        new += joining
        graph.constants |= shapes
        norm = _joined_norm(graph, picture)
        graph.replace([conv, shuffle], new if norm else [*new, new_node("Transpose", [last], picture, perm=FIRST)])
        if norm:
            square, product, root, result = norm
            gamma, beta = (graph.constants[name] for name in product.input[1:])
            graph.constants |= {f"{product.name}/gamma": np.ascontiguousarray(gamma[:, :, 0, 0].T)}
            graph.constants |= {f"{product.name}/beta": beta}
            end = result.output[0]
            graph.replace(
                norm,
                [
                    new_node("Mul", [last, last], square.output[0]),
                    new_node("MatMul", [square.output[0], f"{product.name}/gamma"], f"{product.name}/product"),
                    new_node("Add", [f"{product.name}/product", f"{product.name}/beta"], product.output[0]),
                    new_node("Sqrt", [product.output[0]], root.output[0]),
                    new_node(result.op_type, [last, root.output[0]], f"{end}/last"),
                    new_node("Transpose", [f"{end}/last"], end, perm=FIRST),
                ],
            )
    return graph.result()


def _joined_norm(graph: Graph, x: str) -> Nodes | None:
    """Squares, 1×1 convolution, root, and product or quotient, where they alone read a tensor."""
    readers = graph.readers(x)
    square = next((n for n in readers if n.op_type == "Mul" and list(n.input) == [x, x]), None)
    if square is None or len(readers) != 2:
        return None
    product = graph.only_reader(square.output[0])
    root = None if product is None else graph.only_reader(product.output[0])
    result = None if root is None else graph.only_reader(root.output[0])
    if product is None or root is None or result is None or result.output[0] in graph.outputs:
        return None
    if (product.op_type, root.op_type) != ("Conv", "Sqrt") or len(product.input) != 3:
        return None
    weight, bias = (graph.constants.get(name) for name in product.input[1:])
    if weight is None or bias is None or weight.shape[1:] != (len(weight), 1, 1):
        return None
    order = [x, root.output[0]]
    if list(result.input) != order and not (result.op_type == "Mul" and list(result.input) == order[::-1]):
        return None
    return [square, product, root, result] if result.op_type in ("Mul", "Div") else None


def join(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with all that `split` did undone."""
    graph = Graph(nodes, constants, outputs)
    for reshape in nodes:
        block = _split_block(graph, reshape)
        if block is None:
            continue
        convs, between = block
        kernels = [graph.constants[c.input[1]] for c in convs]
        channels, inputs = kernels[0].shape[:2]
        weight = np.zeros((channels, 4, inputs, 3, 3), kernels[0].dtype)
        for i, ((row, column), kernel) in enumerate(zip(PHASES, kernels, strict=True)):
            weight[:, i, :, row:, column:] = kernel
        name = convs[0].name.removesuffix("/phase00")
        graph.constants[f"{name}/weight"] = weight.reshape(4 * channels, inputs, 3, 3)
        graph.constants[f"{name}/biases"] = graph.constants[convs[0].input[2]].repeat(4)
        conv = new_node(
            "Conv", [convs[0].input[0], f"{name}/weight", f"{name}/biases"], name, pads=[1] * 4, kernel_shape=[3, 3]
        )
        last = reshape.output[0]
        shuffle = new_node("DepthToSpace", [name], last.removesuffix("/last"), blocksize=2, mode="CRD")
        x = shuffle.output[0]
        norm = _split_norm(graph, last)
        if norm is None:
            turn = graph.only_reader(last)
            if turn is None or turn.op_type != "Transpose" or turn.output[0] != x:
                continue
            graph.replace([*convs, *between, turn], [conv, shuffle])
            continue
        graph.replace([*convs, *between], [conv, shuffle])
        square, product, total, root, result, turn = norm
        gamma, label = graph.constants[product.input[1]], product.input[1].removesuffix("/gamma")
        graph.constants[f"{label}/weight"] = np.ascontiguousarray(gamma.T)[:, :, None, None]
        parts = [square.output[0], f"{label}/weight", total.input[1]]
        new = new_node("Conv", parts, total.output[0], kernel_shape=[1, 1])
        new.name = label
        graph.replace(
            norm,
            [
                new_node("Mul", [x, x], square.output[0]),
                new,
                new_node("Sqrt", [total.output[0]], root.output[0]),
                new_node(result.op_type, [x, root.output[0]], turn.output[0]),
            ],
        )
    return graph.result()


def _split_block(graph: Graph, reshape: onnx.NodeProto) -> tuple[Nodes, Nodes] | None:
    """The four convolutions, and what lies between them and the picture with channels last."""
    chain = [reshape]
    for kind in ("Reshape", "Concat"):
        before = graph.maker(chain[-1].input[0])
        if chain[-1].op_type != "Reshape" or before is None or before.op_type != kind:
            return None
        chain.append(before)
    rows = chain[-1]
    if not reshape.output[0].endswith("/last") or attribute(rows, "axis") != 2 or len(rows.input) != 2:
        return None
    found: list[Nodes] = [[rows]]
    for kind, count in (("Reshape", 2), ("Concat", 2), ("Transpose", 4), ("Conv", 4)):
        names = [i for n in found[-1] for i in (n.input if n.op_type == "Concat" else n.input[:1])]
        makers = [m for m in map(graph.maker, names) if m is not None and m.op_type == kind]
        if len(makers) != count:
            return None
        found.append(makers)
    convs = found.pop()
    if len({c.input[0] for c in convs}) != 1 or any(i not in graph.constants for c in convs for i in c.input[1:]):
        return None
    if [attribute(c, "pads") for c in convs] != [pads(*phase) for phase in PHASES]:
        return None
    return convs, [*chain[:-1], *(n for nodes in found for n in nodes)]


def _split_norm(graph: Graph, last: str) -> Nodes | None:
    """A GDN as `split` writes it, its transposition included."""
    chain: Nodes = []
    square = next((n for n in graph.readers(last) if n.op_type == "Mul" and list(n.input) == [last, last]), None)
    following = square
    while following is not None and len(chain) < 6:
        chain.append(following)
        following = graph.only_reader(following.output[0])
    kinds = [n.op_type for n in chain]
    if len(chain) < 2 or chain[1].input[1] not in graph.constants:
        return None
    if len(chain) == 6 and kinds[:4] == ["Mul", "MatMul", "Add", "Sqrt"] and kinds[5] == "Transpose":
        return chain
    return None
