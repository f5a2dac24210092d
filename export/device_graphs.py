"""The graphs of a bundle as GPU runtimes read them: device graphs.

They differ from the bundle's in form, not in values: images are transposed as floats, with the cast from and to uint8
outermost (TensorRT has uint8 at the ends of a network only); symbols come as the two bytes of an int16, half of what
floats take on the way up; the integer `h_s` takes the form of integer-valued floats. Precision is written into the
graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ugicm.calibration.exact.emit import to_onnx
from ugicm.calibration.int8.command import level_for
from ugicm.export.precision import fold_stored_halves, simulated, to_half
from ugicm.export.sample_inputs import sample_inputs
from ugicm.runtime.backends.gpu.engines import source_digest
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.graphs.stage_answers import in_double

ALWAYS_FULL = ("h_s", "condition")  # what scales come from; a graph of 21 numbers
LARGEST_DIFFERENCE = 0.01  # root mean square against fp32, relative: ten times what sound networks show


class DeviceGraphError(Exception):
    """A graph that cannot be given the form or precision that was asked for; the message says why."""


@dataclass(frozen=True)
class DeviceGraph:
    """A device graph.

    Attributes:
        model: ONNX bytes.
        source: SHA-256 (hexadecimal) of the bundle's file it was made from.
        difference: from the bundle's own graph on sample inputs, root mean square, relative to its output's.
    """

    model: bytes
    source: str
    difference: float


def device_graphs(bundle: Bundle, precision: str) -> dict[str, DeviceGraph]:
    """Every graph of the bundle, checked in ONNX Runtime against the bundle's own.

    Raises:
        DeviceGraphError: a precision that this bundle or the format cannot have, or a graph that strays from its
            original by more than LARGEST_DIFFERENCE.
    """
    held = bundle.manifest.precision
    if precision != held and not (held == "fp32" and precision == "fp16"):
        form = "fp8" if precision == "fp8" else "tensorrt"
        remedy = f"ask for --precision {held}" if held != "fp32" else "quantise it: python -m ugicm.calibration.int8"
        raise DeviceGraphError(f"{bundle.path}: is an {held} bundle; {remedy}" + f" --form {form}" * (held == "fp32"))
    note = bundle.manifest.model.get(held)
    if isinstance(note, dict) and note.get("form") == "cpu":
        raise DeviceGraphError(
            f"{bundle.path}: is quantised for CPUs; quantise the float bundle again: python -m "
            "ugicm.calibration.int8 --form tensorrt"
        )
    if in_double(bundle.manifest):
        raise DeviceGraphError(f"{bundle.path}: its stages are in double precision, which CPUs alone run; use one")
    inputs = sample_inputs(bundle)
    backend = OnnxRuntime(level=level_for(held))
    schedule = bundle.manifest.schedule
    full = {*ALWAYS_FULL, *(schedule.graphs if schedule else ())}
    made = {}
    for name in bundle.manifest.general:
        entry = bundle.manifest.graphs[name]
        original = bundle.file(entry.file)
        exact = name == "h_s" and bundle.exact is not None
        if exact:
            assert bundle.exact is not None
            model = to_onnx(bundle.exact, "float")
            _name_output_sizes(model, bundle.manifest.stride // bundle.manifest.latent_stride)
        else:
            model = device_form(onnx.load_model_from_string(original), precision == "fp16" and name not in full)
            model.graph.name = name
        data = model.SerializeToString()
        expected = backend.load(original, name)(inputs[name])
        found = backend.load(simulated(model).SerializeToString(), name)(as_device_inputs(model, inputs[name]))
        difference = max(map(relative_difference, expected, found))
        allowed = 0.0 if exact else LARGEST_DIFFERENCE
        if not difference <= allowed:
            raise DeviceGraphError(f"graph {name} in {precision} differs from fp32 by {difference:.2g} (relative)")
        made[name] = DeviceGraph(data, source_digest(bundle, name), difference)
    return made


def device_form(model: onnx.ModelProto, half: bool) -> onnx.ModelProto:
    """A bundle's graph, which is changed, as GPU runtimes read it; in half precision or as it is."""
    fold_stored_halves(model)
    casts_outermost(model)
    bytes_to_symbols(model)
    return to_half(model) if half else model


