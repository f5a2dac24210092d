"""ONNX graphs in double precision, for stages whose scales single precision cannot tell apart.

Inputs and outputs that the runtime knows stay float32; arrays that one graph hands to another may be doubles. ONNX
Runtime has no convolutions of doubles: they become matrix products, one for each tap of the kernel.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.polynomial.hermite import hermval
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from ugicm.export.forms.cpu_form import from_cpu
from ugicm.export.forms.rewriting import attribute, copy_node, new_node, rewrite
from ugicm.export.source import GraphSource
from ugicm.runtime.graphs.stage_answers import READ

FLOAT, DOUBLE = TensorProto.FLOAT, TensorProto.DOUBLE
FLOATS = frozenset({"z", "y_hat", "even", "gain", "neighbours", *READ})
"""Arrays that the runtime makes or reads: float32 everywhere."""
_ERF_ENDS, _POINTS, _TERMS = 6.0, 6 * 128, 5
"""erf is ±1 in double precision beyond the ends, and has so many points to either side of 0."""
_LAST = np.iinfo(np.int64).max


class DoubleError(ValueError):
    """A graph that has no form in double precision here; the message says why."""


def in_double(graph: GraphSource) -> GraphSource:
    """A graph whose module computes in double precision."""

    def example(height: int, width: int, batch: int) -> tuple[Tensor, ...]:
        return tuple(t.double() for t in graph.example(height, width, batch))

    return replace(graph, module=copy.deepcopy(graph.module).double(), example=example)


def for_runtime(model: onnx.ModelProto) -> onnx.ModelProto:
    """The ONNX graph of such a module as ONNX Runtime can run it; a new model.

    Its inputs and outputs are doubles but for those of `FLOATS`. Weights that float32 holds are stored as such.

    Raises:
        DoubleError: an operator that has no form in double precision here.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    rewrite(out, from_cpu)
    graph = out.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    names: dict[str, str] = {}
    for tensor in graph.initializer:
        values = weights[tensor.name]
        if values.dtype == np.float64 and values.size > 1 and np.array_equal(values.astype(np.float32), values):
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), f"{tensor.name}/float"))
            nodes.append(new_node("Cast", [tensor.name], tensor.name.removesuffix("/float"), to=DOUBLE))
    for value in (*graph.input, *graph.output):
        if value.name in FLOATS:
            value.type.tensor_type.elem_type = FLOAT
            names[value.name] = f"{value.name}/double"
    nodes += [new_node("Cast", [v.name], names[v.name], to=DOUBLE) for v in graph.input if v.name in names]
    for node in graph.node:
        node = copy_node(node)
        for tensors in (node.input, node.output):
            for i, name in enumerate(tensors):
                tensors[i] = names.get(name, name)
        if node.op_type == "Conv":
            nodes += _products(node, weights)
        elif node.op_type == "LeakyRelu":
            nodes += _leaky(node)
        elif node.op_type == "Gelu":
            nodes += _gelu(node)
        else:
            nodes.append(node)
    nodes += [new_node("Cast", [names[v.name]], v.name, to=FLOAT) for v in graph.output if v.name in names]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(out, full_check=True)
    return out


def _leaky(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """max(x, slope·x)."""
    alpha, x, y = attribute(node, "alpha"), node.input[0], node.output[0]
    slope = 0.01 if alpha is None else float(str(np.float32(alpha)))  # the shortest number: 0.1, where the float is not
    if not 0 <= slope <= 1:
        raise DoubleError(f"{node.name}: a slope of {slope:g} below zero")
    constant, _ = _constant(f"{y}/slope", np.array(slope, np.float64))
    return [constant, new_node("Mul", [x, f"{y}/slope"], f"{y}/low"), new_node("Max", [x, f"{y}/low"], y)]


def _gelu(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """x/2·(1 + erf(x/√2)), erf by a Taylor series about the nearest of many points, of which there is a table.

    The derivative of erf of order n + 1 is 2/√π·(-1)^n·Hₙ(p)·exp(-p²), H physicists' Hermite polynomials. With points
    1/128 apart, five terms err by 2e-13 at most.
    """
    if attribute(node, "approximate") not in (None, b"none"):
        raise DoubleError(f"{node.name}: a GELU that is an approximation")
    x, y = node.input[0], node.output[0]
    own, nodes = f"{y}/gelu", list[onnx.NodeProto]()

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(new_node(kind, inputs, f"{own}/{name}", **attributes))
        return f"{own}/{name}"

    def constant(name: str, value: Any) -> str:
        made, name = _constant(f"{own}/{name}", np.asarray(value))
        nodes.append(made)
        return name

    points = np.arange(-_POINTS, _POINTS + 1) / _POINTS * _ERF_ENDS
    slope = 2 / math.sqrt(math.pi) * np.exp(-(points**2))
    series = [np.array([math.erf(p) for p in points])]
    for n in range(_TERMS - 1):
        series.append(slope * (-1) ** n * hermval(points, np.eye(_TERMS)[n]) / math.factorial(n + 1))
    ends = [constant("low", -_ERF_ENDS), constant("high", _ERF_ENDS)]
    scaled = add("Clip", [add("Mul", [x, constant("root", math.sqrt(0.5))], "scaled"), *ends], "clipped")
    step = constant("step", _POINTS / _ERF_ENDS)
    nearest = add("Round", [add("Mul", [scaled, step], "places")], "nearest")
    index = add(
        "Cast", [add("Add", [nearest, constant("first", float(_POINTS))], "place")], "index", to=TensorProto.INT64
    )
    apart = add("Sub", [scaled, add("Div", [nearest, step], "point")], "apart")
    total = ""
    for i in reversed(range(len(series))):
        term = add("Gather", [constant(f"table{i}", series[i]), index], f"term{i}", axis=0)
        total = add("Add", [term, add("Mul", [total, apart], f"product{i}")], f"sum{i}") if total else term
    half = add("Mul", [x, constant("half", 0.5)], "halved")
    nodes.append(new_node("Mul", [half, add("Add", [total, constant("one", 1.0)], "share")], y))
    return nodes


def _constant(name: str, value: np.ndarray) -> tuple[onnx.NodeProto, str]:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value, name)), name


