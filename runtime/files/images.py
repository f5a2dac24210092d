"""Image files to pixels and back: whatever a picture file holds becomes 8-bit RGB, or an error that names it.

What had to be converted on the way is said in one warning of the logger `ugicm`.
"""

from __future__ import annotations

import io
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ugicm.runtime.bitstream import MAX_PIXELS, MAX_SIDE
from ugicm.runtime.errors import ImageError, OutputError
from ugicm.runtime.files.output import write_atomically

_LOGGER = logging.getLogger("ugicm")

# Not every format that Pillow knows: EPS starts another program, TGA mistakes other files for its own.
_READ = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "QOI", "ICO")
_WRITE: dict[str, dict[str, Any]] = {
    "PNG": {"compress_level": 3},  # of photographs 4 % larger than at 6, Pillow's own choice, in a third of the time
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 95},
    "TIFF": {},
    "BMP": {},
    "PPM": {},
    "JPEG2000": {},
    "QOI": {},
}
_ADVICE = "use a PNG, JPEG, WebP, AVIF, TIFF, BMP, PPM or GIF file"
_OPENING = threading.Lock()


def read_image(path: Path) -> np.ndarray:
    """Read an image file as RGB.

    EXIF orientation is applied. Grey, palette, CMYK and 16-bit pixels are converted, transparency is
    composited on white, of several frames the first is taken: each with a word in the one warning that is
    logged. Colour profiles are dropped, not applied; one that is not sRGB is worth a word too.

    Args:
        path: a regular file of at most 65535 pixels a side and 2^28 in all, which is checked before pixels
            are decoded.

    Returns:
        uint8 (H, W, 3), C-contiguous and writable.

    Raises:
        ImageError: missing, unreadable, truncated, too large, or not an image.
    """
    try:
        if os.path.isdir(path):
            raise ImageError(f"{path}: is a folder; name the image files in it")
        if os.path.exists(path) and not os.path.isfile(path):
            raise ImageError(f"{path}: is not a regular file; save the image to a file first")
        with path.open("rb") as handle:
            start = handle.read(4)
            handle.seek(0)
            if not start:
                raise ImageError(f"{path}: is empty; fetch or save the image again")
            if start == b"UGIC":
                raise ImageError(f"{path}: is an encoded .ugic file, not an image; decode it instead")
            notes: list[str] = []
            pixels = _decode(path, handle, notes)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if notes:
        _LOGGER.warning("%s: %s", path, ", ".join(notes))
    return pixels


def check_size(width: int, height: int, name: str) -> None:
    """Raise ImageError unless an image of these pixels fits a bitstream."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageError(f"{name}: {width}x{height} pixels; each side must be 1 to {MAX_SIDE}: resize or split it")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} pixels, more than {MAX_PIXELS / 1e6:.0f} million: resize or split it"
        )


def readable_suffixes() -> tuple[str, ...]:
    """Suffixes, lower case, of the files in a folder that are taken for images."""
    Image.init()
    return tuple(sorted(suffix for suffix, form in Image.registered_extensions().items() if form in _READ))


def check_suffix(path: Path) -> str:
    """The Pillow format that an output's suffix stands for. Raises OutputError for an unknown one."""
    Image.init()
    form = Image.registered_extensions().get(path.suffix.lower())
    if form not in _WRITE or form not in Image.SAVE:
        found = f"'{path.suffix}' is not an image suffix that can be written" if path.suffix else "has no suffix"
        raise OutputError(f"{path}: {found}: use .png, .jpg, .webp, .tiff, .bmp or .ppm")
    return form


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write pixels, uint8 (H, W, 3), to a file in the format of its suffix, whole or not at all.

    PNG, TIFF, BMP, PPM and WebP keep every pixel; JPEG and AVIF are written at quality 95.

    Raises:
        OutputError: unknown suffix, an image that the format cannot hold, or the file cannot be written.
    """
    form = check_suffix(path)
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, form, **_WRITE[form])
    except (OSError, ValueError) as error:
        reason = str(error) or "its encoder refuses it"
        raise OutputError(f"{path}: {form} cannot hold this image ({reason}); use .png") from error
    write_atomically(path, buffer.getvalue())


def _codestream_ends(handle: io.BufferedReader) -> bool:
    """Whether a JPEG 2000 codestream has its end marker: OpenJPEG takes one cut off in a tile's header for blank.

    Bytes above FF 8F stand in no packet (ISO/IEC 15444-1, annex D.5), so that an end marker behind the last start of a
    tile part is one.
    """
    position = handle.tell()
    handle.seek(0)
    data = handle.read()
    handle.seek(position)
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\x90")


def _decode(path: Path, handle: io.BufferedReader, notes: list[str]) -> np.ndarray:
    try:
        image = _open(handle)
        check_size(*image.size, name=str(path))
        if image.format == "JPEG2000" and not _codestream_ends(handle):
            raise ImageError(f"{path}: truncated; {_ADVICE}")
        frames = getattr(image, "n_frames", 1)
        deep = _is_deep(image)
        image.load()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image of a known kind, or its first bytes are damaged; {_ADVICE}") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: more than {MAX_PIXELS / 1e6:.0f} million pixels: resize or split it") from None
    except MemoryError:
        raise ImageError(f"{path}: not enough memory for its pixels; resize or split it") from None
    except Exception as error:  # Pillow's decoders raise nearly every built-in type on damaged data.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(f"{path}: damaged or cut short ({reason}); fetch or save the image again") from error

    profile = image.info.get("icc_profile") or b""
    _turn_upright(image, notes)
    image = _to_rgb(path, image, deep, notes)
    if frames > 1:
        notes.append(f"{frames} frames, only the first is used")
    if profile and b"sRGB" not in profile.replace(b"\0", b""):
        notes.append("its colour profile is dropped")
    return np.array(image)


def _open(handle: io.BufferedReader) -> Image.Image:
    """`Image.open`, which reads the header alone, without Pillow's own, smaller limit of pixels."""
    Image.init()
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_SIDE**2
        try:
            return Image.open(handle, formats=[form for form in _READ if form in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _is_deep(image: Image.Image) -> bool:
    """Whether a file holds more than 8 bits a channel where Pillow, without a word, gives 8."""
    for tile in getattr(image, "tile", ()):
        if ";16" in str(tile[3]):
            return True
        if tile[0].startswith("ppm") and isinstance(tile[3], tuple) and tile[3][-1] > 255:
            return True
    return False


def _turn_upright(image: Image.Image, notes: list[str]) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # The picture is intact although its EXIF block is not.
        notes.append("its damaged EXIF block is ignored")


def _to_rgb(path: Path, image: Image.Image, deep: bool, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(f"{path}: 32-bit pixels have no agreed white; save it with 8 or 16 bits")
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
        deep = True
    elif image.mode == "F":
        raise ImageError(f"{path}: floating-point pixels have no agreed white; save it with 8 or 16 bits")
    if deep:
        notes.append("16 bits a channel reduced to 8")
    kinds = {"1": "black and white", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}
    kind = kinds.get(image.mode, image.mode)
    if kind not in ("RGB", "RGBA", "RGBa", "RGBX"):
        notes.append(f"{kind} converted to RGB")
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            alpha = image.getchannel("A")
            if alpha.getextrema() == (255, 255):
                notes.append("alpha without effect dropped")
            else:
                notes.append("transparency composited on white")
            white = Image.new("RGB", image.size, "white")
            white.paste(image.convert("RGB"), mask=alpha)
            return white
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{path}: {image.mode} pixels cannot be converted to RGB ({error}); {_ADVICE}") from error
