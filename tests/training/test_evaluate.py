from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from ugicm.training import evaluate
from ugicm.training.curves import bd_rate, bits_per_pixel, matched_setting, pillow_file
from ugicm.training.data import read_rgb
from ugicm.training.judges import NanoDet, SqueezeNet


def squeezenet(path: Path) -> Path:
    """Random weights of SqueezeNet 1.0."""
    torch.manual_seed(0)
    state = {"conv1": (96, 3, 7, 7), "conv_final": (1000, 512, 1, 1)}
    channels = 96
    for i, squeezed in enumerate((16, 16, 32, 32, 48, 48, 64, 64)):
        state |= {f"sq.{i}": (squeezed, channels, 1, 1), f"e1.{i}": (4 * squeezed, squeezed, 1, 1)}
        state[f"e3.{i}"] = (4 * squeezed, squeezed, 3, 3)
        channels = 8 * squeezed
    weights = {f"{name}.weight": 1.4 * torch.randn(shape) / np.prod(shape[1:]) ** 0.5 for name, shape in state.items()}
    biases = {f"{name}.bias": torch.zeros(shape[0]) for name, shape in state.items()}
    torch.save({k: v.half() for k, v in (weights | biases).items()}, path)
    return path


def certain(side: int, cell: int, category: int, reach: list[int]) -> list[np.ndarray]:
    """Outputs of a NanoDet that is sure of one box: scores of all cells, and distributions over distances."""
    outputs = []
    for stride in (8, 16, 32):
        cells = (side // stride) ** 2
        scores, distances = np.zeros((1, cells, 80), np.float32), np.zeros((1, cells, 32), np.float32)
        if stride == 16:
            scores[0, cell, category] = 0.9
            scores[0, cell + 1, category] = 0.8  # the same thing, seen again
            for i in (cell, cell + 1):
                distances[0, i, [8 * k + r for k, r in enumerate(reach)]] = 30
        outputs += [scores, distances]
    return outputs


def nanodet(path: Path) -> Path:
    """An ONNX file with NanoDet's input and outputs that always finds one box."""
    outputs = certain(416, 3 * 26 + 4, 5, [4, 3, 4, 5])
    nodes = [
        helper.make_node("Constant", [], [f"o{i}"], value=numpy_helper.from_array(o)) for i, o in enumerate(outputs)
    ]
    values = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, o.shape) for i, o in enumerate(outputs)]
    image = helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, 416, 416])
    graph = helper.make_graph(nodes, "detector", [image], values)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def segmenter(path: Path, least: float = 0.5, classes: int = 1, size: int | str = 32) -> Path:
    """An ONNX file that calls bright what is red above `least`: a probability, or scores of dark, bright and never."""
    values = [
        numpy_helper.from_array(np.array(v, t), n)
        for n, v, t in (("r", [0], np.int64), ("s", [1], np.int64), ("axis", [1], np.int64), ("k", 1e6, np.float32))
    ]
    values += [numpy_helper.from_array(np.float32(v), n) for n, v in (("least", least), ("never", -1.0))]
    nodes = [
        helper.make_node("Slice", ["x", "r", "s", "axis"], ["red"]),
        helper.make_node("Sub", ["red", "least"], ["above"]),
        helper.make_node("Mul", ["above", "k"], ["far"]),
        helper.make_node("Sigmoid", ["far"], ["p" if classes > 1 else "y"]),
    ]
    if classes > 1:
        nodes += [
            helper.make_node("Sub", ["least", "red"], ["dark"]),
            helper.make_node("Mul", ["red", "never"], ["no"]),
            helper.make_node("Concat", ["dark", "p", "no"], ["y"], axis=1),
        ]
    graph = helper.make_graph(
        nodes,
        "segmenter",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3 if classes > 1 else 1, size, size])],
        values,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("classes", [1, 3])
