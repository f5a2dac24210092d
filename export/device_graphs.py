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
from ugicm.runtime.backends.gpu.engines import source_digest
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BundleError

EXACT = "h_s"
ALWAYS_FULL = (EXACT, "condition")  # the exact path; a graph of 21 numbers
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
    inputs = sample_inputs(bundle)
    backend = OnnxRuntime(level=level_for(held))
    made = {}
    for name in bundle.manifest.general:
        entry = bundle.manifest.graphs[name]
        original = bundle.file(entry.file)
        if name == EXACT:
            assert bundle.exact is not None
            model = to_onnx(bundle.exact, "float")
            _name_output_sizes(model, bundle.manifest.stride // bundle.manifest.latent_stride)
        else:
            model = onnx.load_model_from_string(original)
            fold_stored_halves(model)
            casts_outermost(model)
            bytes_to_symbols(model)
            model.graph.name = name
            if precision == "fp16" and name not in ALWAYS_FULL:
                model = to_half(model)
        data = model.SerializeToString()
        expected = backend.load(original, name)(inputs[name])
        found = backend.load(simulated(model).SerializeToString(), name)(as_device_inputs(model, inputs[name]))
        difference = max(map(relative_difference, expected, found))
        allowed = 0.0 if name == EXACT else LARGEST_DIFFERENCE
        if not difference <= allowed:
            raise DeviceGraphError(f"graph {name} in {precision} differs from fp32 by {difference:.2g} (relative)")
        made[name] = DeviceGraph(data, source_digest(bundle, name), difference)
    return made


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


def sample_inputs(bundle: Bundle, height: int = 192, width: int = 256) -> dict[str, dict[str, np.ndarray]]:
    """Inputs of every graph of the bundle as they come out of one another, from a synthetic image.

    A bundle of the decoder starts at its golden hyper-latents, with symbols of 0.
    """
    m, backend = bundle.manifest, OnnxRuntime(level=level_for(bundle.manifest.precision))
    inputs: dict[str, dict[str, np.ndarray]] = {}

    def run(name: str, **values: np.ndarray) -> list[np.ndarray]:
        inputs[name] = values
        return backend.load(bundle.graph(name)[1], name)(values)

    rows, columns = (-(-side // m.stride) for side in (height, width))
    middle = slice((m.qualities - 1) // 2, (m.qualities - 1) // 2 + 1)
    y = None
    if "g_a" in m.graphs:
        image = coloured_noise(rows * m.stride, columns * m.stride)
        y = run("g_a", image=image[None], gain=bundle.gain[middle])[0]
    if "h_a" in m.graphs:
        assert y is not None and bundle.exact is not None
        z = np.clip(np.rint(run("h_a", y=y)[0]), -bundle.exact.input_limit, bundle.exact.input_limit)
    elif bundle.exact is not None:
        z = bundle.golden["z2"].astype(np.float32)
        rows, columns = z.shape[2:]
    mean = None
    if bundle.exact is not None:
        _, *means = run(EXACT, z=z)
        mean = means[0] if means else run("h_s_mean", z=z)[0] if "h_s_mean" in m.graphs else None
    if y is None:
        factor = m.stride // m.latent_stride
        y = np.zeros((1, m.latent_channels, rows * factor, columns * factor), np.float32) if mean is None else mean
    symbols = np.rint(y if mean is None else y - mean).astype(np.float32)
    y_hat = symbols if mean is None else symbols + mean
    if "context" in m.graphs:
        assert mean is not None
        board = (np.add.outer(np.arange(y.shape[2]), np.arange(y.shape[3])) + 1) % 2
        y_hat = run("context", symbols=symbols, mean=mean, anchor=board.astype(np.float32)[None, None])[0]
    if "g_s" in m.graphs:
        shared = {"y_hat": y_hat, "inverse_gain": bundle.inverse_gain[middle]}
        if "g_s_trunk" in m.graphs:
            shared = {"features": run("g_s_trunk", **shared)[0]}
        if m.conditions:
            shared["condition"] = bundle.condition_vectors[list(m.conditions)[-1]]
        run("g_s", **shared)
    if "condition" in m.graphs:
        run("condition", beta=np.asarray([0.5], np.float32))
    if missing := {name for name in m.graphs if "." not in name} - set(inputs):
        raise BundleError(f"{bundle.path}: nothing is known of graph {min(missing)}; export the bundle again")
    return inputs


def coloured_noise(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 with the 1/f spectrum of photographs, always the same."""
    rng = np.random.default_rng(5)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.normal(size=(4, height, width))) / frequency
    grey, *colours = np.fft.irfft2(noise, s=(height, width))
    planes = np.stack([grey + 0.3 * colour for colour in colours], -1)
    return np.clip(128 + 50 * planes / planes.std(), 0, 255).astype(np.uint8)
