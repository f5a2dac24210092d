"""Metadata of pictures: found, kept where it still holds, left out where it says how a file was stored."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

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


def test_iptc_and_extended_xmp_are_not_dropped_silently() -> None:
    caption = b"\x1c\x02\x78\x00\x05hello"
    resource = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + len(caption).to_bytes(4, "big") + caption
    name = b"0123456789ABCDEF0123456789ABCDEF"
    xmp = b'<x:xmpmeta><rdf:Description dc:t="a" xmpNote:HasExtendedXMP="' + name + b'"/></x:xmpmeta>'
    buffer = io.BytesIO()
    Image.new("RGB", (24, 24), "red").save(buffer, "JPEG", xmp=xmp)
    plain = buffer.getvalue()
    app13 = b"\xff\xed" + (len(resource) + 2).to_bytes(2, "big") + resource
    picture = read_picture(plain[:2] + app13 + plain[2:])
    assert picture.notes == ("its IPTC block is dropped", "its extended XMP is dropped")
    assert picture.xmp == b'<x:xmpmeta><rdf:Description dc:t="a"/></x:xmpmeta>'
    buffer = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[33723] = caption
    info.tagtype[33723] = 7
    Image.new("RGB", (24, 24), "red").save(buffer, "TIFF", tiffinfo=info)
    assert read_picture(buffer.getvalue()).notes == ("its IPTC block is dropped",)


def cmyk_profile() -> bytes:
    """A printer's profile (ICC.1:2010, lut8Type) of two points for each ink."""
    entries = []
    for number in range(16):  # the first channel changes slowest
        c, m, y, k = (number >> 3 & 1, number >> 2 & 1, number >> 1 & 1, number & 1)
        light = max(0, 100 - 15 * c - 25 * m - 5 * y - 100 * k)
        entries += [round(light * 2.55), 128 + (-40 * c + 80 * m) * (1 - k), 128 + (-60 * c + 90 * y) * (1 - k)]
    ramp = bytes(range(256))
    identity = b"".join(int(65536 * (i % 4 == 0)).to_bytes(4, "big") for i in range(9))
    table = b"mft1\0\0\0\0\x04\x03\x02\0" + identity + ramp * 4 + bytes(entries) + ramp * 3
    white = b"XYZ \0\0\0\0" + b"".join(round(v * 65536).to_bytes(4, "big") for v in (0.9642, 1, 0.8249))
    text = b"text\0\0\0\0none\0\0\0\0"
    name = b"desc\0\0\0\0\0\0\0\5inks\0" + bytes(78)
    bodies = {b"desc": name, b"cprt": text, b"wtpt": white, b"A2B0": table}
    at, tags, data = 132 + 12 * len(bodies), b"", b""
    for tag, body in bodies.items():
        body += bytes(-len(body) % 4)
        tags += tag + at.to_bytes(4, "big") + len(body).to_bytes(4, "big")
        data, at = data + body, at + len(body)
    head = bytearray(128)
    head[:4], head[8:12], head[12:24], head[36:40] = at.to_bytes(4, "big"), b"\2\x10\0\0", b"prtrCMYKLab ", b"acsp"
    head[68:80] = white[8:]
    return bytes(head) + len(bodies).to_bytes(4, "big") + tags + data


def test_inks_are_converted_by_their_profile() -> None:
    """Little CMS' own answer within 2 levels, and another picture than without the profile."""
    inks = Image.new("CMYK", (16, 8), (200, 30, 0, 10))
    inks.paste((0, 120, 255, 0), (8, 0, 16, 8))
    profile = cmyk_profile()
    expected = ImageCms.profileToProfile(
        inks, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    for form in ("TIFF", "JPEG"):
        buffer = io.BytesIO()
        inks.save(buffer, form, icc_profile=profile, **({"quality": 100} if form == "JPEG" else {}))
        picture = read_picture(buffer.getvalue())
        assert "colour profile converted to sRGB" in picture.notes and picture.icc is None, picture.notes
        for column in (2, 13):
            found, wanted = picture.pixels[4, column].astype(int), np.asarray(expected)[4, column]
            assert np.abs(found - wanted).max() <= 2, (form, found, wanted)
            assert np.abs(found - np.asarray(inks.convert("RGB"))[4, column]).max() > 10


PRINTERS = sorted(Path("/usr/share/color/icc/ghostscript").glob("*cmyk.icc"))


@pytest.mark.skipif(not PRINTERS, reason="no CMYK profiles of Ghostscript's here (Debian: libgs9-common)")
@pytest.mark.parametrize("form", ["TIFF", "JPEG"])
def test_inks_of_real_profiles(form: str) -> None:
    inks = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 4), np.uint8), "CMYK")
    inks = inks.resize((64, 48), Image.Resampling.NEAREST)
    for path in PRINTERS:
        buffer, profile = io.BytesIO(), path.read_bytes()
        inks.save(buffer, form, icc_profile=profile)
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        stored = Image.open(io.BytesIO(buffer.getvalue()))
        expected = ImageCms.profileToProfile(stored, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        np.testing.assert_array_equal(read_picture(buffer.getvalue()).pixels, np.asarray(expected))