def test_agreement_is_the_overlap_of_what_is_segmented(classes: int, tmp_path: Path) -> None:
    judge = evaluate.open_segmenter(segmenter(tmp_path / "net.onnx", classes=classes), threads=1)
    left, half = np.zeros((2, 32, 32, 3), np.uint8)
    left[:, :16, 0] = half[8:24, :16, 0] = 255
    assert judge.agreement(left, left) == 1 and judge.agreement(left, half) == judge.agreement(half, left) == 0.5
    assert judge.agreement(left, left[:, ::-1]) == 0
    assert judge.found(judge.classes(left)) == [1]
    speck = np.zeros((32, 32, 3), np.uint8)
    speck[:4, :4, 0] = 255  # 1.6 %
    assert judge.found(judge.classes(speck)) == [] != judge.found(judge.classes(half))


def test_squeezenet_is_caffes(tmp_path: Path) -> None:
    net = SqueezeNet(squeezenet(tmp_path / "net.pth"))
    x = torch.rand(2, 3, 227, 227) * 255
    assert net.logits(x).shape == (2, 1000)
    grey = torch.full((1, 3, 227, 227), 0.0) + torch.tensor([123.0, 117.0, 104.0])[:, None, None]
    assert not net.logits(grey).any()  # the means, in red, green, blue, are its zero
    pictures = [np.random.default_rng(i).integers(0, 256, (240, 300, 3), dtype=np.uint8) for i in range(2)]
    bordered = [np.pad(p[:, 30:270], ((0, 0), (50, 50), (0, 0))) for p in pictures]
    assert net.classify(pictures) == net.classify(bordered)  # the central square decides


def test_nanodet_decodes_a_box_and_drops_its_double() -> None:
    outputs = certain(416, 3 * 26 + 4, 5, [4, 3, 4, 5])
    found = NanoDet(lambda inputs: outputs).detect(np.zeros((208, 416, 3), np.uint8))
    assert len(found) == 1 and found[0].category == 5 and found[0].score == pytest.approx(0.9)
    # Centre (4.5, 3.5) cells of 16 pixels; 4, 3 cells to the left and above, 4, 5 to the right and below.
    assert found[0][:4] == pytest.approx((8, 8, 128, 128), abs=0.1)
    half = NanoDet(lambda inputs: outputs).detect(np.zeros((416, 832, 3), np.uint8))
    assert half[0][:4] == pytest.approx((16, 16, 256, 256), abs=0.2)


def test_a_rival_never_has_fewer_bits(pictures: Path) -> None:
    images = [read_rgb(path) for path in sorted(pictures.glob("*.png"))]

    def rate(setting: int) -> float:
        return float(np.mean([bits_per_pixel(pillow_file(i, "JPEG", setting), i) for i in images]))

    target = rate(40) + 1e-3
    setting = matched_setting(images, "JPEG", target)
    assert rate(setting) >= target > rate(setting - 1)
    assert matched_setting(images, "JPEG", 0.0) == 1 and matched_setting(images, "JPEG", 1e9) == 95


def test_bd_rate_of_a_curve_at_half_the_rate() -> None:
    anchor = [{"setting": q, "bpp": 0.1 * 2**q, "psnr": 25.0 + 3 * q, "ms_ssim": 0.9} for q in range(5)]
    halved = [{**p, "bpp": p["bpp"] / 2} for p in anchor]
    assert bd_rate(anchor, halved) == pytest.approx(-50)
    assert bd_rate(anchor, anchor[:1]) is None
    assert bd_rate(anchor, [{**p, "psnr": p["psnr"] + 90} for p in anchor]) is None


