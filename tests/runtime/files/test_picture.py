"""One way from any picture to upright sRGB: colours against Little CMS and the formulas, words, sizes, refusals."""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from tests.runtime.files.makers import chunk, gama, iccp, png, tiff
from ugicm.runtime.errors import ImageError
from ugicm.runtime.files import profiles
from ugicm.runtime.files.picture import Picture, read_picture, upright

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

PROFILES = ("none", "sRGB", "P3", "linear", "gAMA")
HEIGHT, WIDTH = 6, 10


@cache
def profile(name: str) -> bytes:
    if name == "sRGB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if name == "P3":
        return profiles.make_profile("Display P3", profiles.P3, profiles.SRGB_CURVE)
    return profiles.make_profile("linear", profiles.BT709, (1.0,))


def orientations() -> dict[int, Image.Transpose | None]:
    """How an upright picture becomes the stored one (the inverse of what a viewer does; EXIF 2.32, tag 274)."""
    t = Image.Transpose
    return {
        1: None, 2: t.FLIP_LEFT_RIGHT, 3: t.ROTATE_180, 4: t.FLIP_TOP_BOTTOM,
        5: t.TRANSPOSE, 6: t.ROTATE_90, 7: t.TRANSVERSE, 8: t.ROTATE_270,
    }  # fmt: skip


