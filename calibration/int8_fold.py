"""A graph for one condition: its vectors become part of the biases.

ONNX Runtime's fast integer convolution wants biases that are constants; with vectors that arrive as an input it takes
another, several times slower.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from calibration.int8_graph import FloatGraph, copy_node
from runtime.backends import Backend

Array = np.ndarray
Weights = Mapping[str, tuple[Array, Array, Array]]


def fold_condition(
    graph: FloatGraph, weights: Weights, condition: Array, backend: Backend
) -> tuple[FloatGraph, dict[str, tuple[Array, Array, Array]]] | None:
    """The graph and its quantised weights for one condition; None where the condition is not only added to channels.

    Args:
        graph: with an input `condition` (N, D).
        weights: as `Quantiser` takes them.
        condition: float32 (1, D).
        backend: computes the vectors.
    """
    layers = [layer for layer in graph.layers if layer.vector]
    vectors = sorted({layer.vector for layer in layers})
    run = backend.load(graph.model(vectors, only=True, inputs=["condition"]), f"{graph.name} vectors")
    values = dict(zip(vectors, run({"condition": condition}), strict=True))
    nodes = {node.output[0]: copy_node(node) for node in graph.nodes}
    constants, folded = dict(graph.constants), dict(weights)
    for layer in layers:
        conv, total = (nodes[node.output[0]] for node in layer.nodes[:2])
        vector = values[layer.vector].ravel()
        name = f"{conv.name}/folded_bias"
        constants[name] = (graph.parameters(layer)[1] + vector).astype(np.float32)
        del conv.input[2:]
        conv.input.append(name)
        del nodes[total.output[0]]
        conv.output[0] = total.output[0]
        integers, scales, bias = weights[layer.name]
        folded[layer.name] = (integers, scales, bias + vector)
    inputs = [i for i in graph.inputs if i.name != "condition"]
    result = FloatGraph(list(nodes.values()), constants, inputs, graph.outputs, graph.name).pruned()
    left = {name for node in result.nodes for name in node.input}
    return None if "condition" in left else (result, folded)
