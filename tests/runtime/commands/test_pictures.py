"""What a picture holds besides its pixels, through the command lines; standard input and output; `--version`."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ugicm
from tests.runtime.files.makers import png
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import main
from ugicm.runtime.files import profiles, sections
from ugicm.runtime.files.picture import read_picture

ROOT = Path(__file__).parents[3]
P3 = profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)


def exif(orientation: int = 1) -> Image.Exif:
    block = Image.Exif()
    block[271], block[274] = "A maker", orientation
    block[0x8769] = {0x9003: "2024:05:06 07:08:09", 0x927C: bytes(9000)}
    return block


@pytest.fixture
def glass(tmp_path: Path, photograph: np.ndarray) -> Path:
    """RGBA, EXIF with orientation 6, Display P3."""
    alpha = np.full(photograph.shape[:2], 255, np.uint8)
    alpha[:40] = 0
    alpha[40:80] = np.arange(192)
    path = tmp_path / "glass.png"
    Image.fromarray(np.dstack([photograph, alpha])).save(path, exif=exif(6), icc_profile=P3)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr()


def test_transparency_exif_and_profile_go_there_and_back(
    tmp_path: Path, glass: Path, codec: Codec, capsys: pytest.CaptureFixture[str]
) -> None:
    file, back = tmp_path / "x.ugic", tmp_path / "back.png"
    for keep in (False, True):
        words, _ = run(capsys, "encode", glass, "-o", file, *["--keep-profile"] * keep)
        source = read_picture(glass, keep_profile=keep)
        stream = bitstream.parse(file.read_bytes())
        held = sections.sizes(stream)
        assert list(held) == ["transparency", *["ICC profile"] * keep, "EXIF"] and held["EXIF"] < 300
        assert all(f"{name} {size:,} bytes" in words for name, size in held.items())
        assert (stream.width, stream.height) == (128, 192)
        plain = codec.encode(source.pixels)
        assert len(file.read_bytes()) == len(plain) + sum(held.values()) + 2
        facts = json.loads(run(capsys, "info", file, "--json")[0])
        assert facts["sections"] == held and facts["version"] == 2
        text = run(capsys, "info", file)[0]
        assert all(name in text for name in held)
        run(capsys, "decode", file, "-o", back)
        with Image.open(back) as image:
            assert image.mode == "RGBA" and image.size == (128, 192)
            assert image.getexif()[271] == "A maker" and 274 not in image.getexif()
            assert image.info.get("icc_profile") == (P3 if keep else None)
            np.testing.assert_array_equal(np.asarray(image)[..., 3], source.alpha)
            np.testing.assert_array_equal(np.asarray(image)[..., :3], codec.decode(plain))


def test_strip_and_opaque(tmp_path: Path, glass: Path, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.ugic"
    run(capsys, "encode", glass, "-o", file, "--strip")
    assert list(sections.sizes(bitstream.parse(file.read_bytes()))) == ["transparency"]
    _, words = run(capsys, "encode", glass, "-o", file, "--strip", "--opaque")
    assert "transparency composited on white" in words
    assert file.read_bytes() == codec.encode(read_picture(glass).on_white())
    run(capsys, "encode", glass, "-o", file)
    _, words = run(capsys, "decode", file, "-o", tmp_path / "x.jpg")
    assert "transparency composited on white" in words
    with Image.open(tmp_path / "x.jpg") as image:
        assert image.getexif()[271] == "A maker" and min(image.getpixel((120, 100))) > 230


def test_a_photo_without_metadata_is_not_a_byte_longer(
    tmp_path: Path, codec: Codec, photograph: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.ugic"
    srgb = profiles.make_profile("sRGB", profiles.BT709, profiles.SRGB_CURVE)
    opaque = np.dstack([photograph, np.full(photograph.shape[:2], 255, np.uint8)])
    for pixels, options in ((photograph, {}), (photograph, {"icc_profile": srgb}), (opaque, {"exif": exif(1)})):
        path = tmp_path / "photo.png"
        Image.fromarray(pixels).save(path, **options)
        strip = ["--strip"] if "exif" in options else []
        run(capsys, "encode", path, "-o", file, *strip)
        assert file.read_bytes() == codec.encode(photograph) and file.read_bytes()[4] == 1


def test_metadata_in_folders_is_counted(tmp_path: Path, glass: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    glass.rename(tmp_path / "in" / "glass.png")
    words, _ = run(capsys, "encode", tmp_path / "in", "-o", tmp_path / "out", "--jobs", "1")
    held = sections.sizes(bitstream.parse((tmp_path / "out" / "glass.ugic").read_bytes()))
    assert f"{sum(held.values()):,}" in words and "of them metadata and transparency" in words
    run(capsys, "decode", tmp_path / "out", "-o", tmp_path / "back", "--jobs", "1", "--format", "webp", "-c", "both")
    for view in ("human", "machine"):
        with Image.open(tmp_path / "back" / f"glass.{view}.webp") as image:
            assert image.mode == "RGBA" and image.getexif()[271] == "A maker"


def test_standard_input_and_output(tmp_path: Path, photograph: np.ndarray, codec: Codec) -> None:
    picture = png(photograph)

    def ugicm(*arguments: str, data: bytes = b"", status: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "ugicm", *arguments], cwd=tmp_path, input=data, capture_output=True, check=False,
            env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        )  # fmt: skip
        assert done.returncode == status, done.stderr
        return done

    expected = codec.encode(photograph)
    done = ugicm("encode", "-", "-o", "-", data=picture)
    assert done.stdout == expected and done.stderr.startswith(b"- -> -  ")
    view = ugicm("decode", "-", "-o", "-", "--format", "ppm", data=expected)
    with Image.open(io.BytesIO(view.stdout)) as image:
        assert image.format == "PPM"
        np.testing.assert_array_equal(np.asarray(image), codec.decode(expected))
    assert ugicm("encode", "-", "-o", "out/", data=picture).stderr == b""
    assert (tmp_path / "out" / "stdin.ugic").read_bytes() == expected
    assert b"is empty" in ugicm("encode", "-", "-o", "-", status=2).stderr
    assert b"is not a .ugic file" in ugicm("decode", "-", "-o", "-", data=b"nothing", status=2).stderr
    for arguments in (["decode", "-", "-o", "-", "-c", "both"], ["encode", "-", "x.png", "-o", "-"]):
        assert b"standard output holds one result" in ugicm(*arguments, status=2).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_one_line(photograph: np.ndarray) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ugicm", "encode", "-", "-o", "-"],
            cwd=ROOT, input=png(photograph), stdout=full, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert done.stderr.startswith(b"error: -: standard output cannot be written: No space left")


def test_a_file_may_be_called_a_dash(
    tmp_path: Path, photograph: np.ndarray, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("./-").write_bytes(png(photograph))
    run(capsys, "encode", "./-", "-o", "x.ugic")
    assert Path("x.ugic").exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--version", "-V"):
        assert run(capsys, word)[0] == f"ugicm {ugicm.__version__}\n"


def test_the_format_of_outputs(tmp_path: Path, photograph: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(png(photograph))
    run(capsys, "encode", tmp_path / "x.png", "-o", tmp_path / "x.ugic", "--preserve")
    assert (tmp_path / "x.ugic").stat().st_mtime_ns == (tmp_path / "x.png").stat().st_mtime_ns
    for form, out, words in (("pdf", "y/", "cannot|can be written"), ("webp", "y.png", "leave --format out")):
        assert main(["decode", str(tmp_path / "x.ugic"), "-o", str(tmp_path / out), "--format", form]) == 2
        error = capsys.readouterr().err
        assert any(word in error for word in words.split("|")) and error.count("\n") == 1
