"""Wide 3×3 convolutions of stride 1 with fewer products, and back: Winograd's minimal filtering along rows.

Six neighbouring outputs of a row take 18 products for each pair of channels and row of the kernel; Toom and Cook's way
takes 8 (Winograd 1980, F(6, 3)): y = Aᵀ[(G w) ⊙ (Bᵀ x)], x the eight inputs that they read. So the *fast* form has in
place of the convolution one of 1×8 and stride 6 that gives eight numbers a channel (Bᵀ), one of 3×1 in eight groups,
and a matrix product that gives six pixels for eight numbers (Aᵀ), channels last. It computes 4 products for 9 and holds
a third more numbers; its sums are of other terms, so that results differ in the sixth digit or so.

The graph holds the kernel as it was and computes G w from it, which runtimes do once, when they load it: `release`
undoes `split` to the last bit. Calibration and the graphs of other devices begin at the plain form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ugicm.export.forms.rewriting import FIRST, LAST, Array, Graph, Nodes, Rewritten, attribute, new_node

OUTPUTS, TAPS = 6, 3
POINTS = (Fraction(0), Fraction(1), Fraction(-1), Fraction(2), Fraction(-2), Fraction(1, 2), Fraction(-1, 2))
"""At which polynomials are evaluated; infinity is the eighth."""
INPUTS = OUTPUTS + TAPS - 1
LEAST_CHANNELS = 64
"""The least C·O / (C + O) for which it pays: products grow with C·O, what is done to inputs and outputs with C + O."""
_MARK = "/winograd"
_ELEMENTWISE = ("Relu", "LeakyRelu")
Matrix = list[list[Fraction]]


def matrices() -> tuple[Array, Array, Array]:
    """(Aᵀ (6, 8), G (8, 3), Bᵀ (8, 8)), float64: Toom and Cook's, rows of Bᵀ scaled by powers of two to be about 1.

    A polynomial of degree n - 1 is its values at n points; the coefficients of a product are those of the product of
    values. Transposed, a product of polynomials is a filter (Lavin and Gray 2016, arXiv 1509.09308).
    """
    b = np.array(_inverse(_powers(INPUTS)), np.float64).T
    a, g = (np.array(_powers(n), np.float64) for n in (OUTPUTS, TAPS))
    scale = 2.0 ** np.round(np.log2(np.abs(b).max(1)))[:, None]
    return a.T, g * scale, b / scale


def split(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with every wide 3×3 convolution in the fast form."""
    graph = Graph(nodes, constants, outputs)
    for conv in nodes:
        weight = graph.constants.get(conv.input[1]) if conv.op_type == "Conv" else None
        if weight is None or not _fits(conv, weight):
            continue
        _replace(graph, conv, weight)
    return graph.result()


