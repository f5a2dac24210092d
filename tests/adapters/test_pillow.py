"""Pillow reads and writes .ugic files, and the transcript in docs/ is what it does."""

from __future__ import annotations

import copy
import dataclasses
import doctest
import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, ImageSequence, UnidentifiedImageError

import ugicm.adapters.pillow as plugin
from ugicm import Codec
from ugicm.adapters import opened
from ugicm.runtime.bitstream import parse
from ugicm.runtime.encoder.container import pack
from ugicm.runtime.errors import ConditionError
from ugicm.runtime.files import profiles, sections

ROOT = Path(__file__).parents[2]


@pytest.fixture
def encoded(tmp_path: Path, codec: Codec, photograph: np.ndarray) -> Path:
    path = tmp_path / "photo.ugic"
    path.write_bytes(codec.encode(photograph, 2))
    return path


def test_the_codec_s_pictures_are_shown(encoded: Path, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize(("mode", "words"), [("I", "32-bit pixels"), ("F", "floating-point pixels")])
def test_pixels_without_an_agreed_white_are_refused(tmp_path: Path, mode: str, words: str) -> None:
    path = tmp_path / "x.ugic"
    with pytest.raises(OSError, match=f"cannot write mode {mode} as UGIC: {words}"):
        Image.new(mode, (9, 9)).save(path)
    assert not path.exists()


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I;16"]
)
def test_every_other_mode_is_saved_like_the_command_line_does(mode: str, codec: Codec, photograph: np.ndarray) -> None:
    image = Image.fromarray(photograph[:64, :64])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
        expected = np.asarray(Image.fromarray(photograph[:64, :64]).convert("L").convert("RGB"))
    else:
        image = Image.merge("LAB", image.split()) if mode == "LAB" else made(image, mode)
        expected = np.asarray(image.convert("RGBA" if mode == "PA" else "RGB"))[..., :3]
    buffer = io.BytesIO()
    image.save(buffer, "UGIC")
    assert buffer.getvalue() == codec.encode(np.array(expected))


def made(image: Image.Image, mode: str) -> Image.Image:
    if mode == "PA":
        return image.convert("P").convert("PA")
    return image.convert("RGBA").convert("RGBa") if mode == "RGBa" else image.convert(mode)


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
    other = dataclasses.replace(parse(whole), codec_id=bytes(8))
    fails(pack(other), "no bundle with codec id", False)
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"UGI"))
    monkeypatch.setenv(plugin.VARIABLE, "robot")
    with pytest.raises(OSError, match="UGICM_CONDITION: unknown condition 'robot'"):
        Image.open(encoded)


def test_a_header_that_claims_a_huge_image_is_pillow_s_bomb(encoded: Path) -> None:
    large = dataclasses.replace(parse(encoded.read_bytes()), width=16384, height=16384)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(pack(large)))


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


def glass(photograph: np.ndarray) -> Image.Image:
    alpha = np.arange(photograph.shape[0] * photograph.shape[1]) % 256
    return Image.fromarray(np.dstack([photograph, alpha.reshape(photograph.shape[:2]).astype(np.uint8)]))


