"""Pictures that are bombs, or are none: one command meets them all, in little memory."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from tests.attacks.commands import BUNDLE, refusals, tree, ugicm
from ugicm import Codec
from ugicm.runtime.errors import ImageError


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, idat: bytes, *more: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(more) + chunk(b"IDAT", idat) + chunk(b"IEND", b"")


def zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes << 20), 9)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("0.png", bytes(64 << 20))
    return buffer.getvalue()


def looping_tiff() -> bytes:
    """Its only directory names itself as the next."""
    data = bytearray(saved(Image.new("RGB", (4, 4)), "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * entries, first)
    return bytes(data)


def wide_tiff(mode: str, value: float) -> bytes:
    return saved(Image.fromarray(np.full((4, 4), value, np.float32 if mode == "F" else np.int32)), "TIFF")


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + head + bytes(100)


TINY = zlib.compress(bytes(13))
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "sides.png": (lambda: png(2**31 - 1, 2**31 - 1, TINY), "million"),
    "long.png": (lambda: png(70000, 1, TINY), "each side must be"),
    "area.png": (lambda: png(65535, 65535, TINY), "million"),
    "none.png": (lambda: png(0, 0, TINY), ""),
    "missing.png": (lambda: png(16384, 16384, TINY), ""),
    "colour.png": (lambda: png(2, 2, TINY, depth=3, colour=9), ""),
    "text.png": (
        lambda: png(2, 2, TINY, chunk(b"zTXt", b"a\0\0" + zeros(100)), chunk(b"iCCP", b"a\0\0" + zeros(100))),
        "damaged",
    ),
    "archive.png": (archive, "not an image"),
    "words.png": (lambda: b"<svg onload='x'/>" * 9, "not an image"),
    "left.bmp": (lambda: bmp(-5, 5), ""),
    "minimum.bmp": (lambda: bmp(5, -(2**31)), ""),
    "far.bmp": (lambda: bmp(2**31 - 1, 1), "each side must be"),
    "screen.gif": (lambda: b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",", ""),
    "vast.ppm": (lambda: b"P6 65000 65000 255\n" + bytes(99), "million"),
    "minus.ppm": (lambda: b"P6 -5 5 255\n" + bytes(99), ""),
    "digits.ppm": (lambda: b"P6 " + b"9" * 5000 + b" 1 255\n", ""),
    "wide.qoi": (lambda: b"qoif" + struct.pack(">IIBB", 2**32 - 1, 2**32 - 1, 3, 0) + bytes(9), ""),
    "nan.tiff": (lambda: wide_tiff("F", np.nan), "floating-point pixels"),
    "infinite.tiff": (lambda: wide_tiff("F", np.inf), "floating-point pixels"),
    "beyond.tiff": (lambda: b"II+\0\x08\0\0\0" + b"\xd9" * 40, ""),  # a directory at 2^63 and more
    "below.tiff": (lambda: wide_tiff("I", -1), "32-bit pixels"),
}
TAKEN: dict[str, Callable[[], bytes]] = {
    "overlong.png": lambda: png(2, 2, zeros(200)),  # more pixel data than the header has pixels
    "loop.tiff": looping_tiff,
    "frames.gif": lambda: saved(
        Image.new("P", (3, 3)), "GIF", save_all=True, append_images=[Image.new("P", (3, 3), i % 9) for i in range(2000)]
    ),
    "cmyk.jpg": lambda: saved(Image.new("CMYK", (9, 9), (1, 2, 3, 4)), "JPEG"),
    "deep.png": lambda: saved(Image.fromarray(np.full((9, 9), 40000, np.uint16)), "PNG"),
    "palette.png": lambda: saved(Image.new("P", (9, 9), 7), "PNG"),
}


def test_every_bomb_is_one_line_and_the_others_are_pictures(tmp_path: Path) -> None:
    for name, (make, _) in REFUSED.items():
        (tmp_path / name).write_bytes(make())
    for name, taken in TAKEN.items():
        (tmp_path / name).write_bytes(taken())
    before = tree(tmp_path)
    done = ugicm(tmp_path, "encode", *REFUSED, *TAKEN, "-o", "out/", "--bundle", BUNDLE, "-q", "1", memory_mb=3000)
    lines = {line.split(":")[1].strip(): line for line in refusals(done)}
    assert set(lines) == set(REFUSED), done.stderr
    for name, (_, words) in REFUSED.items():
        assert words in lines[name], lines[name]
    after = tree(tmp_path)
    made = {name for name in after if name not in before}
    assert made == {"out", *(f"out/{name.rsplit('.')[0]}.ugic" for name in TAKEN)}
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    "array",
    [
        np.full((8, 8, 3), np.nan, np.float32),
        np.full((8, 8, 3), np.inf),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8, 3), np.uint8),
        np.zeros((8, 8), np.uint8),
        np.broadcast_to(np.uint8(0), (2**20, 2**20, 3)),
        np.array([[["a"] * 3]]),
        [[[1, 2, 3]]],
    ],
    ids=str,
)
def test_arrays_that_are_no_images_are_refused(array: np.ndarray) -> None:
    codec = Codec.from_bundle(BUNDLE, threads=1)
    with pytest.raises(ImageError, match="image"):
        codec.encode(array)


def test_a_tag_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    """Strips of 4 GB at the end of the address range."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    data = bytearray(saved(Image.new("RGB", (64, 64)), "TIFF", tiffinfo=info))
    first = struct.unpack_from("<I", data, 4)[0]
    for i in range(struct.unpack_from("<H", data, first)[0]):
        at = first + 2 + 12 * i
        if struct.unpack_from("<H", data, at)[0] in (273, 279):  # StripOffsets, StripByteCounts
            struct.pack_into("<HIi", data, at + 2, 4, 1, -2)
    (tmp_path / "strip.tiff").write_bytes(data)
    before = tree(tmp_path)
    done = ugicm(tmp_path, "encode", "strip.tiff", "-o", "x.ugic", "--bundle", BUNDLE, memory_mb=3000)
    assert len(refusals(done)) == 1 and tree(tmp_path) == before
