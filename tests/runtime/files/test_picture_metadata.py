"""Metadata of pictures: found, kept where it still holds, left out where it says how a file was stored."""

from __future__ import annotations

import io

import pytest
from PIL import Image, TiffImagePlugin

from ugicm.runtime.files.picture import read_picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def test_metadata_that_still_holds_is_kept() -> None:
    block = Image.Exif()
    block[271], block[274], block[700] = "A maker", 6, b"<x/>"
    block[0x8769] = {0x927C: b"\0secret notes" * 2000, 0xA002: 40, 0xA003: 24, 0x9003: "2024:05:06 07:08:09"}
    block[0x8825] = {1: "N", 2: (51.0, 30.0, 0.0)}
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6" dc:t="a"/></x:xmpmeta>'
    buffer = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(buffer, "JPEG", exif=block, xmp=xmp)
    picture = read_picture(buffer.getvalue())
    assert picture.pixels.shape == (40, 24, 3)
    assert picture.exif is not None and len(picture.exif) < 400
    kept = Image.Exif()
    kept.load(picture.exif)
    assert kept[271] == "A maker" and 274 not in kept and 700 not in kept
    private = kept.get_ifd(0x8769)
    assert private[0x9003] == "2024:05:06 07:08:09" and (private[0xA002], private[0xA003]) == (24, 40)
    assert 0x927C not in private and kept.get_ifd(0x8825)[1] == "N"
    assert picture.xmp == xmp.replace(b' tiff:Orientation="6"', b"")


def test_how_a_file_was_stored_is_no_metadata() -> None:
    buffer = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    Image.new("RGB", (40, 24), "red").save(buffer, "TIFF", compression="tiff_lzw", tiffinfo=info, dpi=(300, 300))
    assert read_picture(buffer.getvalue()).exif is None


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF"])
def test_metadata_is_found_in_every_format(form: str) -> None:
    block = Image.Exif()
    block[271] = "A maker"
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), "red").save(buffer, form, exif=block.tobytes())
    picture = read_picture(buffer.getvalue())
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert kept[271] == "A maker"
