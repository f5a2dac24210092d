"""Formats with habits of their own: where their profiles stand, depths that Pillow reduces, files that are not read."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from tests.runtime.files.test_picture import by_formula, profile
from ugicm.runtime.errors import ImageError
from ugicm.runtime.files.picture import read_picture

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def test_profiles_of_jpeg_2000_are_found() -> None:
    red = np.zeros((16, 16, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "JPEG2000")
    whole = buffer.getvalue()
    at = whole.index(b"colr") - 4
    old = whole[at : at + int.from_bytes(whole[at : at + 4], "big")]
    new = struct.pack(">I4sBBB", 11 + len(profile("P3")), b"colr", 2, 0, 0) + profile("P3")
    header = whole.index(b"jp2h") - 4
    longer = int.from_bytes(whole[header : header + 4], "big") + len(new) - len(old)
    file = whole[:header] + struct.pack(">I", longer) + whole[header + 4 :].replace(old, new)
    assert np.abs(read_picture(file).pixels - by_formula(red / 255, "P3")).max() <= 2


@pytest.mark.parametrize(("primaries", "transfer", "words"), [(9, 16, "PQ"), (12, 13, "H.273 colours"), (1, 13, "")])
def test_code_points_of_avif(primaries: int, transfer: int, words: str) -> None:
    red = np.zeros((16, 16, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(red).save(buffer, "AVIF", quality=100, subsampling="4:4:4", speed=10)
    at = buffer.getvalue().index(b"nclx") + 4
    file = buffer.getvalue()[:at] + struct.pack(">HH", primaries, transfer) + buffer.getvalue()[at + 4 :]
    picture = read_picture(file)
    assert words in ", ".join(picture.notes) and bool(words) == bool(picture.notes)
    if transfer == 13:
        expected = by_formula(red / 255, "P3" if primaries == 12 else "none")
        assert np.abs(picture.pixels - expected).max() <= 3


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (b"PF\n4 4\n-1.0\n", "floating-point"),
        (b"\x76\x2f\x31\x01", "OpenEXR"),
        (b"\xff\x0a", "JPEG XL"),
        (b"Pf\n4 4\n-1.0\n", "floating-point"),
    ],
)
def test_known_files_that_are_not_read_are_named(start: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        read_picture(start + bytes(400))


def test_depths_that_pillow_reduces_in_silence_have_a_word() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16), 40000, np.uint16)).save(buffer, "JPEG2000")
    assert "16 bits a channel reduced to 8" in read_picture(buffer.getvalue()).notes