def exif_block(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[271], block[274] = "A maker", orientation
    return block


def saved(image: Image.Image, form: str = "UGIC", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


P3 = profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)
SRGB = profiles.make_profile("sRGB", profiles.BT709, profiles.SRGB_CURVE)


def test_transparency_profile_and_metadata_go_there_and_back(photograph: np.ndarray, codec: Codec) -> None:
    image = glass(photograph)
    data = saved(image, exif=exif_block(6), icc_profile=P3, xmp=b"<x/>")
    stream = parse(data)
    pixels = np.array(photograph)
    pixels[np.asarray(image)[..., 3] == 0] = 255
    assert len(data) == len(codec.encode(pixels)) + sum(sections.sizes(stream).values()) + 2
    back = Image.open(io.BytesIO(data))
    assert (back.mode, back.size) == ("RGBA", image.size)
    assert back.info["icc_profile"] == P3 and back.info["xmp"] == b"<x/>"
    assert dict(back.getexif()) == {271: "A maker", 274: 6}
    np.testing.assert_array_equal(np.asarray(back)[..., 3], np.asarray(image)[..., 3])
    np.testing.assert_array_equal(np.asarray(back)[..., :3], codec.decode(data))
    again = Image.open(io.BytesIO(saved(back)))  # what an image has is kept without being named
    assert again.info["icc_profile"] == P3 and again.getexif()[274] == 6 and again.info["xmp"] == b"<x/>"
    bare = saved(back, exif=b"", icc_profile=None, xmp=None)
    assert list(sections.sizes(parse(bare))) == ["transparency"]


def test_a_photo_s_orientation_is_seen_and_srgb_costs_nothing(photograph: np.ndarray, codec: Codec) -> None:
    jpeg = saved(Image.fromarray(photograph), "JPEG", exif=exif_block(6), icc_profile=SRGB)
    source = Image.open(io.BytesIO(jpeg))
    data = saved(source)
    assert list(sections.sizes(parse(data))) == ["EXIF"]
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert turned.size == ImageOps.exif_transpose(source).size == (128, 192)
    assert saved(ImageOps.exif_transpose(source), exif=b"")[4] == 1


def test_profiles_of_other_pixels_are_applied_or_left_out() -> None:
    grey = Image.new("L", (8, 8), 128)
    for icc in (b"nothing", P3[:16] + b"GRAY" + P3[20:], P3[:150]):
        grey.info["icc_profile"] = icc
        reopened = Image.open(io.BytesIO(saved(grey)))
        assert "icc_profile" not in reopened.info and abs(reopened.getpixel((4, 4))[0] - 128) < 9
    with pytest.raises(OSError, match="at most 16777216 are allowed"):
        saved(grey, xmp=bytes((1 << 24) + 1))


def outcomes(form: str, image: Image.Image, folder: Path) -> dict[str, object]:
    """How many things that people do with images end, for one format."""
    data = saved(image, form, exif=exif_block(6), icc_profile=P3, **({} if form == "UGIC" else {"lossless": True}))
    path = folder / f"x.{form.lower()}"
    path.write_bytes(data)
    found: dict[str, object] = {}

    def attempt(name: str, call: Callable[[], object]) -> None:
        try:
            found[name] = call()
        except Exception as error:
            found[name] = type(error).__name__

    def opened() -> Image.Image:
        return Image.open(io.BytesIO(data))

    def closed(before: bool) -> Image.Image:
        image = Image.open(path)
        if before:
            image.load()
        image.close()
        return image

    def left(before: bool) -> Image.Image:
        with Image.open(path) as inside:
            if before:
                inside.load()
        return inside

    def parsed(size: int, end: int | None = None) -> object:
        parser = ImageFile.Parser()
        for at in range(0, len(data[:end]), size):
            parser.feed(data[:end][at : at + size])
        whole = parser.close()
        return whole.size, whole.mode

    def verified(what: bytes) -> object:
        checked = Image.open(io.BytesIO(what))
        checked.verify()
        return bool(checked.load())

    def replaced() -> object:
        copy = folder / f"copy.{form.lower()}"
        copy.write_bytes(data)
        lazy = Image.open(copy)
        (folder / "other").write_bytes(saved(Image.new("RGB", (3, 3)), form))
        os.replace(folder / "other", copy)
        return np.asarray(lazy).shape

    def thumbnail() -> object:
        small = opened()
        small.thumbnail((40, 40))
        return small.size, small.mode

    attempt("size and mode", lambda: (opened().size, opened().mode))
    attempt("profile", lambda: opened().info["icc_profile"])
    attempt("orientation", lambda: opened().getexif()[274])
    attempt("exif in info", lambda: opened().info["exif"][:6])
    attempt("upright", lambda: ImageOps.exif_transpose(opened()).size)
    attempt("frames", lambda: (opened().n_frames, opened().is_animated, opened().tell()))
    attempt("seek 0", lambda: opened().seek(0))
    attempt("seek 1", lambda: opened().seek(1))
    attempt("seek -1", lambda: opened().seek(-1))
    attempt("pixel", lambda: len(opened().getpixel((3, 3))))
    attempt("pixel outside", lambda: opened().getpixel((1000, 3)))
    attempt("load after close", lambda: closed(False).load())
    attempt("size after close", lambda: closed(False).size)
    attempt("pixel after load and close", lambda: len(closed(True).getpixel((3, 3))))
    attempt("pixel after load and with", lambda: len(left(True).getpixel((3, 3))))
    attempt("load after with", lambda: bool(left(False).load()))
    attempt("close twice", lambda: closed(True).close())
    attempt("copy after close", lambda: closed(False).copy())
    attempt("parser", lambda: parsed(100))
    attempt("parser at once", lambda: parsed(len(data)))
    attempt("parser cut short", lambda: parsed(100, len(data) - 7))
    attempt("parser of nothing", lambda: parsed(100, 3))
    attempt("verify, then load", lambda: verified(data))
    attempt("replaced before load", replaced)
    attempt("thumbnail", thumbnail)
    attempt("draft", lambda: opened().draft("L", (9, 9)))
    attempt("copy", lambda: (opened().copy().mode, opened().copy().format))
    attempt("pickle", lambda: pickle.loads(pickle.dumps(opened())).size)
    attempt("deepcopy", lambda: copy.deepcopy(opened()).mode)
    attempt("equal", lambda: opened() == opened())
    attempt("grey", lambda: opened().convert("L").mode)
    attempt("bands", lambda: opened().getbands())
    attempt("array", lambda: np.asarray(opened()).shape)
    attempt("writable", lambda: opened().putpixel((0, 0), (1, 2, 3, 4)))
    attempt("channels", lambda: opened().getchannel("A").size)
    attempt("sequence", lambda: len(list(ImageSequence.Iterator(opened()))))
    attempt("load twice", lambda: [bool(i.load()) for i in [opened()] for _ in range(2)])
    attempt("no mode", lambda: saved(Image.new("F", (2, 2)), form) and "saved")
    attempt("onto a text stream", lambda: Image.open(io.StringIO("x")))
    attempt("mime", lambda: opened().get_format_mimetype().startswith("image/"))
    return found


def test_pillow_s_own_formats_do_the_same(tmp_path: Path, photograph: np.ndarray) -> None:
    """What is done with a WebP file ends in the same way with a .ugic file."""
    ours, theirs = (outcomes(form, glass(photograph[:64, :96]), tmp_path) for form in ("UGIC", "WEBP"))
    different = {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}
    # WebP is read whole when it is opened, and takes floats for something.
    assert different == {
        "load after with": ("ValueError", True),
        "verify, then load": ("ValueError", True),
        "no mode": ("OSError", "saved"),
    }
    assert theirs["load after close"] == "ValueError" and theirs["seek 1"] == "EOFError"


def test_verify_checks_the_checksum(encoded: Path, photograph: np.ndarray) -> None:
    for whole in (encoded.read_bytes(), saved(glass(photograph))):
        Image.open(io.BytesIO(whole)).verify()
        for at in (40, len(whole) - 6):
            bad = bytearray(whole)
            bad[at] ^= 1
            with pytest.raises(OSError, match="damaged|ends before|changes the picture"):
                Image.open(io.BytesIO(bytes(bad))).verify()
    image = Image.open(io.BytesIO(whole))
    image.load()
    with pytest.raises(RuntimeError, match="directly after open"):
        image.verify()


def test_a_file_that_is_written_over_before_it_is_loaded(tmp_path: Path, photograph: np.ndarray) -> None:
    path = tmp_path / "x.ugic"
    path.write_bytes(saved(Image.fromarray(photograph)))
    lazy = Image.open(path)
    path.write_bytes(saved(Image.fromarray(photograph[:64, :64])))
    with pytest.raises(OSError, match="changed since it was opened"):
        lazy.load()


def test_threads_are_those_of_the_environment(encoded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = Codec.from_bundle

    def remember(*arguments: object, **options: object) -> Codec:
        asked.append(options.get("threads"))
        return real(*arguments, **{**options, "threads": 1})

    monkeypatch.setattr(Codec, "from_bundle", remember)
    monkeypatch.setenv(opened.THREADS, "3")
    Image.open(encoded).load()
    assert asked == [3]
    monkeypatch.setenv(opened.THREADS, "many")
    with pytest.raises(OSError, match="UGICM_THREADS: 'many' is no number of threads"):
        Image.open(encoded).load()


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
