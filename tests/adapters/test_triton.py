"""What `ugicm triton` writes, and its models without a server; `tests.adapters.triton_run` asks the real one."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ugicm import Codec
from ugicm.export.device_graphs import DeviceGraph
from ugicm.export.to_tensorrt import write_device_graphs
from ugicm.runtime.backends.gpu.engines import VARIABLE, DeviceGraphs, Sizes, source_digest
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands import cli
from ugicm.runtime.commands.encode import Keeping, encode_picture


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name = name
        self.array = array

    def as_numpy(self) -> np.ndarray:
        return self.array


class TritonError(tuple):
    """(kind, words)."""

    INVALID_ARG, INTERNAL, UNAVAILABLE = "INVALID_ARG", "INTERNAL", "UNAVAILABLE"

    def __new__(cls, words: str, kind: str) -> TritonError:
        return super().__new__(cls, (kind, words))


def request(**inputs: Any) -> dict[str, Tensor]:
    return {name: Tensor(name, np.array(values)) for name, values in inputs.items()}


def strings(*values: bytes) -> np.ndarray:
    return np.array([values], dtype=object)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("triton") / "repository"
    assert cli.main(["triton", "-o", str(folder), "--instances", "3", "--pixels", "30000"]) == 0
    return folder


@pytest.fixture
def opened(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """A model as the python backend opens it, with a stand-in for the module that the backend gives."""
    stand_in = SimpleNamespace(
        Tensor=Tensor,
        TritonError=TritonError,
        InferenceResponse=lambda tensors, error=None: error or tensors[0].array,
        get_input_tensor_by_name=lambda request, name: request.get(name),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", stand_in)

    def open_model(name: str, repository: Path = repository) -> Any:
        names: dict[str, Any] = {}
        exec((repository / name / "1/model.py").read_text(), names)
        said = re.findall(
            r'key: "(\w+)" value: { string_value: "([^"]*)"', (repository / name / "config.pbtxt").read_text()
        )
        parameters = {key: {"string_value": value} for key, value in said}
        model = names["TritonPythonModel"]()
        where = {"model_repository": str(repository / name), "model_version": "1"}
        model.initialize({**where, "model_config": json.dumps({"parameters": parameters})})
        return model

    return open_model


def test_a_repository_has_models_and_bundles_that_open(repository: Path, codec: Codec) -> None:
    for model in ("ugicm_decode", "ugicm_encode"):
        assert Bundle.open(repository / model / "1/bundle").codec_id == codec.codec_id
        config = (repository / model / "config.pbtxt").read_text()
        assert f'name: "{model}"' in config and "KIND_CPU count: 3" in config and "max_batch_size: 1\n" in config
        assert config.count("{") == config.count("}") and config.count("[") == config.count("]")
    client = (repository / "client.py").read_text()
    compile(client, "client.py", "exec")
    assert len(client.splitlines()) <= 23


def test_on_a_gpu_requests_are_batched_and_engines_come_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], codec: Codec
) -> None:
    gpu = ["triton", "-o", str(tmp_path / "r"), "--backend", "tensorrt", "--precision", "fp32"]
    monkeypatch.setenv(VARIABLE, str(tmp_path / "engines"))
    assert cli.main(gpu) == 2
    assert "holds no device graphs; run: python -m ugicm.export.to_tensorrt" in capsys.readouterr().err
    root = tmp_path / "engines" / codec.bundle.manifest.codec_id
    graph = DeviceGraph(codec.bundle.graph("condition")[1], source_digest(codec.bundle, "condition"), 0.0)
    sizes = Sizes((64, 64), (64, 64), (128, 128))
    write_device_graphs(codec.bundle, {"condition": graph}, "fp32", sizes, None, root, batch=8)
    (root / "fp32/tensorrt-1-sm_90").mkdir()
    (root / "fp32/tensorrt-1-sm_90/condition.engine").write_bytes(b"an engine")
    assert cli.main([*gpu, "--batch", "9"]) == 2
    assert "take 8 images; build them again: python -m ugicm.export.to_tensorrt" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()

    assert cli.main(gpu) == 0
    config = (tmp_path / "r/ugicm_decode/config.pbtxt").read_text()
    assert "KIND_GPU count: 1" in config and "max_batch_size: 8" in config and "dynamic_batching" in config
    assert 'key: "precision" value: { string_value: "fp32" }' in config
    monkeypatch.delenv(VARIABLE)
    served = Bundle.open(tmp_path / "r/ugicm_decode/1/bundle")
    assert DeviceGraphs.open(served, "fp32").model("condition") == graph.model
    engine = served.path / "engines/fp32/tensorrt-1-sm_90/condition.engine"
    assert engine.read_bytes() == b"an engine"


def test_files_of_one_size_run_together_whatever_else_is_in_their_batch(
    opened: Callable[..., Any], codec: Codec, photograph: np.ndarray, tmp_path: Path
) -> None:
    assert cli.main(["triton", "-o", str(tmp_path / "r"), "--batch", "4"]) == 0
    model = opened("ugicm_decode", tmp_path / "r")
    files = [codec.encode(np.roll(photograph, 8 * i, 1)[:100, : 150 - i], quality=5) for i in range(5)]
    requests = [request(UGIC=strings(data)) for data in files]
    requests.insert(2, request(UGIC=strings(files[0][:-9])))
    requests.insert(4, request(UGIC=strings(files[0]), CONDITION=strings(b"robot")))
    requests += [request(UGIC=strings(files[1]), CONDITION=strings(b"both"))]
    sizes: list[int] = []
    whole = model.codec.networks.whole
    model.codec.networks.whole = lambda graph, inputs: (
        sizes.append(len(inputs.get("features", "1"))) or whole(graph, inputs)
    )
    answers = model.execute(requests)
    assert [answers.pop(i)[0] for i in (4, 2)] == ["INVALID_ARG", "INVALID_ARG"]
    assert sorted(size for size in sizes if size > 1) == [4]  # of five, the two views of another alone
    expected = [codec.decode_views(data, ["human"]) for data in files] + [codec.decode_views(files[1], [0, 1])]
    for answer, views in zip(answers, expected, strict=True):
        difference = np.abs(answer[0].astype(int) - np.stack(views))
        assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_what_cannot_be_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for arguments, words in (
        (["-o", str(tmp_path)], "did not write"),
        (["-o", str(tmp_path / "r"), "--instances", "0"], "--instances 0"),
        (["-o", str(tmp_path / "r"), str(tmp_path / "none")], "none"),
    ):
        assert cli.main(["triton", *arguments]) == 2
        assert words in capsys.readouterr().err
    assert not (tmp_path / "r").exists() and [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_requests_are_answered_or_refused_one_by_one(
    opened: Callable[[str], Any], codec: Codec, photograph: np.ndarray, tmp_path: Path
) -> None:
    data = codec.encode(photograph, 2)
    small = codec.encode(photograph[:33, :50].copy(), 5)
    large = codec.encode(np.zeros((200, 200, 3), np.uint8))
    answers = opened("ugicm_decode").execute(
        [
            request(UGIC=strings(data)),
            request(UGIC=strings(small), CONDITION=strings(b"both", b"0.25")),
            request(UGIC=strings(b"not a file")),
            request(UGIC=strings(data[:-9])),
            request(UGIC=strings(data), CONDITION=strings(b"robot")),
            request(UGIC=strings(large)),
            request(UGIC=strings(data), CONDITION=strings(*[b"both"] * 9)),
            request(UGIC=strings()),
        ]
    )
    np.testing.assert_array_equal(answers[0], codec.decode(data)[None, None])
    np.testing.assert_array_equal(answers[1][0], np.stack(codec.decode_views(small, ["human", "machine", 0.25])))
    assert [kind for kind, _ in answers[2:]] == ["INVALID_ARG"] * 6
    assert (
        "not a .ugic file" in answers[2][1]
        and "this server takes 30000" in answers[5][1]
        and "in 18 views" in answers[6][1]
    )

    Image.fromarray(photograph).save(tmp_path / "p.png")
    picture = (tmp_path / "p.png").read_bytes()
    model = opened("ugicm_encode")
    coded, default, bad, wrong = model.execute(
        [
            request(PICTURE=strings(picture), QUALITY=np.array([[2]], np.int32)),
            request(PICTURE=strings(picture)),
            request(PICTURE=strings(b"GIF89a, or not")),
            request(PICTURE=strings(picture), QUALITY=np.array([[9]], np.int32)),
        ]
    )
    assert coded[0, 0] == encode_picture(codec, picture, 2, Keeping(), "p").data and default[0, 0] != coded[0, 0]
    assert (bad[0], wrong[0]) == ("INVALID_ARG", "INVALID_ARG")

    def breaks(_: object) -> None:
        raise ZeroDivisionError("the model goes on")

    assert model.respond(breaks, None) == ("INTERNAL", "ZeroDivisionError: the model goes on")
