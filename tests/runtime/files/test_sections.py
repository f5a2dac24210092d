"""What travels beside the symbols: there and back, into every format, and refused where it is not what it says."""

from __future__ import annotations

import dataclasses
import io
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from tests.runtime.files.makers import png
from ugicm.runtime import additions, bitstream
from ugicm.runtime.additions import Section
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.encoder import container
from ugicm.runtime.errors import CorruptFileError, UgicError
from ugicm.runtime.files import profiles, sections
from ugicm.runtime.files.images import picture_bytes
from ugicm.runtime.files.picture import Picture, read_picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

STREAM = Bitstream(bytes(8), 1, 7, 5, b"z", (b"y",), 9)
P3 = profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)


def exif(orientation: int | None = None) -> bytes:
    block = Image.Exif()
    block[271] = "A maker"
    if orientation:
        block[274] = orientation
    return block.tobytes()[6:]


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))), st.booleans())
@settings(max_examples=60, deadline=None)
def test_opacity_goes_there_and_back(alpha: np.ndarray, binary: bool) -> None:
    alpha = np.where(alpha > 127, np.uint8(255), np.uint8(0)) if binary else alpha
    data = sections.encode_alpha(alpha)
    found = sections.decode_alpha(data, alpha.shape[1], alpha.shape[0], "x")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, alpha)


def test_a_picture_s_sections_go_there_and_back() -> None:
    alpha = np.arange(35, dtype=np.uint8).reshape(5, 7)
    picture = Picture(np.zeros((5, 7, 3), np.uint8), alpha, P3, exif(), b"<x/>")
    plain = container.pack(STREAM)
    data = sections.attach(plain, picture)
    stream = bitstream.parse(data)
    found = sections.extras_of(stream)
    np.testing.assert_array_equal(found.alpha, alpha)
    assert (found.icc, found.exif, found.xmp) == (P3, exif(), b"<x/>")
    held = sections.sizes(stream)
    assert list(held) == ["transparency", "ICC profile", "EXIF", "XMP"]
    assert sum(held.values()) + 2 == len(data) - len(plain)  # flags, and how many sections there are
    assert sections.attach(plain, Picture(picture.pixels)) is plain
    assert dataclasses.replace(stream, sections=()) == STREAM


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nothing",
        png(np.zeros((5, 8), np.uint8)),
        png(np.zeros((6, 7), np.uint8)),
        png(np.zeros((5, 7), np.uint16)),
        png(np.zeros((5, 7, 3), np.uint8)),
        png(np.zeros((5, 7), np.uint8), b"\0\0\0\0tEXt\0\0\0\0"),
        png(np.zeros((5, 7), np.uint8)) + b"x",
        png(np.zeros((5, 7), np.uint8))[:-1],
        png(np.zeros((5, 7), np.uint8))[:45],
    ],
)
def test_what_is_no_opacity_of_this_size_is_refused(data: bytes) -> None:
    stream = dataclasses.replace(STREAM, sections=(Section(additions.ALPHA, data),))
    with pytest.raises(CorruptFileError, match="x.ugic is damaged: its transparency"):
        sections.extras_of(bitstream.parse(container.pack(stream)), "x.ugic")


def test_a_plane_that_its_bytes_cannot_hold_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    small = png(np.zeros((5, 7), np.uint8))
    huge = small[:16] + (16384).to_bytes(4, "big") * 2 + small[24:]

    def fail(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(sections, "open_header", fail)
    with pytest.raises(CorruptFileError):
        sections.decode_alpha(huge, 16384, 16384, "x")


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_damaged_opacity_ends_in_an_error_or_a_plane(data: st.DataObject) -> None:
    whole = bytearray(sections.encode_alpha(np.arange(99, dtype=np.uint8).reshape(9, 11)))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(UgicError):
        assert sections.decode_alpha(bytes(whole), 11, 9, "x").shape == (9, 11)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "AVIF", "JPEG", "JPEG2000", "QOI", "BMP", "PPM"])
def test_a_format_gets_what_it_can_hold(form: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((5, 7, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    alpha = np.full((5, 7), 255, np.uint8)
    alpha[:, :3] = 0
    xmp = "<x:xmpmeta xmlns:x='adobe:ns:meta/'>ü</x:xmpmeta>".encode()
    data = picture_bytes(Picture(pixels, alpha, P3, exif(6), xmp), form, Path("x"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == form and image.size == (5, 7)  # the orientation is applied
        if form in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG"):
            assert image.info["icc_profile"] == P3
            assert image.getexif()[271] == "A maker" and 274 not in image.getexif()
            found = image.info.get("xmp") or image.info["XML:com.adobe.xmp"].encode()
            assert found == xmp
            seen = np.asarray(image.convert("RGB"))[-1, 0]
            assert np.abs(seen - [200.0, 50, 50]).max() < 5
        else:
            seen = np.asarray(image.convert("RGB"))[-1, 0]
            assert np.abs(seen - [218.0, 33, 41]).max() <= 9
        if form in ("PNG", "WEBP", "TIFF", "AVIF", "JPEG2000", "QOI"):
            assert image.mode == "RGBA" and image.getpixel((0, 0))[3] < 5 and image.getpixel((0, 6))[3] > 250
        else:
            assert min(image.getpixel((0, 0))) > 250
    words = caplog.text
    assert ("composited on white" in words) == (form in ("JPEG", "BMP", "PPM"))
    assert ("EXIF and XMP dropped" in words) == (form in ("JPEG2000", "QOI", "BMP", "PPM"))
    assert ("converted to sRGB" in words) == (form in ("JPEG2000", "QOI", "BMP", "PPM"))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG", "AVIF"])
def test_metadata_that_a_format_refuses_does_not_cost_the_picture(form: str, caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    for block, xmp in (
        (b"junk", b"\xff\xfe"),
        (b"II*\0\x08\0\0\0\xff\xff", b"<"),
        (exif() + bytes(70000), b"<" * 70000),
    ):
        data = picture_bytes(Picture(pixels, exif=block, xmp=xmp), form, Path("x"))
        assert read_picture(data).pixels.shape == (5, 7, 3)