@pytest.fixture
def data(pictures: Path, tmp_path: Path) -> list[str]:
    """Arguments that name four sets and three judges."""
    files = sorted(pictures.glob("*.png"))
    with (pictures / "LABELS.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([("class_index", "file"), *((i, f.name) for i, f in enumerate(files))])
    detect = tmp_path / "detect"
    (detect / "labels").mkdir(parents=True)
    (detect / "images").symlink_to(pictures)
    (detect / "labels" / f"{files[0].stem}.txt").write_text("5 0.17 0.16 0.3 0.3\n")
    named = {
        "images": pictures,
        "labelled": pictures,
        "classifier": squeezenet(tmp_path / "net.pth"),
        "detect": detect,
        "detector": nanodet(tmp_path / "detector.onnx"),
        "segment": pictures,
        "segmenter": segmenter(tmp_path / "segmenter.onnx", 0.3),
    }
    return [part for name, path in named.items() for part in (f"--{name}", str(path))]


def test_everything_from_real_files_and_again_from_the_cache(
    data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ugicm.training.evaluate.LADDERS", {"JPEG": (10, 60)})
    monkeypatch.setattr("ugicm.training.report.LADDERS", {"JPEG": (10, 60)})
    out = tmp_path / "out"
    arguments = [*data, "-o", str(out), "--limit", "2", "--resamples", "50", "--threads", "1"]
    assert evaluate.main([*arguments, "--qualities", "1", "3"]) == 0
    first = json.loads((out / "evaluation.json").read_text())
    labelled, detected = first["sets"]["labelled"], first["sets"]["detect"]
    assert {p.name for p in out.glob("*.png")} == {"images.png", "labelled.png", "detect.png", "segment.png"}
    for found in first["sets"].values():
        assert found["images"] == (3 if found is first["sets"]["images"] else 2) or found["images"] == 2
        for row in found["qualities"].values():
            assert row["human"]["bpp"] == row["machine"]["bpp"]  # one bitstream
            assert row["JPEG"]["bpp"]["value"] >= row["human"]["bpp"]["value"]
            assert set(row["differences"]) == {"machine - human", "machine - JPEG", "human - JPEG"}
    assert labelled["qualities"]["1"]["human"]["bpp"]["value"] < labelled["qualities"]["3"]["human"]["bpp"]["value"]
    assert set(labelled["original"]) == {"top1"} and set(detected["original"]) == {"map50", "map"}
    assert detected["original"]["map50"]["value"] > 0
    masks = first["sets"]["segment"]["qualities"]
    assert 0.5 < masks["1"]["human"]["iou"]["value"] < masks["3"]["human"]["iou"]["value"] < 1
    assert len(first["sets"]["images"]["curves"]["human"]) == 2

    def never(*_: object) -> None:
        raise AssertionError("what is in the cache was made again")

    monkeypatch.setattr("ugicm.training.evaluate.judged", never)
    assert evaluate.main([*arguments, "--qualities", "1", "3"]) == 0
    assert json.loads((out / "evaluation.json").read_text()) == first


def test_mistakes_are_one_line_and_status_2(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    any_size = str(segmenter(tmp_path / "any.onnx", size="side"))
    blind = str(segmenter(tmp_path / "blind.onnx", 2.0))
    cases = [
        (["--images", str(tmp_path / "none")], "no images there"),
        (["--images", data[1], "--qualities", "99"], "--qualities: this codec has 1 to"),
        (["--labelled", str(tmp_path), "--classifier", data[5]], "LABELS.csv: a CSV file"),
        (["--labelled", data[3], "--classifier", data[9]], "not a SqueezeNet"),
        (["--detect", data[7], "--detector", str(tmp_path / "absent.onnx")], "absent.onnx: cannot be read"),
        ([str(tmp_path / "bundle"), "--images", data[1]], "bundle"),
        (["--segment", data[1], "--segmenter", str(tmp_path / "absent.onnx")], "absent.onnx: cannot be read"),
        (["--segment", data[1], "--segmenter", data[5]], "not an ONNX network of one input"),
        (["--segment", data[1], "--segmenter", data[9]], "a value for each pixel"),
        (["--segment", data[1], "--segmenter", any_size], "a segmenter has one"),
        (["--segment", data[1], "--segmenter", blind], "the segmenter finds nothing"),
    ]
    for arguments, says in cases:
        assert evaluate.main([*arguments, "-o", str(tmp_path / "out"), "--threads", "1"]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and says in error and error.count("\n") == 1
