"""Pillow reads and writes .ugic files, and the transcript in docs/ is what it does."""

from __future__ import annotations

import dataclasses
import doctest
import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

import ugicm.adapters.pillow as plugin
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.errors import ConditionError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def encoded(tmp_path: Path, codec: Codec, photograph: np.ndarray) -> Path:
    path = tmp_path / "photo.ugic"
    path.write_bytes(codec.encode(photograph, 2))
    return path


def test_what_the_codec_gives_is_what_pillow_shows(
    encoded: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded.read_bytes()
    with Image.open(encoded) as image:
        np.testing.assert_array_equal(np.asarray(image), codec.decode(data, "human"))
    machine = Image.open(encoded)
    machine.condition = "machine"
    np.testing.assert_array_equal(np.asarray(machine), codec.decode(data, "machine"))
    monkeypatch.setenv(plugin.VARIABLE, "0.25")
    quarter = Image.open(io.BytesIO(data))
    assert quarter.info["condition"] == 0.25
    np.testing.assert_array_equal(np.asarray(quarter), codec.decode(data, 0.25))


def test_opening_reads_the_header_alone(encoded: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded.read_bytes()
    asked: list[int] = []

    class Watched(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            asked.append(len(data) if size is None or size < 0 else size)
            return super().read(size)

    def fail(*_: object) -> None:
        raise AssertionError("nothing has asked for pixels yet")

    monkeypatch.setattr(Codec, "decode", fail)
    image = Image.open(Watched(data))
    assert sum(asked) < 64 < len(data)
    assert (image.size, image.mode, image.format) == ((192, 128), "RGB", "UGIC")
    assert image.get_format_mimetype() == "image/x-ugic"
    assert image.info == {
        "bpp": 8 * len(data) / (192 * 128),
        "codec_id": codec.codec_id.hex(),
        "quality": 2,
        "condition": "human",
    }


def test_saving_gives_the_codec_s_bytes(tmp_path: Path, codec: Codec, photograph: np.ndarray) -> None:
    image = Image.fromarray(photograph)
    path = tmp_path / "x.ugic"
    for arguments, quality in ({}, 4), ({"quality": 1}, 1), ({"bundle": codec.bundle.path}, 4):
        image.save(path, **arguments)
        assert path.read_bytes() == codec.encode(photograph, quality)
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "UGIC")
    assert buffer.getvalue() == codec.encode(np.array(image.convert("L").convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "I", "F", "LAB"])
def test_modes_that_lose_something_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.ugic"
    image = Image.merge("LAB", [Image.new("L", (9, 9))] * 3) if mode == "LAB" else Image.new(mode, (9, 9))
    with pytest.raises(OSError, match=f"cannot write mode {mode} as UGIC; convert it to RGB first"):
        image.save(path)
    assert not path.exists()


def test_faults_are_os_errors_with_one_line(tmp_path: Path, encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoded.read_bytes()
    bad = tmp_path / "bad.ugic"

    def fails(data: bytes, words: str, at_once: bool) -> None:
        bad.write_bytes(data)
        with pytest.raises(OSError, match=words) as caught:
            image = Image.open(bad)
            assert not at_once
            image.load()
        assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
        bad.unlink()  # nothing holds it open on systems where that matters

    fails(whole[:12], "ends before", True)
    fails(whole[:4] + b"\x09" + whole[5:], "format version 9", True)
    fails(whole[:13] + b"\0" + whole[14:], "quality 0", True)
    fails(whole[:-1], "ends before", False)
    fails(whole[:-9] + b"\0" + whole[-8:], "checksum", False)
    other = dataclasses.replace(bitstream.parse(whole), codec_id=bytes(8))
    fails(bitstream.pack(other), "no bundle with codec id", False)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"UGI"))
    monkeypatch.setenv(plugin.VARIABLE, "robot")
    with pytest.raises(OSError, match="UGICM_CONDITION: unknown condition 'robot'"):
        Image.open(encoded)


def test_a_header_that_claims_a_huge_image_is_pillow_s_bomb(encoded: Path) -> None:
    large = dataclasses.replace(bitstream.parse(encoded.read_bytes()), width=16384, height=16384)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(bitstream.pack(large)))


def test_the_condition_is_chosen_before_loading(encoded: Path) -> None:
    image = Image.open(encoded)
    for wrong in ("both", "robot", 2):
        with pytest.raises(ConditionError):
            image.condition = wrong
    image.condition = 1
    assert image.info["condition"] == 1.0
    image.load()
    with pytest.raises(ValueError, match="decoded already"):
        image.condition = "human"
    assert pickle.loads(pickle.dumps(image)).info["condition"] == 1.0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_opens_a_codec_of_its_own(encoded: Path) -> None:
    expected = Image.open(encoded).tobytes()
    child = os.fork()
    if not child:
        os._exit(0 if Image.open(encoded).tobytes() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_transcript_is_what_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the numbers, which are those of one codec."""
    from skimage import data

    Image.fromarray(data.astronaut()).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)

    class Words(doctest.OutputChecker):
        def check_output(self, want: str, got: str, flags: int) -> bool:
            def words(text: str) -> str:
                return re.sub(r"'[0-9a-f]{16}'|\d+(\.\d+)?", "N", text)

            return super().check_output(words(want), words(got), flags)

    text = (ROOT / "docs" / "transcripts" / "pillow.txt").read_text(encoding="utf-8")
    test = doctest.DocTestParser().get_doctest(text, {}, "pillow.txt", "pillow.txt", 0)
    out: list[str] = []
    done = doctest.DocTestRunner(Words(), optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(test, out=out.append)
    assert done.attempted > 15 and not done.failed, "".join(out)
    assert np.asarray(Image.open("human.png")).shape == (512, 512, 3)
