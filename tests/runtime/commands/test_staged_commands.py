"""Codecs with context behind every command: measured, reported, told, in folders, through Pillow, in INT8."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ugicm import Codec
from ugicm.calibration.int8 import command as int8
from ugicm.runtime import bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands.cli import main
from ugicm.runtime.commands.report.measures import latent_bits
from ugicm.runtime.files.images import write_image
from ugicm.runtime.measures.held import held
from ugicm.runtime.measures.metrics import psnr


@pytest.fixture(scope="module")
def bundle(staged_checkpoint: Path) -> Path:
    return staged_checkpoint.with_name("bundle")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray) -> Path:
    """A folder of two small pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(2):
        write_image(folder / f"{i}.png", np.ascontiguousarray(photograph[:, 32 * i : 32 * i + 100]))
    return folder


def test_bits_add_up_to_the_file(staged: Codec, photograph: np.ndarray) -> None:
    data = staged.encode(photograph)
    found, bits, stream = held(staged, data), latent_bits(staged, data), bitstream.parse(data)
    assert bitstream.symbol_checksum(found.z, found.y) == stream.symbol_checksum
    assert len(np.unique(found.y_rows)) > 5 and 0 < bits.guards == found.guards < 0.01 * 8 * len(data)
    payload = 8 * (len(stream.z) + len(stream.y[0]))
    assert 0 <= payload - bits.y.sum() - bits.z.sum() - bits.guards < 130  # what ends two substreams


def test_a_benchmark_times_stages_and_coder(bundle: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["benchmark", str(pictures), "--bundle", str(bundle), "--threads", "1", "--repeat", "1"]
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["quality"] == 1 and {"stages (encode)", "stages (decode)"} <= found["latency ms"].keys()
    assert main(arguments) == 0
    assert "stages (decode)" in capsys.readouterr().out


def test_info_tells_stages_band_and_cost(bundle: Path, staged: Codec, photograph: np.ndarray, tmp_path: Path) -> None:
    from ugicm.runtime.commands.info import describe, describe_bundle

    (tmp_path / "x.ugic").write_bytes(staged.encode(photograph))
    whole, one = describe_bundle(bundle), describe(tmp_path / "x.ugic", [bundle])
    assert whole["guards"] == one["guards"] and len(whole["schedule"]["stages"]) == 2
    count = whole["latent_channels"] * 8 * 12
    expected, measured = count * one["guards"]["bits_a_latent"], latent_bits(staged, staged.encode(photograph)).guards
    assert measured < 3 * expected + 20  # one picture of one block a stage


def test_a_report_shows_stages_and_guards(bundle: Path, pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(pictures / "0.png"), "-o", str(page), "--bundle", str(bundle), "--threads", "1"]) == 0
    text = page.read_text()
    assert "shifts of guarded rounding" in text and "stages" in text


def test_folders_and_pillow_give_the_codecs_pictures(
    bundle: Path, staged: Codec, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ugicm.adapters.pillow  # noqa: F401

    files, decoded = tmp_path / "files", tmp_path / "decoded"
    options = ["--bundle", str(bundle), "--jobs", "1"]
    assert main(["encode", str(pictures), "-o", str(files), *options]) == 0
    assert main(["decode", str(files), "-o", str(decoded), *options]) == 0
    monkeypatch.setenv("UGICM_BUNDLES", str(bundle))
    for i in range(2):
        expected = staged.decode((files / f"{i}.ugic").read_bytes()).astype(int)
        for found in (Image.open(decoded / f"{i}.png"), Image.open(files / f"{i}.ugic")):
            assert np.abs(np.asarray(found.convert("RGB")).astype(int) - expected).max() <= 1


def test_int8_transforms_read_and_write_the_same_symbols(
    bundle: Path, staged: Codec, pictures: Path, photograph: np.ndarray, tmp_path: Path
) -> None:
    arguments = [str(bundle), str(pictures), "-o", str(tmp_path / "out"), "--size", "64", "--threads", "1"]
    assert int8.main([*arguments, "--tolerance", "0.5", "--repeat", "0"]) == 0
    result = Bundle.open(tmp_path / "out")
    floats, integers = staged.bundle.manifest, result.manifest
    assert integers.precision == "int8" and integers.codec_id == floats.codec_id
    assert integers.schedule is not None and floats.schedule is not None
    for name in ("h_s", *floats.schedule.graphs):
        assert result.graph(name)[1] == staged.bundle.graph(name)[1]
    codec = Codec(result, staged.backend)
    data = staged.encode(photograph)
    assert np.array_equal(held(codec, data).y, held(staged, data).y)
    assert abs(psnr(photograph, codec.decode(data)) - psnr(photograph, staged.decode(data))) < 0.5
    assert staged.decode(codec.encode(photograph)).shape == photograph.shape
