"""Half precision written into an ONNX graph as casts, for runtimes that take precision from the graph alone.

What stays fp32: the elementwise ends of a graph (uint8 images, gains, symbols and means), normalisations (GDN's squares
overflow fp16 without an error), operators that are not known to be safe, and weights that fp16 cannot hold. Graph
inputs and outputs keep their types.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ugicm.export.forms.cpu_form import from_cpu
from ugicm.export.forms.rewriting import rewrite

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
LARGEST_WEIGHT = 2.0**15  # half of what fp16 holds

_ELEMENTWISE = {
    *("Abs", "Add", "Cast", "Clip", "Div", "Floor", "Identity", "Mul", "Neg", "Round", "Split", "Squeeze", "Sub"),
    *("Transpose", "Unsqueeze"),
}
_HALVES = (_ELEMENTWISE - {"Cast", "Round"}) | {
    *("Concat", "Conv", "ConvTranspose", "DepthToSpace", "Expand", "Gather", "Gemm", "LeakyRelu", "MatMul", "Max"),
    *("Min", "PRelu", "Pad", "Relu", "Reshape", "Sigmoid", "Slice", "SpaceToDepth", "Tanh", "Where"),
}


def fold_stored_halves(model: onnx.ModelProto) -> None:
    """Turns weights that are stored as fp16 behind a Cast into plain fp32 weights, in place.

    Changes made for CPUs alone are undone: GPUs want one large convolution, not one a phase, and bytes outermost.
    """
    weights = {w.name: w for w in model.graph.initializer}
    kept = []
    for node in model.graph.node:
        source = weights.get(node.input[0]) if node.op_type == "Cast" else None
        if source is None or source.data_type != HALF or helper.get_node_attr_value(node, "to") != FLOAT:
            kept.append(node)
            continue
        source.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(source).astype(np.float32), node.output[0]))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    rewrite(model, from_cpu)


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with fp16 convolutions and activations; a new model, its inputs and outputs of the same types.

    Raises:
        ValueError: a graph whose types cannot be inferred, or with subgraphs.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    fold_stored_halves(out)
    graph = out.graph
    if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for n in graph.node for a in n.attribute):
        raise ValueError(f"{graph.name}: has subgraphs, which the half-precision pass does not enter")
    types = _types(out)
    full = full_precision(out, types)
    weights = {w.name: w for w in graph.initializer}
    outputs = {value.name for value in graph.output}
    held: dict[str, int] = {}  # float tensors made by nodes: the type they have now
    copies: dict[tuple[str, int], str] = {}
    nodes: list[onnx.NodeProto] = []

    def read(name: str, wanted: int) -> str:
        """The name of a tensor in the wanted type; casts once however many nodes ask."""
        if types.get(name) != FLOAT or held.get(name, FLOAT) == wanted:
            return name
        if (name, wanted) not in copies:
            copies[name, wanted] = copy = f"{name}.{'half' if wanted == HALF else 'float'}"
            if name in weights:
                values = numpy_helper.to_array(weights[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(values, copy))
            else:
                nodes.append(helper.make_node("Cast", [name], [copy], name=f"{copy}/Cast", to=wanted))
        return copies[name, wanted]

    for node in graph.node:
        wanted = FLOAT if node.name in full else HALF
        for i, name in enumerate(node.input):
            node.input[i] = read(name, wanted)
        nodes.append(node)
        for i, name in enumerate(node.output):
            if types.get(name) != FLOAT:
                continue
            if wanted == HALF and name in outputs:
                node.output[i] = f"{name}.half"
                nodes.append(helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}.half/Cast", to=FLOAT))
                copies[name, HALF] = f"{name}.half"
            else:
                held[name] = wanted
    del graph.node[:]
    graph.node.extend(nodes)
    _drop_unused_weights(graph)
    del graph.value_info[:]
    onnx.checker.check_model(out, full_check=True)
    return out


def simulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph for runtimes without fp16 arithmetic: every fp16 operator computes in fp32 and rounds its outputs.

    ONNX Runtime on a CPU would drop the casts and round nothing; rounding after sums in fp32 is what GPUs do.
    """
    out = onnx.ModelProto()
    out.CopyFrom(model)
    types = _types(out)
    nodes: list[onnx.NodeProto] = []
    floats: dict[str, str] = {}
    for node in out.graph.node:
        if node.op_type == "Cast" or not any(types.get(name) == HALF for name in (*node.input, *node.output)):
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if types.get(name) == HALF:
                if name not in floats:
                    floats[name] = f"{name}/as_float"
                    nodes.append(helper.make_node("Cast", [name], [floats[name]], name=floats[name], to=FLOAT))
                node.input[i] = floats[name]
        nodes.append(node)
        for i, name in enumerate(node.output):
            if types.get(name) == HALF:
                node.output[i] = f"{name}/before_rounding"
                nodes.append(helper.make_node("Cast", [node.output[i]], [name], name=f"{name}/rounding", to=HALF))
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    return out