def stored(seen: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores of what is seen, plane by plane through Pillow."""
    how = orientations()[orientation]
    if how is None:
        return seen
    if seen.dtype == np.uint16:
        both = [stored((seen >> shift).astype(np.uint8), orientation).astype(np.uint16) << shift for shift in (8, 0)]
        return both[0] | stored((seen & 0xFF).astype(np.uint8), orientation)
    if seen.ndim == 2:
        return np.asarray(Image.fromarray(seen).transpose(how))
    return np.stack([stored(seen[..., c], orientation) for c in range(seen.shape[2])], axis=2)


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[274] = orientation
    return block.tobytes()


def encoded(linear: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1, 0 to 255."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def decoded(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


# Linear Display P3 to linear sRGB, as CSS Color 4 has it.
P3_TO_SRGB = np.array(
    [[1.2249401, -0.2249404, 0], [-0.0420569, 1.0420571, 0], [-0.0196376, -0.0786361, 1.0982735]]
)  # fmt: skip


def by_formula(values: np.ndarray, name: str) -> np.ndarray:
    """Of values from 0 to 1, (H, W, 3), what sRGB shows, from 0 to 255."""
    if name == "P3":
        return encoded(decoded(values) @ P3_TO_SRGB.T)
    if name == "linear":
        return encoded(values)
    return encoded(values ** (1 / 0.7)) if name == "gAMA" else 255 * values


def by_lcms(pixels: np.ndarray, name: str) -> np.ndarray:
    image = Image.fromarray(pixels)
    if name in ("P3", "linear", "sRGB"):
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile(name)))
        image = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    return np.asarray(image).astype(float)


def check(picture: Picture, expected: np.ndarray, alpha: np.ndarray | None, case: object) -> None:
    assert picture.pixels.shape == expected.shape and picture.pixels.dtype == np.uint8, case
    assert picture.pixels.flags.c_contiguous and picture.pixels.flags.writeable
    if alpha is None:
        assert picture.alpha is None, case
    else:
        assert picture.alpha is not None and np.abs(picture.alpha.astype(int) - alpha).max() <= 1, case
        expected = np.where((alpha == 0)[..., None], 255, expected)
    far = np.abs(picture.pixels - expected).max()
    assert far <= 2, (case, far)


def check_words(picture: Picture, name: str, deep: bool, kind: str, case: object) -> None:
    words = ", ".join(picture.notes)
    assert ("16 bits" in words) == deep, (case, words)
    assert ("converted to sRGB" in words) == (name in ("P3", "linear", "gAMA")), (case, words)
    assert (f"{kind} converted to RGB" in words) == bool(kind), (case, words)
    assert picture.icc is None and picture.exif is None and picture.xmp is None, case


def seen(kind: str, top: int, seed: int) -> np.ndarray:
    """Colours (H, W) or (H, W, 3) with every hue, and the darkest levels where profiles differ most."""
    random = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH) if kind == "grey" else (HEIGHT, WIDTH, 3)
    values = random.integers(0, top + 1, shape)
    values[0] = np.linspace(0, top / 20, WIDTH).reshape(WIDTH, *[1] * (len(shape) - 2))
    values[-1] = top
    return values.astype(np.uint8 if top == 255 else np.uint16)


def alpha_of(top: int) -> np.ndarray:
    ramp = np.linspace(0, top, HEIGHT * WIDTH).round().reshape(HEIGHT, WIDTH)
    return ramp.astype(np.uint8 if top == 255 else np.uint16)


def png_cases() -> Iterator[tuple[int, str, str]]:
    for top, kind, clear in itertools.product((255, 65535), ("grey", "RGB", "palette"), ("none", "tRNS", "alpha")):
        if kind != "palette" or (top == 255 and clear != "alpha"):
            yield top, kind, clear


@pytest.mark.parametrize("name", PROFILES)
def test_png_of_every_kind(name: str) -> None:
    colours = {"none": [], "gAMA": [gama(0.7)]}.get(name) if name in ("none", "gAMA") else [iccp(profile(name))]
    for (top, kind, clear), orientation in itertools.product(png_cases(), range(1, 9)):
        case = (top, kind, clear, name, orientation)
        values, alpha, transparent, palette = seen(kind, top, orientation), None, b"", None
        shown = values
        if kind == "palette":
            palette = np.random.default_rng(9).integers(0, 256, (16, 3))
            values = np.random.default_rng(orientation).integers(0, 16, (HEIGHT, WIDTH)).astype(np.uint8)
            shown = palette[values].astype(np.uint8)
            if clear == "tRNS":
                opacity = np.r_[0, 128, np.full(14, 255)].astype(np.uint8)
                transparent, alpha = opacity.tobytes(), opacity[values]
        elif clear == "tRNS":
            key = np.atleast_1d(values[3, 4])
            values[1, 1] = values[3, 4] ^ 1  # a colour that is the key in its upper bits
            alpha = np.where((values.reshape(HEIGHT, WIDTH, -1) == key).all(axis=2), 0, 255)
            transparent = b"".join(struct.pack(">H", int(k)) for k in key)
        elif clear == "alpha":
            values = np.dstack([values, alpha_of(top)])
            alpha = alpha_of(top) * (255 / top)
        file = png(
            stored(values, orientation),
            *(colours or []),
            chunk(b"eXIf", exif(orientation)[6:]),
            palette=palette,
            transparent=transparent,
        )
        picture = read_picture(file)
        rgb = np.repeat(shown[..., None], 3, axis=2) if shown.ndim == 2 else shown
        check(picture, by_formula(rgb / top, name), alpha, case)
        if top == 255:
            opaque = picture.pixels if alpha is None else np.where((alpha == 0)[..., None], 0, picture.pixels)
            lcms = by_lcms(rgb, name) if name != "gAMA" else by_formula(rgb / 255, name)
            lcms = lcms if alpha is None else np.where((alpha == 0)[..., None], 0, lcms)
            assert np.abs(opaque - lcms).max() <= 2, case
        check_words(picture, name, top > 255, kind if kind != "RGB" else "", case)


@pytest.mark.parametrize("name", PROFILES[:4])
def test_tiff_of_every_kind(name: str) -> None:
    for top, kind, clear, order in itertools.product((255, 65535), ("grey", "RGB"), ("none", "alpha"), "<>"):
        if kind == "grey" and clear == "alpha" and top > 255:
            continue
        for orientation in range(1, 9):
            case = (top, kind, clear, order, name, orientation)
            values, alpha = seen(kind, top, orientation), None
            rgb = np.repeat(values[..., None], 3, axis=2) if kind == "grey" else values
            if clear == "alpha":
                values, alpha = np.dstack([values, alpha_of(top)]), alpha_of(top) * (255 / top)
            more = {274: (3, struct.pack(f"{order}H", orientation))}
            if name != "none":
                more[34675] = (7, profile(name))
            extra = 2 if clear == "alpha" else None
            photometric = 1 if kind == "grey" else 2
            picture = read_picture(tiff(stored(values, orientation), order, photometric, extra, more))
            check(picture, by_formula(rgb / top, name), alpha, case)
            check_words(picture, name, top > 255, "grey" if kind == "grey" else "", case)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF"])
@pytest.mark.parametrize("name", PROFILES[:4])
def test_lossy_formats_of_every_kind(form: str, name: str) -> None:
    """Against what Pillow decodes of them, through Little CMS."""
    for mode, orientation in itertools.product(("L", "RGB") if form == "JPEG" else ("RGB", "RGBA"), range(1, 9)):
        case = (form, name, mode, orientation)
        values = seen("grey" if mode == "L" else "RGB", 255, orientation)
        if mode == "RGBA":
            values = np.dstack([values, alpha_of(255)])
        options = {"icc_profile": profile(name)} if name != "none" else {}
        buffer = io.BytesIO()
        image = Image.fromarray(stored(values, orientation))
        more = {"speed": 10, "max_threads": 1} if form == "AVIF" else {}
        image.save(buffer, form, quality=95, exif=exif(orientation), **options, **more)
        with Image.open(io.BytesIO(buffer.getvalue())) as opened:
            opened.load()
            kept = upright(np.asarray(opened), orientation)
        picture = read_picture(buffer.getvalue())
        alpha = kept[..., 3] if mode == "RGBA" else None
        rgb = np.repeat(kept[..., None], 3, axis=2) if mode == "L" else kept[..., :3]
        check(picture, by_lcms(np.ascontiguousarray(rgb), name), alpha, case)
        check_words(picture, name, False, "grey" if mode == "L" else "", case)


@given(st.integers(1, 8), st.integers(1, 5), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_upright_undoes_what_was_stored(orientation: int, height: int, width: int) -> None:
    pixels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    np.testing.assert_array_equal(upright(stored(pixels, orientation), orientation), pixels)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_small_depths_name_their_transparent_grey_in_their_own_steps(bits: int) -> None:
    values = np.arange(2**bits, dtype=np.uint8)[None]
    for key in range(2**bits):
        picture = read_picture(png(values, bits=bits, transparent=struct.pack(">H", key)))
        assert picture.alpha is not None
        np.testing.assert_array_equal(picture.alpha[0] == 0, values[0] == key)


def test_white_is_zero_at_any_depth() -> None:
    for order in "<>":
        for values, top in ((np.array([[0, 1000, 65535]], np.uint16), 65535), (np.array([[0, 9, 255]], np.uint8), 255)):
            picture = read_picture(tiff(values, order, photometric=0))
            expected = 255 - values[0] * (255 / top)
            assert np.abs(picture.pixels[0, :, 1] - expected).max() <= 1, (order, top)
        twelve = tiff(np.array([[0x00, 0x0F, 0xFF]], np.uint8), order, photometric=0, bits=12)
        three, two = (struct.pack(f"{order}HHIHH", 256, 3, 1, n, 0) for n in (3, 2))
        if order == "<":
            np.testing.assert_array_equal(read_picture(twelve.replace(three, two)).pixels[0, :, 0], [255, 0])
    compressed = io.BytesIO()
    Image.fromarray(np.full((5, 5), 1000, np.uint16)).save(
        compressed, "TIFF", compression="tiff_lzw", tiffinfo={262: 0}
    )
    assert abs(int(read_picture(compressed.getvalue()).pixels[0, 0, 0]) - 251) <= 1


def test_twelve_bits_reach_white() -> None:
    packed = np.array([[0x00, 0x0F, 0xFF]], np.uint8)  # 0 and 4095
    file = tiff(packed, photometric=1, bits=12).replace(
        struct.pack("<HHII", 256, 3, 1, 3), struct.pack("<HHII", 256, 3, 1, 2)
    )
    picture = read_picture(file)
    np.testing.assert_array_equal(picture.pixels[0, :, 0], [0, 255])


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.zeros((4, 4), np.uint32), "32-bit pixels have no agreed white"),
        (np.full((4, 4), 99, np.int32), "signed 32-bit pixels"),
        (np.full((4, 4), 99, np.int16), "signed 16-bit pixels"),
        (np.full((4, 4), 9, np.int8), "signed 8-bit pixels"),
        (np.zeros((4, 4), np.float32), "floating-point pixels"),
        (np.zeros((4, 4, 3), np.float32), "floating-point pixels"),
        (np.zeros((4, 4, 3), np.float16), "floating-point pixels"),
        (np.zeros((4, 4), np.float64), "floating-point pixels"),
        (np.zeros((4, 4, 3), np.uint32), "32-bit pixels"),
        (np.zeros((4, 4), np.complex64), "complex pixels"),
        (np.zeros((4, 4, 7), np.uint8), "7 × 8 bits"),
    ],
    ids=lambda value: f"{value.dtype}-{value.ndim}" if isinstance(value, np.ndarray) else "",
)
def test_samples_without_black_or_white_are_refused_by_their_type(samples: np.ndarray, words: str) -> None:
    for order in "<>":
        with pytest.raises(ImageError, match=words):
            read_picture(tiff(samples, order))


def test_gamma_and_primaries_of_png() -> None:
    grey = np.full((2, 2, 3), 128, np.uint8)
    assert read_picture(png(grey, gama(0.45455))).notes == ()
    assert read_picture(png(grey, chunk(b"sRGB", b"\0"), gama(1.0))).pixels[0, 0, 0] == 128
    assert abs(int(read_picture(png(grey, gama(1.0))).pixels[0, 0, 0]) - 188) <= 1
    c = profiles.P3
    chrm = chunk(b"cHRM", b"".join(struct.pack(">I", round(v * 100000)) for v in c))
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    expected = by_formula(red / 255, "P3")
    for gamma in ([], [gama(0.45455)]):
        assert np.abs(read_picture(png(red, *gamma, chrm)).pixels - expected).max() <= 2
    flat = chunk(b"cHRM", bytes(32))
    broken = read_picture(png(red, flat))
    np.testing.assert_array_equal(broken.pixels, red)
    assert "dropped" in broken.notes[0]


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes([primaries, transfer, 0, 1]))


def test_code_points_of_png_come_first() -> None:
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    assert read_picture(png(red, cicp(1, 13), gama(1.0))).notes == ()
    assert np.abs(read_picture(png(red, cicp(12, 13))).pixels - by_formula(red / 255, "P3")).max() <= 2
    assert np.abs(read_picture(png(red, cicp(1, 8))).pixels - by_formula(red / 255, "linear")).max() <= 2
    unknown = read_picture(png(red, cicp(22, 77)))
    np.testing.assert_array_equal(unknown.pixels, red)
    assert "22/77" in unknown.notes[0]


@pytest.mark.parametrize(("transfer", "white", "word"), [(16, 0.5807, "PQ"), (18, 0.75, "HLG")])
def test_the_reference_white_of_hdr_is_white(transfer: int, white: float, word: str) -> None:
    """203 cd/m² (BT.2408, table 1: 58 % of PQ, 75 % of HLG)."""
    for primaries in (9, 1, 12):
        values = np.round(np.array([[[0.0] * 3, [white] * 3, [1.0] * 3]]) * 65535).astype(np.uint16)
        picture = read_picture(png(values, cicp(primaries, transfer)))
        assert (
            picture.pixels[0, 0].max() == 0 and picture.pixels[0, 1].min() >= 253 and picture.pixels[0, 2].min() == 255
        )
        assert word in ", ".join(picture.notes)
    kept = read_picture(png(values, cicp(9, transfer)), keep_profile=True)
    assert abs(int(kept.pixels[0, 1, 0]) - 255 * white) <= 1 and word in ", ".join(kept.notes)


def test_a_profile_is_known_by_what_it_does() -> None:
    """Not by its name: P3 that calls itself sRGB is converted, sRGB without a name is left alone."""
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    liar = profiles.make_profile("sRGB IEC61966-2.1", profiles.P3, profiles.SRGB_CURVE)
    assert np.abs(read_picture(png(red, iccp(liar))).pixels - by_formula(red / 255, "P3")).max() <= 2
    modest = profiles.make_profile("unnamed", profiles.BT709, profiles.SRGB_CURVE)
    assert read_picture(png(red, iccp(modest))).notes == ()
    kept = read_picture(png(red, iccp(liar)), keep_profile=True)
    np.testing.assert_array_equal(kept.pixels, red)
    assert kept.icc == liar and kept.notes == ()
    assert read_picture(png(red, iccp(modest)), keep_profile=True).icc is None


def test_profiles_of_other_pixels_and_damaged_ones_are_dropped_with_a_word() -> None:
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    grey = profile("P3")[:16] + b"GRAY" + profile("P3")[20:]
    for damaged in (b"nothing", profile("P3")[:200], grey, b"\0" * 300):
        for samples in (red, red.astype(np.uint16) * 257):
            picture = read_picture(png(samples, iccp(damaged)))
            np.testing.assert_array_equal(picture.pixels, red)
            assert "colour profile is dropped" in ", ".join(picture.notes)


@given(st.binary(max_size=40), st.integers(0, 500), st.booleans())
@settings(max_examples=60, deadline=None)
def test_hostile_profiles_end_in_pixels(junk: bytes, at: int, deep: bool) -> None:
    icc = bytearray(profile("P3"))
    icc[at : at + len(junk)] = junk
    red = np.zeros((2, 2, 3), np.uint8) + np.array([200, 50, 50], np.uint8)
    assert read_picture(png(red.astype(np.uint16) * 257 if deep else red, iccp(bytes(icc)))).pixels.shape == (2, 2, 3)


def test_adobe_rgb_by_exif_alone() -> None:
    block = Image.Exif()
    block[0x8769] = {0xA001: 0xFFFF, 0xA005: {1: "R03"}}
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (60, 180, 60)).save(buffer, "JPEG", quality=100, exif=block)
    picture = read_picture(buffer.getvalue())
    assert "Adobe RGB converted to sRGB" in picture.notes and picture.pixels[0, 0, 0] < 10


def test_cmyk_is_converted_by_its_profile_and_by_pillow_without_one() -> None:
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 200, 200, 0)).save(buffer, "TIFF")
    assert read_picture(buffer.getvalue()).notes == ("CMYK converted to RGB",)
    buffer = io.BytesIO()
    Image.new("CMYK", (8, 8), (0, 200, 200, 0)).save(buffer, "TIFF", icc_profile=profile("P3"))
    assert "dropped: for RGB pixels" in ", ".join(read_picture(buffer.getvalue()).notes)
