"""The form for CPUs computes the same as the one that calibration begins at, and either makes the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from ugicm.calibration.int8.graph import FloatGraph
from ugicm.calibration.int8.int8_bundle import view_model
from ugicm.calibration.int8.kernels import widened
from ugicm.export.forms.channels_last import pixel_order
from ugicm.export.forms.cpu_form import from_cpu, to_cpu
from ugicm.export.forms.rewriting import rewrite
from ugicm.export.graphs import export_graph
from ugicm.export.lowering import lower
from ugicm.export.source import GraphSource, ImageInput, ImageOutput
from ugicm.models.fast import Block
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import DEFAULT, Bundle


class Small(nn.Module):
    """An image to a picture of its size: a shuffle, a residual block, another shuffle."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.input, self.output = ImageInput(), ImageOutput()
        first = nn.Conv2d(3, 32, 5, stride=side, padding=2)
        self.chain = lower([first, nn.Conv2d(32, 128, 1), nn.ReLU(), nn.PixelShuffle(2), Block(32)])
        last = nn.Conv2d(32, 3 * side**2 // 4, 1)
        nn.init.constant_(last.bias, 0.5)  # type: ignore[arg-type]
        self.last = nn.Sequential(last, *([nn.PixelShuffle(side // 2)] if side > 2 else []))

    def forward(self, image: Tensor) -> Tensor:
        return self.output(self.last(self.chain(self.input(image))))


def small(side: int) -> tuple[nn.Module, onnx.ModelProto]:
    torch.manual_seed(side)
    module = Small(side).eval()
    source = GraphSource(
        module,
        ("image",),
        ("picture",),
        lambda h, w, n: (torch.zeros(n, h * side, w * side, 3, dtype=torch.uint8),),
        ({0: "n", 1: f"{side}h", 2: f"{side}w"},),
        1.0,
    )
    return module, export_graph("g", source)


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def weights(model: onnx.ModelProto) -> set[tuple[tuple[int, ...], bytes]]:
    """Shapes and bytes of all that the network learned, whatever it is called."""
    arrays = [numpy_helper.to_array(t) for t in model.graph.initializer]
    return {(a.shape, a.tobytes()) for a in arrays if a.dtype == np.float32 and a.size > 1}


@pytest.mark.parametrize("side", [8, 4, 2])
def test_pictures_and_shuffles_as_runs_of_memory_are_the_same(side: int) -> None:
    module, model = small(side)
    assert not kinds(model).keys() & {"Round", "Clip", "DepthToSpace"}
    assert kinds(model)["QuantizeLinear"] == 1
    assert kinds(model)["AveragePool"] == 1
    plain = onnx.load_from_string(FloatGraph.parse(model.SerializeToString()).model())
    assert kinds(plain)["DepthToSpace"] == (2 if side > 2 else 1)
    assert not kinds(plain).keys() & {"QuantizeLinear", "DequantizeLinear", "AveragePool", "Reshape"}
    rng = np.random.default_rng(side)
    for height, width, batch in ((1, 1, 1), (3, 5, 2)):
        image = rng.integers(0, 256, (batch, height * side, width * side, 3), np.uint8)
        with torch.no_grad():
            expected = module(torch.from_numpy(image)).numpy()
        for form in (model, plain):
            for level in ("all", "disable"):
                found = OnnxRuntime(threads=1, level=level).load(form.SerializeToString(), "g")({"image": image})[0]
                assert np.abs(found.astype(int) - expected).max() <= 1
                assert np.mean(found != expected) < 0.01


@pytest.mark.parametrize("name", ["g_a", "h_a", "context", "g_s_trunk", "g_s"])
def test_there_and_back_keeps_every_weight_to_the_last_bit(name: str) -> None:
    plain = onnx.load_from_string(FloatGraph.parse(Bundle.open(DEFAULT).graph(name)[1]).model())
    there, back = onnx.ModelProto(), onnx.ModelProto()
    there.CopyFrom(plain)
    rewrite(there, to_cpu)
    onnx.checker.check_model(there)
    back.CopyFrom(there)
    rewrite(back, from_cpu)
    onnx.checker.check_model(back)
    assert kinds(back) == kinds(plain)
    assert weights(back) == weights(plain)
    assert (weights(there) != weights(plain)) == (name in ("g_s_trunk", "g_s"))


@pytest.mark.parametrize("name", ["g_a", "g_s_trunk", "g_s"])
def test_sums_are_made_by_the_convolutions_before_them(name: str, tmp_path: Path) -> None:
    bundle = Bundle.open(DEFAULT)
    model = bundle.graph(name)[1]
    if name == "g_s":
        model = view_model(bundle, bundle.condition_vectors["machine"])
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    optimised = kinds(onnx.load(tmp_path / "optimised.onnx"))
    assert optimised["Add"] == optimised["DepthToSpace"] == 0


def test_a_shuffle_whose_channels_come_from_elsewhere_stays() -> None:
    """Nothing could be reordered: the tensor is read twice, or is made by no convolution."""
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"], name="c"),
        onnx.helper.make_node("DepthToSpace", ["c"], ["up"], blocksize=2, mode="CRD"),
        onnx.helper.make_node("Sigmoid", ["c"], ["other"]),
    ]
    constants = {"w": np.zeros((64, 8, 1, 1), np.float32)}
    for outputs in ({"up", "other"}, {"up"}):
        found, _ = to_cpu(nodes if "other" in outputs else [nodes[2], nodes[1]], constants, outputs)
        assert any(n.op_type == "DepthToSpace" for n in found)


def test_a_pixel_shuffle_of_reordered_channels_moves_runs() -> None:
    x = torch.arange(2 * 48 * 3 * 5.0).reshape(2, 48, 3, 5)
    rows = x[:, pixel_order(48, 4)].permute(0, 2, 3, 1).reshape(2, 3, 5, 4, 12)
    picture = rows.permute(0, 1, 3, 2, 4).reshape(2, 12, 20, 3).permute(0, 3, 1, 2)
    assert torch.equal(picture, nn.functional.pixel_shuffle(x, 4))


@pytest.mark.parametrize(("colours", "side"), [(3, 2), (1, 2), (3, 1)])
def test_four_outputs_at_once_are_the_same_four(colours: int, side: int) -> None:
    rng = np.random.default_rng(colours)
    weight = rng.integers(-127, 128, (colours * side**2, 5, 3, 3)).astype(np.int8)
    kernel, origin = widened(weight, side)
    x = torch.from_numpy(rng.integers(0, 256, (2, 5, 6, 8)).astype(np.float64))
    bias = torch.arange(float(len(weight)), dtype=torch.float64)
    one = nn.functional.conv2d(x, torch.from_numpy(weight).double(), bias, padding=1)
    four = nn.functional.conv2d(x, torch.from_numpy(kernel).double(), bias[origin], stride=2, padding=1)
    shuffle = nn.functional.pixel_shuffle
    assert torch.equal(shuffle(one, side), shuffle(four, 2 * side))
