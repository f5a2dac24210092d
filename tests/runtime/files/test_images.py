"""Image files: whatever a picture file holds becomes RGB or an error that names it."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageCms

from ugicm.runtime.errors import ImageError, OutputError, UgicError
from ugicm.runtime.files.images import read_image, write_image

# What Pillow has to say about damaged files does not reach the users of the command line either.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

SHARED_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

pictures = hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))


def gradient(height: int = 24, width: int = 40) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 10 % 256, columns * 6 % 256, (rows + columns) * 3 % 256], axis=2).astype(np.uint8)


def png(width: int, height: int, depth: int, colour: int, pixels: bytes = b"") -> bytes:
    """A PNG file written by hand, to hold what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "ugicm"]


@pytest.mark.parametrize("suffix", [".png", ".webp", ".bmp", ".tiff", ".ppm", ".jp2"])
def test_lossless_formats_give_back_what_was_written(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"picture{suffix}"

    @SHARED_FOLDER
    @given(pictures)
    def check(pixels: np.ndarray) -> None:
        write_image(path, pixels)
        read = read_image(path)
        assert read.dtype == np.uint8 and read.flags.c_contiguous and read.flags.writeable
        np.testing.assert_array_equal(read, pixels)

    check()
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(
    ("mode", "suffix", "words"),
    [
        ("L", ".png", "grey"),
        ("1", ".png", "black and white"),
        ("P", ".png", "palette"),
        ("LA", ".png", "alpha without effect"),
        ("RGBA", ".png", "alpha without effect"),
        ("RGBA", ".webp", None),
        ("CMYK", ".jpg", "CMYK"),
        ("CMYK", ".tiff", "CMYK"),
        ("I;16", ".png", "16 bits"),
        ("I;16", ".tiff", "16 bits"),
        ("LAB", ".tiff", "LAB"),
    ],
)
def test_other_pixels_are_converted_with_one_warning(
    tmp_path: Path, mode: str, suffix: str, words: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"picture{suffix}"
    source = Image.fromarray(gradient())
    if mode == "LAB":
        image = Image.merge("LAB", source.split())
    elif mode == "I;16":
        image = Image.fromarray(np.asarray(source.convert("L")).astype(np.uint16) * 257)
    else:
        image = source.convert(mode)
    image.save(path)
    read = read_image(path)
    assert read.shape == (24, 40, 3) and read.dtype == np.uint8
    if mode in ("L", "I;16"):
        np.testing.assert_array_equal(read, np.asarray(source.convert("L").convert("RGB")))
    if words is not None:
        (line,) = warnings_of(caplog)
        assert words in line and str(path) in line and "\n" not in line


def test_sixteen_bit_colour_is_reduced_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "deep.png"
    row = struct.pack(">9H", 0, 0x1234, 0xFFFF, 0x8000, 0x80FF, 0x0100, 0xFF00, 1, 2)
    path.write_bytes(png(3, 1, 16, 2, b"\0" + row))
    expected = [[[0, 0x12, 0xFF], [0x80, 0x80, 1], [0xFF, 0, 0]]]
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1
    assert "16 bits" in warnings_of(caplog)[0]
    ppm = tmp_path / "deep.ppm"
    ppm.write_bytes(b"P6 1 1 65535\n" + struct.pack(">3H", 0, 0x8080, 0xFFFF))
    np.testing.assert_array_equal(read_image(ppm), [[[0, 128, 255]]])
    assert "16 bits" in warnings_of(caplog)[1]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_an_agreed_white_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "wide.tiff"
    Image.new(mode, (4, 4), 70000).save(path)
    with pytest.raises(ImageError, match=r"wide\.tiff.*16 bits"):
        read_image(path)


def test_transparency_is_composited_on_white(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    colour, alpha = gradient(), np.arange(960, dtype=np.uint16).reshape(24, 40) % 256
    path = tmp_path / "glass.png"
    Image.fromarray(np.dstack([colour, alpha.astype(np.uint8)])).save(path)
    expected = (colour * (alpha[..., None] / 255) + 255 - alpha[..., None]).round()
    assert np.abs(read_image(path) - expected).max() <= 1
    assert "transparency composited on white" in warnings_of(caplog)[0]
    palette = tmp_path / "hole.gif"
    holed = Image.new("P", (2, 1), 0)
    holed.putpalette([10, 20, 30, 40, 50, 60])
    holed.putpixel((1, 0), 1)
    holed.save(palette, transparency=1)
    np.testing.assert_array_equal(read_image(palette), [[[10, 20, 30], [255, 255, 255]]])
    assert "palette" in warnings_of(caplog)[1] and "transparency" in warnings_of(caplog)[1]


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(
    tmp_path: Path, orientation: int, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    pixels = gradient()
    # How each orientation was made: the file holds `turned`, the camera saw `pixels` (EXIF 2.32, tag 274).
    turned = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, 1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"turned{suffix}"
    Image.fromarray(np.ascontiguousarray(turned)).save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(read_image(path), pixels)
    assert warnings_of(caplog) == []


def test_a_broken_exif_block_does_not_hide_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    np.testing.assert_array_equal(read_image(path), gradient())


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tiff"])
def test_the_first_of_several_frames_is_taken_with_a_word(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"film{suffix}"
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue", "green")]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(np.array([255, 0, 0], np.uint8), (6, 8, 3)))
    (line,) = warnings_of(caplog)
    assert "3 frames, only the first is used" in line


def test_a_colour_profile_is_mentioned_unless_it_is_srgb(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(gradient()).save(
        path, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    read_image(path)
    assert warnings_of(caplog) == []
    Image.fromarray(gradient()).save(path, icc_profile=b"some Display P3 profile")
    np.testing.assert_array_equal(read_image(path), gradient())
    assert "colour profile" in warnings_of(caplog)[0]


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    def refuse(path: Path, words: str) -> None:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert words in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)

    refuse(tmp_path / "nowhere.png", "no such file")
    refuse(tmp_path, "is a folder")
    path = tmp_path / "file.png"
    path.write_bytes(b"")
    refuse(path, "is empty")
    path.write_text("just words " * 100)
    refuse(path, "not an image")
    path.write_bytes(b"UGIC" + bytes(30))
    refuse(path, "decode it")
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    refuse(path, "not an image")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refuse(pipe, "not a regular file")


@pytest.mark.parametrize(("width", "height"), [(65536, 1), (1, 70000), (65535, 65535), (20000, 20000), (0, 5)])
def test_sizes_are_refused_before_pixels_are_decoded(tmp_path: Path, width: int, height: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height, 8, 2, bytes(1000)))
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(ImageError, match=r"bomb\.png"):
        read_image(path)
    assert limit == Image.MAX_IMAGE_PIXELS


def test_an_image_may_be_larger_than_the_limit_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    write_image(path, gradient())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 16)
    np.testing.assert_array_equal(read_image(path), gradient())
    assert Image.MAX_IMAGE_PIXELS == 16


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000"])
def test_damaged_files_give_an_image_error_or_an_image(tmp_path: Path, form: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, form)
    whole = buffer.getvalue()
    path = tmp_path / "damaged"

    def read(data: bytes) -> bool:
        path.write_bytes(data)
        try:
            read_image(path)
        except UgicError as error:
            assert isinstance(error, ImageError) and str(path) in str(error) and "\n" not in str(error)
            return False
        return True

    @SHARED_FOLDER
    @given(st.data())
    def check(data: st.DataObject) -> None:
        end = data.draw(st.integers(0, len(whole) - 1))
        assert not (read(whole[:end]) and end < len(whole) * 2 // 3), "much is missing and nothing was said"
        at, value = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 255))
        read(whole[:at] + bytes([value]) + whole[at + 1 :])

    check()


def test_every_truncation_of_a_jpeg_2000_file_is_refused(tmp_path: Path) -> None:
    """OpenJPEG gives a blank picture, without a word, for a file cut off right behind a tile's first marker."""
    buffer = io.BytesIO()
    Image.fromarray(gradient()).save(buffer, "JPEG2000")
    path = tmp_path / "cut.jp2"
    for end in range(len(buffer.getvalue())):
        path.write_bytes(buffer.getvalue()[:end])
        with pytest.raises(ImageError):
            read_image(path)


def test_a_suffix_says_the_format_that_is_written(tmp_path: Path) -> None:
    for suffix, form in (
        (".PNG", "PNG"),
        (".jpg", "JPEG"),
        (".jpeg", "JPEG"),
        (".avif", "AVIF"),
        (".tif", "TIFF"),
    ):
        path = tmp_path / f"picture{suffix}"
        write_image(path, gradient())
        with Image.open(path) as image:
            assert image.format == form and image.size == (40, 24)
    for name in ("picture", "picture.xyz", "picture.pdf", "picture.ugic"):
        with pytest.raises(OutputError, match=r"picture.*\.png"):
            write_image(tmp_path / name, gradient())
    with pytest.raises(OutputError, match="WEBP cannot hold"):
        write_image(tmp_path / "long.webp", np.zeros((1, 20000, 3), np.uint8))
    assert not (tmp_path / "long.webp").exists() and not list(tmp_path.glob(".*"))