def _name_output_sizes(model: onnx.ModelProto, factor: int) -> None:
    """Calls the output sizes of `h_s` multiples of the input's, so that buffers can be made in advance."""
    for value in model.graph.output:
        for dim, name in zip(value.type.tensor_type.shape.dim, ("N", None, f"{factor}*h", f"{factor}*w"), strict=True):
            if name:
                dim.dim_param = name


def casts_outermost(model: onnx.ModelProto) -> None:
    """Swaps uint8 transposes at the ends of a graph with the casts beside them, in place; values stay the same."""
    graph = model.graph
    bytes_in, bytes_out = {v.name for v in graph.input}, {v.name for v in graph.output}
    consumers = {name: [n for n in graph.node if name in n.input] for node in graph.node for name in node.output}
    for node in graph.node:
        following = consumers.get(node.output[0], [])
        if len(following) != 1:
            continue
        kinds = (node.op_type, following[0].op_type)
        entering = kinds == ("Transpose", "Cast") and node.input[0] in bytes_in
        leaving = kinds == ("Cast", "Transpose") and following[0].output[0] in bytes_out
        if entering or (leaving and helper.get_node_attr_value(node, "to") == TensorProto.UINT8):
            _swap(node, following[0], node.input[0], following[0].output[0])


def _swap(first: onnx.NodeProto, second: onnx.NodeProto, source: str, target: str) -> None:
    """Exchanges two nodes in a chain source → first → second → target."""
    kept = onnx.NodeProto()
    kept.CopyFrom(first)
    between = f"{second.name}/swapped"
    first.CopyFrom(second)
    second.CopyFrom(kept)
    first.input[0], first.output[0] = source, between
    second.input[0], second.output[0] = between, target


def bytes_to_symbols(model: onnx.ModelProto) -> None:
    """Replaces a float input `symbols` by `symbols_bytes`: uint8 (…, 2), the little-endian bytes of int16, in place."""
    graph = model.graph
    symbols = next((value for value in graph.input if value.name == "symbols"), None)
    if symbols is None:
        return
    symbols.name = "symbols_bytes"
    symbols.type.tensor_type.elem_type = TensorProto.UINT8
    symbols.type.tensor_type.shape.dim.add().dim_value = 2
    constants: dict[str, np.ndarray] = {
        "half": np.asarray(1 / 128, np.float32),
        "turn": np.asarray(256, np.float32),
        "last": np.asarray([-1], np.int64),
    }
    graph.initializer.extend(numpy_helper.from_array(v, f"symbols/{k}") for k, v in constants.items())
    steps: list[tuple[str, list[str], list[str], dict[str, Any]]] = [
        ("Cast", ["symbols_bytes"], ["symbols/floats"], {"to": TensorProto.FLOAT}),
        ("Split", ["symbols/floats"], ["symbols/low_", "symbols/high_"], {"axis": -1, "num_outputs": 2}),
        ("Squeeze", ["symbols/low_", "symbols/last"], ["symbols/low"], {}),
        ("Squeeze", ["symbols/high_", "symbols/last"], ["symbols/high"], {}),
        # A high byte of 128 and more is negative: 256 less.
        ("Mul", ["symbols/high", "symbols/half"], ["symbols/sign_"], {}),
        ("Floor", ["symbols/sign_"], ["symbols/sign"], {}),
        ("Mul", ["symbols/sign", "symbols/turn"], ["symbols/wrap"], {}),
        ("Sub", ["symbols/high", "symbols/wrap"], ["symbols/signed"], {}),
        ("Mul", ["symbols/signed", "symbols/turn"], ["symbols/upper"], {}),
        ("Add", ["symbols/upper", "symbols/low"], ["symbols"], {}),
    ]
    made = [helper.make_node(op, ins, outs, name=f"{outs[0]}/{op}", **more) for op, ins, outs, more in steps]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(made + nodes)


def as_device_inputs(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Inputs of a bundle's graph as its device graph takes them."""
    names = [value.name for value in model.graph.input]
    given = dict(inputs)
    if "symbols_bytes" in names:
        symbols = np.clip(given.pop("symbols"), -(2**15), 2**15 - 1).astype("<i2")
        given["symbols_bytes"] = symbols[..., None].view(np.uint8)
    return given


def relative_difference(expected: np.ndarray, found: np.ndarray) -> float:
    """Root mean square difference over the root mean square of what was expected; infinite for another shape."""
    if expected.shape != found.shape or not np.isfinite(found).all():
        return float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    scale = float(np.sqrt(np.mean(a * a))) or 1.0
    return float(np.sqrt(np.mean((a - b) ** 2))) / scale
