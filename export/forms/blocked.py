"""Residual chains kept in a CPU's own layout.

ONNX Runtime keeps channels in blocks between convolutions, and adds what a block of layers adds while the last of its
convolutions writes, where both summands are in that layout. What a graph is given is not: the first sum is then made on
channels first, and so are all that follow. A pool over single pixels, which changes nothing, brings such a tensor to
the layout at the start of the chain.
"""

from __future__ import annotations

from collections.abc import Mapping

from ugicm.export.forms.rewriting import FIRST, Array, Graph, Nodes, Rewritten, attribute, copy_node, new_node


def hold(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes of a graph with a pool at the start of every residual chain that no convolution makes."""
    graph = Graph(nodes, constants, outputs)
    known = {output for node in nodes for output in node.output} | {"", *constants}
    sources: dict[str, Nodes] = {name: [] for node in nodes for name in node.input if name not in known}
    started = {node.output[0]: [node] for node in nodes if attribute(node, "perm") == FIRST}
    for name, makers in {**sources, **started}.items():
        readers = graph.readers(name)
        if {"Conv", "Add"} - {n.op_type for n in readers}:
            continue
        pooled = f"{name}/blocked"
        changed = []
        for reader in readers:
            copied = copy_node(reader)
            for i, given in enumerate(copied.input):
                copied.input[i] = pooled if given == name else given
            changed.append(copied)
        pool = new_node("AveragePool", [name], pooled, kernel_shape=[1, 1])
        if makers:
            graph.replace(makers, [*makers, pool])
        for i, (reader, copied) in enumerate(zip(readers, changed, strict=True)):
            graph.replace([reader], [copied] if i or makers else [pool, copied])
    return graph.result()


def release(nodes: Nodes, constants: Mapping[str, Array], outputs: set[str]) -> Rewritten:
    """The nodes of a graph with every pool over single pixels taken out."""
    graph = Graph(nodes, constants, outputs)
    pools = [n for n in nodes if n.op_type == "AveragePool" and attribute(n, "kernel_shape") == [1, 1]]
    renamed = {pool.output[0]: pool.input[0] for pool in pools if pool.output[0] not in outputs}
    for node in nodes:
        if node.output[0] in renamed:
            graph.replace([node], [])
        elif renamed.keys() & set(node.input):
            copied = copy_node(node)
            for i, given in enumerate(copied.input):
                copied.input[i] = renamed.get(given, given)
            graph.replace([node], [copied])
    return graph.result()
