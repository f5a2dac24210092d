"""Image files to pixels and back: whatever a picture file holds becomes 8-bit RGB, or an error that names it.

What had to be converted on the way is said in one warning of the logger `ugicm`.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ugicm.runtime.errors import OutputError
from ugicm.runtime.files.output import write_atomically
from ugicm.runtime.files.picture import READ, read_picture

_LOGGER = logging.getLogger("ugicm")

# JPEG files by other names: pairs of views, and what browsers and mail programs save.
_MORE_SUFFIXES = (".mpo", ".jps", ".jif", ".pjp", ".pjpeg")
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