def release(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes and constants of a graph with every convolution in the fast form made one again."""
    graph = Graph(nodes, constants, outputs)
    for tiles in nodes:
        if not tiles.name.endswith(f"{_MARK}/tiles"):
            continue
        name = tiles.name.removesuffix(f"{_MARK}/tiles")
        chain = {n.name.removeprefix(f"{name}{_MARK}/"): n for n in nodes if n.name.startswith(f"{name}{_MARK}/")}
        inputs = [tiles.input[0], chain["kernel"].input[0], *([chain["bias"].input[1]] if "bias" in chain else [])]
        last = [chain[step] for step in ("cut", "active", "first") if step in chain]
        end = last[-1].output[0]
        steps: list[tuple[str, dict[str, Any]]] = [("Conv", {"pads": [1] * 4, "kernel_shape": [TAPS] * 2})]
        if active := chain.get("active"):
            told = {a.name: helper.get_attribute_value(a) for a in active.attribute}
            steps.append((active.op_type, told))
        if "first" not in chain:
            steps.append(("Transpose", {"perm": LAST}))
        new: Nodes = []
        for i, (kind, told) in enumerate(steps):
            output = end if i == len(steps) - 1 else f"{name}{_MARK}/{i}"
            new.append(new_node(kind, inputs, output, **told))
            inputs = [output]
        new[0].name = name
        graph.replace(list(chain.values()), new)
    return graph.result()


def _fits(conv: onnx.NodeProto, weight: Array) -> bool:
    """Whether a convolution is such a one and wide enough."""
    told = (attribute(conv, "pads"), attribute(conv, "group") or 1, attribute(conv, "strides") or [1, 1])
    plain = told == ([1] * 4, 1, [1, 1]) and (attribute(conv, "dilations") or [1, 1]) == [1, 1]
    if not plain or weight.ndim != 4 or weight.shape[2:] != (TAPS, TAPS):
        return False
    outs, channels = weight.shape[:2]
    return bool(outs * channels >= LEAST_CHANNELS * (outs + channels))


def _replace(graph: Graph, conv: onnx.NodeProto, weight: Array) -> None:
    """Puts the fast form in the place of a convolution, what follows it element by element and channels last."""
    own, x, old, end = f"{conv.name}{_MARK}", conv.input[0], [conv], conv.output[0]
    outs, channels = weight.shape[:2]
    active = graph.only_reader(end)
    if active is not None and active.op_type in _ELEMENTWISE:
        old.append(active)
        end = active.output[0]
    else:
        active = None
    turned = graph.only_reader(end)
    if turned is not None and turned.op_type == "Transpose" and attribute(turned, "perm") == LAST:
        old.append(turned)
        end = turned.output[0]
    else:
        turned = None
    a, g, b = matrices()
    shared = {
        "outputs": a,
        "taps": g.T,
        f"inputs{channels}": np.tile(b[:, None, None, :], (channels, 1, 1, 1)).reshape(-1, 1, 1, INPUTS),
        f"zeros{outs}": np.zeros(outs),
        f"others{outs}": np.zeros((INPUTS - 2) * outs),
    }
    graph.constants |= {f"winograd/{k}": v.astype(np.float32) for k, v in shared.items()}
    shapes = {
        "by_channel/shape": [0, channels, INPUTS, -1],
        "weight/shape": [INPUTS * outs, channels, TAPS, 1],
        "lengths/axes": [0, 2, 3],
        "ends": [INPUTS, outs],
        "rows/shape": [0, 0, -1, outs],
        "start": [0],
        "axis": [2],
    }
    graph.constants |= {f"{own}/{k}": np.array(v, np.int64) for k, v in shapes.items()}
    nodes: Nodes = []

    def add(kind: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        nodes.append(new_node(kind, list(inputs), f"{own}/{name}", **attributes))
        return f"{own}/{name}"

    kernels = add(
        "Transpose", [add("MatMul", [conv.input[1], "winograd/taps"], "kernel")], "kernels", perm=[3, 0, 1, 2]
    )
    weights = [add("Reshape", [kernels, f"{own}/weight/shape"], "weight")]
    if len(conv.input) > 2:  # the second point is 1, whose products count once in each output
        parts = [f"winograd/zeros{outs}", conv.input[2], f"winograd/others{outs}"]
        weights.append(add("Concat", parts, "bias", axis=0))
    pads, strides = [0, 1, 0, OUTPUTS], [1, OUTPUTS]
    told = {"group": channels, "kernel_shape": [1, INPUTS], "pads": pads, "strides": strides}
    tiles = add("Conv", [x, f"winograd/inputs{channels}"], "tiles", **told)
    size = add("Shape", [tiles], "size")
    by_channel = add("Reshape", [tiles, f"{own}/by_channel/shape"], "by_channel")
    by_point = add("Transpose", [by_channel], "by_point", perm=[0, 2, 1, 3])
    points = add("Reshape", [by_point, size], "points")
    told = {"group": INPUTS, "kernel_shape": [TAPS, 1], "pads": [1, 0, 1, 0]}
    last = add("Transpose", [add("Conv", [points, *weights], "products", **told)], "last", perm=LAST)
    # A computed shape, lest ONNX Runtime reshape first and transpose after that.
    lengths = add("Gather", [size, f"{own}/lengths/axes"], "lengths")
    shape = add("Concat", [lengths, f"{own}/ends"], "shape", axis=0)
    pixels = add("MatMul", ["winograd/outputs", add("Reshape", [last, shape], "apart")], "pixels")
    rows = add("Reshape", [pixels, f"{own}/rows/shape"], "rows")
    made = add("Slice", [rows, f"{own}/start", add("Shape", [x], "width", start=3, end=4), f"{own}/axis"], "cut")
    if active is not None:
        attributes = {a.name: helper.get_attribute_value(a) for a in active.attribute}
        made = add(active.op_type, [made], "active", **attributes)
    if turned is None:
        add("Transpose", [made], "first", perm=FIRST)
    nodes[-1].output[0] = end
    graph.replace(old, nodes)


def _powers(count: int) -> Matrix:
    """Rows of the powers 0 to count - 1 of each point, and of infinity: the highest alone."""
    finite = [[point**n for n in range(count)] for point in POINTS]
    return [*finite, [Fraction(0)] * (count - 1) + [Fraction(1)]]


def _inverse(matrix: Matrix) -> Matrix:
    """Of a square matrix, by elimination."""
    size = len(matrix)
    rows = [[*row, *(Fraction(i == j) for j in range(size))] for i, row in enumerate(matrix)]
    for i in range(size):
        pivot = next(k for k in range(i, size) if rows[k][i])
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [value / rows[i][i] for value in rows[i]]
        for k in range(size):
            if k != i:
                rows[k] = [one - rows[k][i] * other for one, other in zip(rows[k], rows[i], strict=True)]
    return [row[size:] for row in rows]
