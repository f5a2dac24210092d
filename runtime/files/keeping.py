"""What a .ugic file keeps of a picture besides its pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from ugicm.runtime.files.picture import Picture, read_picture

_LOGGER = logging.getLogger("ugicm")


@dataclass(frozen=True)
class Keeping:
    """By default everything that still holds when colours are converted to sRGB.

    strip: leave EXIF and XMP behind.
    keep_profile: code RGB pixels as they are, with their profile.
    opaque: put white behind transparency.
    """

    strip: bool = False
    keep_profile: bool = False
    opaque: bool = False

    def read(self, source: Path | bytes, name: str) -> Picture:
        """A picture with what is kept of it. One warning says what had to be converted or dropped.

        Raises:
            ImageError: see `picture.read_picture`.
        """
        picture = read_picture(source, self.keep_profile, name)
        notes = list(picture.notes)
        if self.opaque and picture.alpha is not None:
            notes.append("transparency composited on white")
            picture = replace(picture, pixels=picture.on_white(), alpha=None)
        if self.strip:
            picture = replace(picture, exif=None, xmp=None)
        if notes:
            _LOGGER.warning("%s: %s", name, ", ".join(notes))
        return picture


EVERYTHING = Keeping()
