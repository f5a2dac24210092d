"""An exact network as an ONNX graph, in two forms that give the same integers.

"float": convolutions of integer-valued float32, for any backend. Weights are integers times 2^-shift, so the
requantisation costs no multiplication of its own: such products and sums are exact wherever the integers are.

"qdq": where a layer's inputs and outputs fit 8 bits, activations are uint8 and weights int8 between
QuantizeLinear and DequantizeLinear, whose scales are 1 and 2^-shift; ONNX Runtime makes a QLinearConv of each
on CPUs. Layers that do not
fit stay in the float form: the last one's means always, all of them where activations have more than 8 bits.
On x86 without VNNI, uint8 × int8 kernels add two products in int16: exact only while weights stay within ±64
(7 bits). `ugicm.runtime.backends.onnxruntime` asks for uint8 × uint8 kernels there, which are exact for all weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ugicm.runtime.exact import ExactLayer, ExactNetwork

OPSET = 20
IR_VERSION = 10
Array = NDArray[Any]


@dataclass
class _Graph:
    """Nodes and constants in the making; a node's output bears the node's name."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def constant(self, name: str, array: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node and returns the name of its output."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the graph: float32 holding integers, or uint8 holding them plus a zero point."""

    name: str
    zero_point: int | None = None


def to_onnx(network: ExactNetwork, form: Literal["float", "qdq"] = "float") -> onnx.ModelProto:
    """The graph of a network, the same bytes for the same network.

    Its input `z` is float32 (N, z_channels, h, w), integer-valued, centred, within the input limit; its
    outputs are `scale_index` uint8 (N, M, H, W) and, where there are means, `mean` float32 (N, M, H, W), in
    pixels of `y`.

    Raises:
        ValueError: an unknown form.
    """
    if form not in ("float", "qdq"):
        raise ValueError(f"unknown form {form!r}; there are 'float' and 'qdq'")
    graph = _Graph()
    x = _Tensor("z")
    if network.ones:
        pads = graph.constant("h_s/ones/pads", np.asarray([0, 0, 0, 0, 0, 1, 0, 0], np.int64))
        value = graph.constant("h_s/ones/value", np.asarray(network.ones, np.float32))
        x = _Tensor(graph.node("Pad", "h_s/ones", x.name, pads, value, mode="constant"))
    ranges = network.input_ranges()
    *hidden, last = network.layers
    for i, layer in enumerate(hidden):
        x = _hidden(graph, f"h_s/conv{i}", layer, x, ranges[i], form == "qdq")
    _head(graph, f"h_s/conv{len(hidden)}", network, last, x, form == "qdq")

    m, z = network.scale_channels, network.z_channels
    outputs = [helper.make_tensor_value_info("scale_index", TensorProto.UINT8, ["N", m, "H", "W"])]
    if network.mean_channels:
        outputs.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", m, "H", "W"]))
    inputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", z, "h", "w"])]
    proto = helper.make_graph(graph.nodes, "h_s", inputs, outputs, graph.constants)
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="ugicm"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def _bytes_fit(low: int, high: int) -> bool:
    """Whether the values low..high, and the 0 of padding, fit uint8 with a zero point."""
    return max(high, 0) - min(low, 0) <= 255


def _hidden(graph: _Graph, name: str, layer: ExactLayer, x: _Tensor, inputs: tuple[Array, Array], qdq: bool) -> _Tensor:
    """A layer but the last: int8 where that form is asked for and everything fits it, else float."""
    low, high, first = int(layer.low.min()), int(layer.high.max()), int(inputs[0].min())
    uniform = bool(np.all(layer.low == low) and np.all(layer.high == high))
    fits = _bytes_fit(low, high) and _bytes_fit(first, int(inputs[1].max()))
    if qdq and fits and uniform and layer.table is None and layer.weight.dtype == np.int8:
        if x.zero_point is None:
            x = _quantised(graph, f"{name}/input", x.name, -min(first, 0))
        y = _quantised(graph, f"{name}/quantise", _convolve(graph, name, layer, x), -min(low, 0))
        y = _clip_bytes(graph, name, y, low, high)
        return _Tensor(_shuffle(graph, name, layer, y.name), y.zero_point)
    out = _convolve(graph, name, layer, _floats(graph, x))
    out = _requantise(graph, name, layer.low, layer.high, out)
    if layer.table is not None:
        out = _look_up(graph, name, out, layer.table, low)
    return _Tensor(_shuffle(graph, name, layer, out))


def _head(graph: _Graph, name: str, network: ExactNetwork, layer: ExactLayer, x: _Tensor, qdq: bool) -> None:
    """The last layer: its scale channels and its mean channels apart, each in the form that fits it."""
    scales_end = network.scale_channels * layer.upsample**2
    scales, part = _channels(layer, slice(0, scales_end)), f"{name}/scale"
    top = int(scales.high.max())
    uniform = bool(np.all(scales.low == 0) and np.all(scales.high == top))
    if qdq and x.zero_point is not None and uniform and network.scale_table is None and layer.weight.dtype == np.int8:
        y = _quantised(graph, f"{part}/quantise", _convolve(graph, part, scales, x), 0)
        out = _shuffle(graph, part, scales, _clip_bytes(graph, part, y, 0, top).name)
        graph.node("Identity", "scale_index", out)
    else:
        out = _convolve(graph, part, scales, _floats(graph, x))
        out = _requantise(graph, part, scales.low, scales.high, out)
        if network.scale_table is not None:
            out = _look_up(graph, part, out, network.scale_table, 0)
        graph.node("Cast", "scale_index", _shuffle(graph, part, scales, out), to=TensorProto.UINT8)
    if network.mean_channels:
        means, part = _channels(layer, slice(scales_end, None)), f"{name}/mean"
        out = _convolve(graph, part, means, _floats(graph, x))
        out = _shuffle(graph, part, means, _requantise(graph, part, means.low, means.high, out))
        unit = graph.constant(f"{part}/unit", np.asarray(2.0**-network.mean_fraction_bits, np.float32))
        graph.node("Mul", "mean", out, unit)


def _channels(layer: ExactLayer, part: slice) -> ExactLayer:
    """Some output channels of a layer."""
    return ExactLayer(
        layer.weight[part],
        layer.bias[part],
        layer.shift[part],
        layer.low[part],
        layer.high[part],
        layer.upsample,
    )


def _convolve(graph: _Graph, name: str, layer: ExactLayer, x: _Tensor) -> str:
    """The convolution times 2^-shift, not yet rounded; between Q and DQ where x is uint8."""
    scale = np.exp2(-layer.shift.astype(np.float32))
    if x.zero_point is None:
        weight = graph.constant(f"{name}/weight", layer.weight.astype(np.float32) * scale[:, None, None, None])
        bias = graph.constant(f"{name}/bias", layer.bias.astype(np.float32) * scale)
        source = x.name
    else:
        step = graph.constant(f"{name}/step", scale)
        none = graph.constant(f"{name}/weight_zero", np.zeros(len(scale), np.int8))
        none32 = graph.constant(f"{name}/bias_zero", np.zeros(len(scale), np.int32))
        stored = graph.constant(f"{name}/weight_integers", layer.weight)
        weight = graph.node("DequantizeLinear", f"{name}/weight", stored, step, none, axis=0)
        stored = graph.constant(f"{name}/bias_integers", layer.bias)
        bias = graph.node("DequantizeLinear", f"{name}/bias", stored, step, none32, axis=0)
        source = _floats(graph, x).name
    size = layer.weight.shape[2]
    return graph.node("Conv", name, source, weight, bias, kernel_shape=[size] * 2, pads=[size // 2] * 4, strides=[1, 1])


def _requantise(graph: _Graph, name: str, low: Array, high: Array, x: str) -> str:
    """Rounds half to even and clips; per channel where the channels' ranges differ."""
    out = graph.node("Round", f"{name}/round", x)
    if np.all(low == low[0]) and np.all(high == high[0]):
        ends = [
            graph.constant(f"{name}/{end}", np.asarray(v[0], np.float32)) for end, v in (("low", low), ("high", high))
        ]
        return graph.node("Clip", f"{name}/clip", out, *ends)
    ends = [
        graph.constant(f"{name}/{e}", v.astype(np.float32)[:, None, None]) for e, v in (("low", low), ("high", high))
    ]
    return graph.node("Min", f"{name}/clip", graph.node("Max", f"{name}/clip_low", out, ends[0]), ends[1])


