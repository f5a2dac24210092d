"""Image files to pixels and back: whatever a picture file holds becomes 8-bit RGB, or an error that names it.

What had to be converted on the way is said in one warning of the logger `ugicm`.
"""

from __future__ import annotations

import io
import logging
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ugicm.runtime.errors import OutputError
from ugicm.runtime.files import colour, metadata
from ugicm.runtime.files.output import write_atomically
from ugicm.runtime.files.picture import READ, Picture, read_picture, upright

_LOGGER = logging.getLogger("ugicm")

# JPEG files by other names: pairs of views, and what browsers and mail programs save.
_MORE_SUFFIXES = (".mpo", ".jps", ".jif", ".pjp", ".pjpeg")


@dataclass(frozen=True)
class _Format:
    """How a format is written, and what it holds besides pixels."""

    options: dict[str, Any]
    alpha: bool = False
    profile: bool = False  # and EXIF and XMP


# Lossless ones for speed (python -m benchmarks.writing): a PNG file whose filtered rows are coded as run lengths is
# written in 0.7 of the time of zlib's level 3 and is smaller; WebP's method 0 takes a tenth of the time of its own
# choice, and gives files 17 % larger.
_WRITE = {
    "PNG": _Format({"compress_level": 1, "compress_type": zlib.Z_RLE}, alpha=True, profile=True),
    "JPEG": _Format({"quality": 95, "subsampling": 0}, profile=True),
    "WEBP": _Format({"lossless": True, "method": 0, "quality": 0, "exact": True}, alpha=True, profile=True),
    "AVIF": _Format({"quality": 95}, alpha=True, profile=True),
    "TIFF": _Format({}, alpha=True, profile=True),
    "BMP": _Format({}),
    "PPM": _Format({}),
    "JPEG2000": _Format({}, alpha=True),
    "QOI": _Format({}, alpha=True),
}


def read_image(path: Path) -> np.ndarray:
    """Read an image file as sRGB, whatever it holds; see `picture.read_picture`.

    Transparency is composited on white. Everything that was converted or dropped has a word in the one warning that
    is logged.

    Args:
        path: a regular file of at most 65535 pixels a side and 2^28 in all, which is checked before pixels
            are decoded.

    Returns:
        uint8 (H, W, 3), C-contiguous and writable.

    Raises:
        ImageError: missing, unreadable, truncated, too large, or not an image.
    """
    picture = read_picture(path)
    notes = [*picture.notes, *(["transparency composited on white"] if picture.alpha is not None else [])]
    if notes:
        _LOGGER.warning("%s: %s", path, ", ".join(notes))
    return picture.on_white()


def readable_suffixes() -> tuple[str, ...]:
    """Suffixes, lower case, of the files in a folder that are taken for images."""
    Image.init()
    known = (suffix for suffix, form in Image.registered_extensions().items() if form in READ)
    return tuple(sorted({*known, *_MORE_SUFFIXES}))


def check_suffix(path: Path) -> str:
    """The Pillow format that an output's suffix stands for. Raises OutputError for an unknown one."""
    suffix = path.suffix.lower()
    Image.preinit()  # PNG, JPEG, BMP and PPM: all plugins take longer to import than a small picture to decode
    if suffix not in Image.EXTENSION:
        Image.init()
    form = Image.EXTENSION.get(suffix)
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
    write_picture(path, Picture(pixels))


def write_picture(path: Path, picture: Picture) -> None:
    """Write a picture with what its format can hold, like `write_image`; one warning names what it cannot.

    Raises:
        OutputError: as `write_image`.
    """
    write_atomically(path, picture_bytes(picture, check_suffix(path), path))


def picture_bytes(picture: Picture, form: str, name: Path) -> bytes:
    """The bytes of an image file; see `write_picture`. `form` is one of `check_suffix`'s, messages say `name`.

    Where a format has no place for it, transparency is composited on white, a profile is applied, an orientation too,
    and EXIF and XMP are dropped.
    """
    about, notes = _WRITE[form], []
    if picture.alpha is not None and not about.alpha:
        notes.append("transparency composited on white")
        picture = replace(picture, pixels=picture.on_white(), alpha=None)
    picture = turned(picture)
    if not about.profile and (picture.icc or picture.exif or picture.xmp):
        lost = [word for word, held in (("EXIF", picture.exif), ("XMP", picture.xmp)) if held]
        if lost:
            notes.append(f"{' and '.join(lost)} dropped, which {form} cannot hold")
        if picture.icc:
            picture, word = in_srgb(picture)
            notes.append(word)
        picture = replace(picture, exif=None, xmp=None)
    pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    image = Image.fromarray(pixels)
    try:
        data = None
        if picture.icc or picture.exif or picture.xmp:
            data = _with_metadata(image, picture, form, about.options, notes)
        data = data or _saved(image, form, about.options)
    except (OSError, ValueError) as error:
        reason = str(error) or "its encoder refuses it"
        raise OutputError(f"{name}: {form} cannot hold this image ({reason}); use .png") from error
    if notes:
        _LOGGER.warning("%s: %s", name, ", ".join(notes))
    return data


def turned(picture: Picture) -> Picture:
    """A picture with the orientation in its EXIF block applied and taken out; `read_picture`'s have none."""
    orientation = metadata.exif_orientation(picture.exif)
    if orientation == 1 or picture.exif is None:
        return picture
    pixels = np.ascontiguousarray(upright(picture.pixels, orientation))
    alpha = None if picture.alpha is None else np.ascontiguousarray(upright(picture.alpha, orientation))
    return replace(picture, pixels=pixels, alpha=alpha, exif=metadata.without_orientation(picture.exif))


def in_srgb(picture: Picture) -> tuple[Picture, str]:
    """A picture with its profile applied, and what was done in words."""
    if picture.icc is None:
        return picture, ""
    try:
        pixels = picture.pixels if colour.is_srgb(picture.icc) else colour.to_srgb(picture.pixels, picture.icc)
        return replace(picture, pixels=pixels, icc=None), "colour profile converted to sRGB"
    except colour.ProfileError as error:
        return replace(picture, icc=None), f"its colour profile is dropped: {error}"


def _saved(image: Image.Image, form: str, options: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _with_metadata(
    image: Image.Image, picture: Picture, form: str, options: dict[str, Any], notes: list[str]
) -> bytes | None:
    """A file with its metadata; None where it cannot be written so. It is whatever a .ugic file says it is."""
    try:
        return _saved(image, form, {**options, **_metadata_options(picture, form)})
    except Exception as error:  # Pillow reads EXIF again, and raises many types where it is odd, or too long.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        notes.append(f"its metadata is dropped, which {form} cannot hold ({reason})")
    if picture.icc:
        with suppress(OSError, ValueError):
            return _saved(image, form, {**options, "icc_profile": picture.icc})
    return None


def _metadata_options(picture: Picture, form: str) -> dict[str, Any]:
    options: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
    if form == "TIFF" and (picture.exif or picture.xmp):
        options["exif"] = metadata.with_xmp(picture.exif, picture.xmp)
        return options
    if picture.exif:
        options["exif"] = b"Exif\0\0" + picture.exif
    if picture.xmp and form == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", picture.xmp.decode("utf-8", "replace"))
        options["pnginfo"] = info
    elif picture.xmp:
        options["xmp"] = picture.xmp
    return options