def _products(node: onnx.NodeProto, weights: Mapping[str, np.ndarray]) -> list[onnx.NodeProto]:
    """A convolution as the sum over the kernel's taps of matrix products with the picture moved by the tap."""
    kernel = weights.get(node.input[1])
    if kernel is None or kernel.ndim != 4:
        raise DoubleError(f"{node.name}: a convolution of another kind than of pictures by constant kernels")
    x, w, *bias = (name for name in node.input if name)
    y = node.output[0]
    own = f"{y}/products"
    groups = attribute(node, "group") or 1
    strides, dilations = (list(attribute(node, name) or (1, 1)) for name in ("strides", "dilations"))
    pads = list(attribute(node, "pads") or (0, 0, 0, 0))
    if attribute(node, "auto_pad") not in (None, b"NOTSET"):
        raise DoubleError(f"{node.name}: pads automatically")
    out_channels, channels, height, width = kernel.shape
    nodes: list[onnx.NodeProto] = []

    def add(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(new_node(kind, inputs, name, **attributes))
        return name

    def constant(name: str, values: Any, dtype: Any = np.int64) -> str:
        made, name = _constant(f"{own}/{name}", np.array(values, dtype))
        nodes.append(made)
        return name

    if any(pads):
        x = add("Pad", [x, constant("pads", [0, 0, *pads[:2], 0, 0, *pads[2:]])], f"{own}/padded")
    axes, steps = constant("axes", [2, 3]), constant("steps", strides)
    flat = constant("flat", [0, groups, channels, -1] if groups > 1 else [0, channels, -1])
    # (groups, outputs, taps, channels), whose taps are matrices.
    shape = [*([groups] if groups > 1 else []), out_channels // groups, channels, height * width]
    matrices = add("Reshape", [w, constant("shape", shape)], f"{own}/matrices")
    total, moved = "", ""
    for i, j in itertools.product(range(height), range(width)):
        tap = f"{own}/tap{i}{j}"
        starts = constant(f"starts{i}{j}", [i * dilations[0], j * dilations[1]])
        last = ((height - 1 - i) * dilations[0], (width - 1 - j) * dilations[1])
        ends = constant(f"ends{i}{j}", [-n if n else _LAST for n in last])
        moved = add("Slice", [x, starts, ends, axes, steps], f"{tap}/moved")
        matrix = add("Gather", [matrices, constant(f"at{i}{j}", i * width + j)], f"{tap}/matrix", axis=len(shape) - 1)
        product = add("MatMul", [matrix, add("Reshape", [moved, flat], f"{tap}/flat")], f"{tap}/product")
        total = product if not total else add("Add", [total, product], f"{tap}/sum")
    size = add("Shape", [moved], f"{own}/size", start=2)
    first = add("Shape", [moved], f"{own}/batch", end=1)
    whole = add("Concat", [first, constant("channels", [out_channels]), size], f"{own}/whole", axis=0)
    made = add("Reshape", [total, whole], f"{own}/plain" if bias else y)
    if bias:
        tall = add("Reshape", [bias[0], constant("tall", [1, out_channels, 1, 1])], f"{own}/bias")
        add("Add", [made, tall], y)
    return nodes