def _look_up(graph: _Graph, name: str, x: str, table: Array, low: int) -> str:
    """table[x - low] for integer-valued floats."""
    if low:
        x = graph.node("Sub", f"{name}/entry", x, graph.constant(f"{name}/first", np.asarray(low, np.float32)))
    entry = graph.node("Cast", f"{name}/entry_integer", x, to=TensorProto.INT32)
    return graph.node("Gather", f"{name}/look_up", graph.constant(f"{name}/table", table.astype(np.float32)), entry)


def _shuffle(graph: _Graph, name: str, layer: ExactLayer, x: str) -> str:
    if layer.upsample == 1:
        return x
    return graph.node("DepthToSpace", f"{name}/shuffle", x, blocksize=layer.upsample, mode="CRD")


def _units(graph: _Graph, name: str, zero_point: int) -> tuple[str, str]:
    """Constants: a scale of one and a zero point."""
    one = graph.constant(f"{name}/unit", np.asarray(1, np.float32))
    return one, graph.constant(f"{name}/zero", np.asarray(zero_point, np.uint8))


def _quantised(graph: _Graph, name: str, x: str, zero_point: int) -> _Tensor:
    """Rounds half to even to uint8 with a zero point, saturating."""
    return _Tensor(graph.node("QuantizeLinear", name, x, *_units(graph, name, zero_point)), zero_point)


def _floats(graph: _Graph, x: _Tensor) -> _Tensor:
    """The integers of a tensor as float32; one node however many read it."""
    if x.zero_point is None:
        return x
    name = f"{x.name}/dequantise"
    if any(node.name == name for node in graph.nodes):
        return _Tensor(name)
    return _Tensor(graph.node("DequantizeLinear", name, x.name, *_units(graph, name, x.zero_point)))


def _clip_bytes(graph: _Graph, name: str, x: _Tensor, low: int, high: int) -> _Tensor:
    """The clip ranges that are narrower than uint8's own; x's zero point is that of `low`."""
    zero = x.zero_point or 0
    if low + zero <= 0 and high + zero >= 255:
        return x
    ends = [graph.constant(f"{name}/{e}", np.asarray(v + zero, np.uint8)) for e, v in (("low", low), ("high", high))]
    return _Tensor(graph.node("Clip", f"{name}/clip", x.name, *ends), zero)
