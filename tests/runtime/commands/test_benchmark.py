"""The benchmark measures what it says; its figures are a machine's own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.commands import benchmark
from ugicm.runtime.errors import BackendError, UgicError
from ugicm.runtime.files.images import write_image
from ugicm.runtime.measures.latency import STAGES
from ugicm.runtime.measures.latents import latents
from ugicm.runtime.measures.pictures import generated_image
from ugicm.runtime.measures.scaling import one_size
from ugicm.runtime.measures.throughput import throughput
from ugicm.runtime.processes.pool import alone


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(2):
        write_image(tmp_path / f"{i}.png", generated_image(60, 90, i))
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_json_has_every_stage_of_a_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(folder), "--repeat", "3", "--threads", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    stages = found["latency ms"]
    assert {name.split(" (")[0] for name in stages} == set(STAGES) - {"stages"}  # of codecs with context alone
    assert found["images"] == 2 and found["megapixels"] == pytest.approx(0.0108)
    for latency in stages.values():
        assert latency["count"] == 6
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
    parts = sum(stages[name]["mean"] for name in stages if name == "g_s" or name.endswith("(decode)"))
    assert parts < stages["decode"]["mean"]
    assert 0 < found["entropy / decode"] < 1 and 0 < found["entropy / encode"] < 1
    assert found["peak MB"] > 30 and found["both views / one"] > 0.5
    assert found["coder"]["sparse symbols"]["symbols"] == 491_520


def test_the_table_explains_each_stage(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(folder), "--repeat", "1", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert "what it does" in text and "images/s" in text and "ns a symbol" in text and "peak memory" in text


def test_scaling_measures_each_size_in_a_process_of_its_own() -> None:
    found = alone(one_size, None, 0.02, 4, 1, 2)
    assert found["megapixels"] == 192 * 128 / 1e6  # the nearest in whole strides
    assert found["peak MB"] >= found["before MB"] > 30
    assert found["decode ms/MP"] > 0 and found["first decode ms/MP"] > 0


def test_workers_decode_every_file(codec: Codec) -> None:
    assert throughput(None, [codec.encode(generated_image(40, 40))], 1, 2) > 0


def test_a_worker_that_cannot_decode_is_an_error(codec: Codec) -> None:
    with pytest.raises(UgicError):
        throughput(None, [b"nonsense"], 1, 2)
    with pytest.raises(BackendError, match="a worker process failed"):
        throughput(None, [None], 1, 1)  # type: ignore[list-item]


def test_latents_are_what_a_file_holds(codec: Codec) -> None:
    symbols, rows = latents(codec, generated_image(64, 64), 4)
    assert symbols.dtype == np.int32 and symbols.shape == rows.shape == (symbols.size,)
    assert symbols.any() and rows.max() < codec.bundle.y_tables.rows


def test_the_generated_image_is_like_a_photograph(codec: Codec) -> None:
    """Neighbours are alike, and the codec spends a photograph's bits on it."""
    image = generated_image(256, 384)
    assert image.shape == (256, 384, 3) and image.std() > 20
    left, right = image[:, :-1].astype(float).ravel(), image[:, 1:].astype(float).ravel()
    assert np.corrcoef(left, right)[0, 1] > 0.8
    assert np.array_equal(image, generated_image(256, 384))
    assert 0.1 < len(codec.encode(image, 4)) * 8 / (256 * 384) < 3


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no such folder"),
        (["--repeat", "0"], "at least 1"),
        (["-q", "99"], "quality 99"),
        (["--size", "9"], "WIDTHxHEIGHT"),
        (["--threads", "1000"], "1000 threads: give 1 to"),
        (["--workers", "100000", "--repeat", "1", "--size", "64x64", "--threads", "1"], "at most 1024"),
    ],
)
def test_misuse_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_folder_without_images_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main([str(tmp_path)]) == 2
    assert "holds no images" in capsys.readouterr().err
