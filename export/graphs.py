"""Torch wrappers to clean ONNX graphs, and the check of what came out."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from ugicm.export.faster_exporter import hurried
from ugicm.export.forms.cpu_form import to_cpu, to_fast_cpu
from ugicm.export.forms.rewriting import rewrite
from ugicm.export.source import GraphSource
from ugicm.runtime.backends.onnxruntime import OnnxRuntime

OPSET = 20
SYMBOL_MAX = {"n": 64, "h": 1024, "w": 1024, "p": 2**20}
_MARK = "/own"
TRANSFORMS = ("g_a", "g_a.effort", "g_s_trunk", "g_s")
"""Graphs whose last digits no symbol depends on."""
CHECK_SIZES = ((2, 3, 1), (3, 1, 2))


@dataclass(frozen=True)
class Check:
    """Result of comparing a graph with PyTorch.

    Attributes:
        nodes: operators in the graph.
        sizes: the sizes compared, as height × width in strides × batch.
        difference: the largest absolute difference met.
        tolerance: what is accepted.
    """

    nodes: int
    sizes: str
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter talks on three channels about things that are no business of the user's."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def export_graphs(graphs: Mapping[str, GraphSource]) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Exports graphs in order; one that is like an earlier one is not traced again, which takes most of the time."""
    awaited = Counter(graph.like for graph in graphs.values())
    traced: dict[str, onnx.ModelProto] = {}
    for name, graph in graphs.items():
        model = None
        if graph.like in traced:
            model = with_weights(traced[graph.like], graphs[graph.like], graph)
        if model is None:
            model = _trace(graph)
        if awaited[name]:
            traced[name] = onnx.ModelProto()
            traced[name].CopyFrom(model)
        yield name, clean(model, name)


def export_graph(name: str, source: GraphSource) -> onnx.ModelProto:
    """Exports a wrapper with dynamic sizes, names that a person can read, and no trace of this machine."""
    return clean(_trace(source), name)


def with_weights(traced: onnx.ModelProto, old: GraphSource, new: GraphSource) -> onnx.ModelProto | None:
    """The graph of `new` from that of `old`: parameters and buffers have the same names and other sizes and values.

    Returns:
        None where one of them cannot be found among the graph's constants, so that the graph must be traced.
    """
    before, after = _forms(old.module), _forms(new.module)
    model = onnx.ModelProto()
    model.CopyFrom(traced)
    placed = set()
    for tensor in model.graph.initializer:
        if tensor.name in before:
            found = [(tensor.name, 0)]
        else:
            value = numpy_helper.to_array(tensor)
            same = [(k, i) for k, forms in before.items() for i, form in enumerate(forms) if _same(form, value)]
            found = same[:1] if len({k for k, _ in same}) == 1 else []
        for key, i in found:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(after[key][i]), tensor.name))
            placed.add(key)
    if not before.keys() == after.keys() == placed:
        return None
    sizes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Conv" and attribute.name == "group" and attribute.i > 1:
                attribute.i = sizes[node.input[1]][0]  # depthwise: a group a channel
    del model.graph.value_info[:]
    _rename(model, dict(zip((*old.inputs, *old.outputs), (*new.inputs, *new.outputs), strict=True)))
    return model


def _forms(module: nn.Module) -> dict[str, list[np.ndarray]]:
    """Parameters and buffers by name, each as it is and as the exporter may compute it in advance."""
    forms = {name: [t.numpy(), *([t.T.numpy()] if t.dim() == 2 else [])] for name, t in module.state_dict().items()}
    for scope, inner in module.named_modules():
        for name, values in getattr(inner, "precomputed", dict)().items():
            forms[f"{scope}.{name}"] += [value.detach().numpy() for value in values]
    return forms


def _same(form: np.ndarray, value: np.ndarray) -> bool:
    return form.size > 1 and form.dtype == value.dtype and form.shape == value.shape and np.array_equal(form, value)