def full_precision(model: onnx.ModelProto, types: dict[str, int] | None = None) -> set[str]:
    """Names of the nodes that stay fp32 (all that are not about floats among them)."""
    types = _types(model) if types is None else types
    graph = model.graph
    producer = {name: node for node in graph.node for name in node.output}
    consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            consumers[name].append(node)
    outputs = {value.name for value in graph.output}
    weights = {w.name: w for w in graph.initializer}

    def holds(name: str) -> bool:
        values = numpy_helper.to_array(weights[name])
        return values.dtype != np.float32 or not values.size or float(np.abs(values).max()) <= LARGEST_WEIGHT

    full = {
        node.name
        for node in graph.node
        if node.op_type not in _HALVES
        or not any(types.get(name) == FLOAT for name in node.output)
        or not all(holds(name) for name in node.input if name in weights)
    }
    for node in graph.node:  # the ends where floats come in …
        if node.op_type in _ELEMENTWISE and all(
            name not in producer or producer[name].name in full for name in node.input
        ):
            full.add(node.name)
    for node in reversed(graph.node):  # … and where they go out
        readers = [reader for name in node.output for reader in consumers[name]]
        ends = bool(readers) or any(name in outputs for name in node.output)
        if (
            node.op_type in _ELEMENTWISE
            and ends
            and all(_is_end(reader, full, outputs, consumers) for reader in readers)
        ):
            full.add(node.name)
    for node in graph.node:
        if node.op_type == "Sqrt":
            full |= _normalisation(node, producer, consumers)
    return full


def _is_end(
    node: onnx.NodeProto, full: set[str], outputs: set[str], consumers: dict[str, list[onnx.NodeProto]]
) -> bool:
    """Whether a node is one of the elementwise ones between the last convolution and the outputs."""
    if node.name not in full or node.op_type not in _ELEMENTWISE:
        return False
    readers = [reader for name in node.output for reader in consumers[name]]
    return all(_is_end(reader, full, outputs, consumers) for reader in readers)


def _normalisation(
    root: onnx.NodeProto, producer: dict[str, onnx.NodeProto], consumers: dict[str, list[onnx.NodeProto]]
) -> set[str]:
    """The nodes of a norm from the squares to the product or quotient with its root."""
    found = {root.name} | {reader.name for name in root.output for reader in consumers[name]}
    waiting = [producer[name] for name in root.input if name in producer]
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found.add(node.name)
        square = node.op_type == "Pow" or (node.op_type == "Mul" and node.input[0] == node.input[1])
        if not square:
            waiting += [producer[name] for name in node.input if name in producer]
    return found


def _types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True).graph
    values = (*inferred.input, *inferred.value_info, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types |= {w.name: w.data_type for w in inferred.initializer}
    if unknown := [name for node in inferred.node for name in node.output if name and name not in types]:
        raise ValueError(f"{inferred.name}: the type of {unknown[0]} cannot be inferred")
    return types


def _drop_unused_weights(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [w for w in graph.initializer if w.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
