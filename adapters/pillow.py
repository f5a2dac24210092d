"""`import ugicm.adapters.pillow`, and Pillow opens and saves .ugic files.

Opening reads the header alone: size and `info` (`bpp`, `codec_id`, `quality`, `condition`) are there at once, pixels
are decoded when something asks for them. The condition is the attribute `condition` of an image that is not loaded
yet, or, for programs that only open files, the environment variable UGICM_CONDITION.

    import ugicm.adapters.pillow
    from PIL import Image

    Image.open("photo.png").save("photo.ugic", quality=4)
    image = Image.open("photo.ugic")
    image.condition = "machine"
    image.save("view.png")

Faults in a file are OSErrors, as Pillow's own, with the message of `ugicm.runtime.errors`. Pillow has no entry points
by which an installed package could register itself: the import is needed. And Pillow empties a file that exists before
it asks a format to save into it; `ugicm encode` does not.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile

from ugicm.runtime.bitstream import HEADER_BYTES, MAGIC, read_header
from ugicm.runtime.catalogue import find_bundle
from ugicm.runtime.commands.decode import parse_condition
from ugicm.runtime.errors import ConditionError, UgicError

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

FORMAT = "UGIC"
VARIABLE = "UGICM_CONDITION"
_CONVERTED = ("1", "L", "P", "RGBX", "CMYK", "YCbCr")  # the others lose what a .ugic file cannot hold


class UgicImageFile(ImageFile.ImageFile):
    """A .ugic file, an RGB image that is decoded when it is loaded."""

    format = FORMAT
    format_description = "Learned image codec"
    _condition: str | float | None = None
    _decoded = False

    def _open(self) -> None:
        assert self.fp is not None
        start = self.fp.read(HEADER_BYTES)
        name = os.fsdecode(self.filename) or "<bytes>"
        try:
            header = read_header(start, name)
            self.condition = os.environ.get(VARIABLE) or None
        except ConditionError as error:
            raise OSError(f"{VARIABLE}: {error}") from error
        except UgicError as error:
            raise OSError(str(error)) from error
        self._mode = "RGB"
        self._size = (header.width, header.height)
        length = self.fp.seek(0, os.SEEK_END)
        self.info["bpp"] = 8 * length / (header.width * header.height)
        self.info["codec_id"] = header.codec_id.hex()
        self.info["quality"] = header.quality
        # What says that the image is not loaded yet; nobody reads this tile.
        self.tile = [("raw", (0, 0, *self._size), 0, ("RGB", 0, 1))]  # type: ignore[list-item]

    @property
    def condition(self) -> str | float | None:
        """`human`, `machine`, a number from 0 to 1; None is the codec's default. To be set before the image is loaded.

        Raises:
            ConditionError: not one of these.
            ValueError: set on an image that is loaded.
        """
        return self._condition

    @condition.setter
    def condition(self, value: str | float | None) -> None:
        if self._decoded:
            raise ValueError("the image is decoded already; open the file again for another condition")
        found = parse_condition(None if value is None else str(value))
        if len(found) != 1:
            raise ConditionError("condition 'both' names two pictures; open the file twice")
        self._condition = found[0]
        self.info["condition"] = "human" if found[0] is None else found[0]

    def load(self) -> Any:
        """Decodes, once. Raises OSError for a damaged file and where no bundle has its codec id."""
        if self.tile:
            assert self.fp is not None
            self.fp.seek(0)
            name = os.fsdecode(self.filename) or "<bytes>"
            try:
                codec = _codec(find_bundle(bytes.fromhex(self.info["codec_id"])), os.getpid())
                view = codec.decode(self.fp.read(), self._condition, name)
            except UgicError as error:
                raise OSError(str(error) if name in str(error) else f"{name}: {error}") from error
            self.im = Image.fromarray(view).im
            if not codec.conditions:
                del self.info["condition"]  # its one view is neither
            self.tile = []
            self._decoded = True
            self.readonly = 0
            if self._exclusive_fp:
                self.fp.close()
            self.fp = None
        return super().load()


@cache
def _codec(bundle: Path | None, process: int) -> Codec:
    """A bundle's codec, opened once by a process: sessions of a parent hang in its forks."""
    from ugicm.runtime.codec import Codec  # a backend is loaded only once there are pixels to code

    return Codec.from_bundle(bundle)


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """`image.save(…, quality=1 to the codec's best, bundle=a folder or None for the shipped codec)`."""
    plain = image.mode in _CONVERTED and not image.has_transparency_data
    if image.mode != "RGB" and not plain:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT}; convert it to RGB first")
    bundle = image.encoderinfo.get("bundle")
    pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    try:
        codec = _codec(None if bundle is None else Path(bundle), os.getpid())
        fp.write(codec.encode(pixels, image.encoderinfo.get("quality")))
    except UgicError as error:
        raise OSError(str(error)) from error


Image.register_open(FORMAT, UgicImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".ugic")
Image.register_mime(FORMAT, "image/x-ugic")