def _trace(source: GraphSource) -> onnx.ModelProto:
    """The exporter's graph, its inputs and outputs named."""
    dims = {symbol: torch.export.Dim(symbol, min=1, max=high) for symbol, high in SYMBOL_MAX.items()}
    shapes = tuple(
        {axis: int(text[:-1] or 1) * dims[text[-1]] for axis, text in axes.items()} or None for axes in source.dynamic
    )
    module = source.module.eval()
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    with _quiet(), hurried(), torch.no_grad():
        program = torch.onnx.export(
            module,
            source.example(2, 3, 2),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name + _MARK for name in source.inputs],
            output_names=[name + _MARK for name in source.outputs],
            dynamic_shapes=shapes,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _take_names(model, (*source.inputs, *source.outputs))
    return model


def _take_names(model: onnx.ModelProto, wanted: tuple[str, ...]) -> None:
    """Gives inputs and outputs their names, which the exporter may have given to tensors inside as well."""
    _rename(model, {name: f"{name}/inside" for name in wanted} | {name + _MARK: name for name in wanted})


def _rename(model: onnx.ModelProto, names: Mapping[str, str]) -> None:
    """Gives tensors other names."""
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = names.get(value, value)
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = names.get(value.name, value.name)


def clean(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Readable node names, no metadata, weights stored in half precision where that loses nothing."""
    names: dict[str, str] = {}
    seen: dict[str, int] = {}
    kept = {value.name for value in (*model.graph.input, *model.graph.output)}
    for node in model.graph.node:
        scope = _scope(node)
        label = f"{scope}/{node.op_type}" if scope else node.op_type
        seen[label] = seen.get(label, 0) + 1
        node.name = label if seen[label] == 1 else f"{label}_{seen[label]}"
        for i, output in enumerate(node.output):
            if output and output not in kept:
                names[output] = node.name if i == 0 else f"{node.name}:{i}"
        del node.metadata_props[:]
        node.doc_string = ""
    for node in model.graph.node:
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = names.get(value, value)
    _name_sizes(model)
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]
    model.doc_string = ""
    model.producer_name, model.producer_version = "ugicm", ""
    model.graph.name, model.graph.doc_string = name, ""
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.functions[:]
    rewrite(model, to_fast_cpu if name in TRANSFORMS else to_cpu)
    store_halves(model)
    onnx.checker.check_model(model)
    return model


def _scope(node: onnx.NodeProto) -> str:
    """The path of the torch module that a node came from."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = [s for s in ast.literal_eval(entry.value) if s]
            return str(scopes[-2]) if len(scopes) > 1 else ""
    return ""


def _name_sizes(model: onnx.ModelProto) -> None:
    """Calls the exporter's symbols of output sizes, such as s39, h and w as in the inputs: heights come first."""
    for value in model.graph.output:
        sizes = [d for d in value.type.tensor_type.shape.dim[1:] if d.dim_param]
        for d, name in zip(sizes, ("h", "w"), strict=False):
            d.dim_param = re.sub(r"\bs\d+\b", name, d.dim_param)


def store_halves(model: onnx.ModelProto) -> None:
    """Keeps fp32 weights that fp16 represents exactly as fp16 with a Cast, which backends fold when they load."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.size < 64 or not np.array_equal(half.astype(np.float32), values):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
        casts.append(
            onnx.helper.make_node("Cast", [f"{name}.half"], [name], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def check_graph(name: str, model: onnx.ModelProto, source: GraphSource) -> Check:
    """Runs a graph in ONNX Runtime against PyTorch at two sizes and batches, and compares all its outputs."""
    run = OnnxRuntime().load(model.SerializeToString(), name)
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    kinds = {name: onnx.helper.tensor_dtype_to_np_dtype(kind) for name, kind in types.items()}
    largest = 0.0
    for height, width, batch in CHECK_SIZES:
        inputs = source.example(height, width, batch)
        with torch.no_grad():
            outputs = source.module(*inputs)
        expected = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        found = run({k: v.numpy().astype(kinds[k]) for k, v in zip(source.inputs, inputs, strict=True)})
        for ours, theirs in zip(found, expected, strict=True):
            largest = max(largest, _difference(ours, theirs.numpy()))
    sizes = ", ".join(f"{h}×{w}×{n}" for h, w, n in CHECK_SIZES)
    return Check(len(model.graph.node), sizes, largest, source.tolerance)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest absolute difference; infinite where shapes differ or anything is not finite."""
    if found.shape != expected.shape:
        return math.inf
    difference = float(np.abs(found.astype(np.float64) - expected.astype(np.float64)).max())
    return difference if math.isfinite(difference) else math.inf
