"""`import ugicm.adapters.pillow`, and Pillow opens and saves .ugic files.

Opening a file without sections reads its header alone: size, mode and `info` (`bpp`, `codec_id`, `quality`,
`condition`, and where the file has them `icc_profile`, `exif`, `xmp`) are there at once, pixels are decoded when
something asks for them. The condition is the attribute `condition` of an image that is not loaded yet, or, for programs
that only open files, the environment variable UGICM_CONDITION. Threads of the codec: see `ugicm.adapters.opened`.

    import ugicm.adapters.pillow
    from PIL import Image

    Image.open("photo.png").save("photo.ugic", quality=4)
    image = Image.open("photo.ugic")
    image.condition = "machine"
    image.save("view.png")

Pixels are saved as they are, not turned and not converted to sRGB, as by Pillow's own formats: orientation and profile
travel in `exif` and `icc_profile`. Transparency is kept, 16-bit grey becomes 8-bit.

Faults in a file are OSErrors, as Pillow's own, with the message of `ugicm.runtime.errors`. Pillow has no entry points
by which an installed package could register itself: the import is needed. And Pillow empties a file that exists before
it asks a format to save into it; `ugicm encode` does not.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageFile

from ugicm.adapters import opened
from ugicm.runtime import additions, bitstream
from ugicm.runtime.additions import ALPHA
from ugicm.runtime.bitstream import HEADER_BYTES, MAGIC, Bitstream, read_header
from ugicm.runtime.commands.decode import parse_condition
from ugicm.runtime.errors import ConditionError, CorruptFileError, ImageError, UgicError
from ugicm.runtime.files import colour, metadata, sections
from ugicm.runtime.files.picture import Picture, of_image

FORMAT = "UGIC"
VARIABLE = "UGICM_CONDITION"
_DECODER = "ugic"


class UgicImageFile(ImageFile.ImageFile):
    """A .ugic file, an RGB or RGBA image that is decoded when it is loaded."""

    format = FORMAT
    format_description = "Learned image codec"
    n_frames = 1
    is_animated = False
    _condition: str | float | None = None
    _waits = False  # for `load`

    def _open(self) -> None:
        assert self.fp is not None
        start = self.fp.read(HEADER_BYTES)
        name = _name(self.filename)
        try:
            header = read_header(start, name)
            stream = None if start[len(MAGIC)] == 1 else bitstream.parse(start + self.fp.read(), name)
        except UgicError as error:
            raise OSError(str(error)) from error
        held = {section.type: section.data for section in stream.sections} if stream else {}
        self._mode = "RGBA" if ALPHA in held else "RGB"
        self._size = (header.width, header.height)
        length = self.fp.seek(0, os.SEEK_END)
        self.info["bpp"] = 8 * length / (header.width * header.height)
        self.info["codec_id"] = header.codec_id.hex()
        self.info["quality"] = header.quality
        for key, kind in (("icc_profile", additions.ICC_PROFILE), ("exif", additions.EXIF), ("xmp", additions.XMP)):
            if kind in held:
                self.info[key] = held[kind]
        self._waits = True
        try:
            self.condition = os.environ.get(VARIABLE) or None
        except ConditionError as error:
            raise OSError(f"{VARIABLE}: {error}") from error

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
        if not self._waits:
            raise ValueError("the image is decoded already; open the file again for another condition")
        found = parse_condition(None if value is None else str(value))
        if len(found) != 1:
            raise ConditionError("condition 'both' names two pictures; open the file twice")
        self._condition = found[0]
        self.info["condition"] = "human" if found[0] is None else found[0]
        arguments = (found[0], self.info, _name(self.filename))
        self.tile = [(_DECODER, (0, 0, *self._size), 0, arguments)]  # type: ignore[list-item]

    def load(self) -> Any:
        """Decodes, once. Raises OSError for a damaged file, ValueError for a closed one."""
        if self.tile and self.fp is None:
            raise ValueError("Operation on closed image")
        pixels = super().load()
        self._waits = False
        return pixels

    def load_seek(self, pos: int) -> None:
        """Its being here tells `ImageFile.Parser` that the file cannot be decoded piece by piece."""
        assert self.fp is not None
        self.fp.seek(pos)

    def verify(self) -> None:
        """Check every byte of the file against its checksum. To be called directly after opening, like Pillow's.

        Raises:
            OSError: the file is damaged.
            RuntimeError: it was loaded or verified before.
        """
        if self.fp is None:
            raise RuntimeError("verify must be called directly after open")
        self.fp.seek(0)
        name = _name(self.filename)
        try:
            sections.extras_of(bitstream.parse(self.fp.read(), name), name)
        except UgicError as error:
            raise OSError(str(error)) from error
        finally:
            super().verify()


class UgicDecoder(ImageFile.PyDecoder):
    """Pillow calls it to load: the pixels of a file. Its arguments: condition, the image's `info`, a name."""

    _pulls_fd = True

    def decode(self, buffer: Any) -> tuple[int, int]:
        """Decodes. Raises OSError for a damaged file and where no bundle has its codec id."""
        condition, info, name = self.args
        assert self.fd is not None and self.im is not None
        data = self.fd.read()
        try:
            stream = bitstream.parse(data, name)
            self._check_same(stream, info["codec_id"], name)
            codec = opened.codec_for(data, name)
            extras = sections.extras_of(stream, name)
            view = codec.decode(data, condition, name)
        except UgicError as error:
            raise OSError(str(error) if name in str(error) else f"{name}: {error}") from error
        if not codec.conditions:
            info.pop("condition", None)  # its one view is neither
        pixels = view if extras.alpha is None else np.dstack([view, extras.alpha])
        self.set_as_raw(pixels.tobytes())
        return -1, 0

    def _check_same(self, stream: Bitstream, codec_id: str, name: str) -> None:
        mode = "RGBA" if any(section.type == ALPHA for section in stream.sections) else "RGB"
        assert self.im is not None
        if (self.mode, codec_id) != (mode, stream.codec_id.hex()) or self.im.size != (stream.width, stream.height):
            raise CorruptFileError(f"{name}: changed since it was opened; open it again")


def _name(filename: str | bytes) -> str:
    return os.fsdecode(filename) or "<bytes>"


WISHES = ("effort", "tune", "target_bpp", "target_psnr", "max_bytes")
"""Options of `Codec.encode` that Pillow passes on."""


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, fp: IO[bytes], filename: str | bytes) -> None:
    """`image.save(…, quality=1 to the codec's best, bundle=a folder or None for the shipped codec)`.

    `effort`, `tune`, and `target_bpp`, `target_psnr` or `max_bytes` in place of a quality, are as for `Codec.encode`; a
    size is that of the pixels' part, without sections.
    `icc_profile`, `exif` and `xmp` replace what the image has of them; an empty one leaves it out.
    """
    options = image.encoderinfo
    bundle = options.get("bundle")
    try:
        picture = _picture(image, options)
        codec = opened.open_bundle(None if bundle is None else Path(bundle))
        wish = {name: options[name] for name in WISHES if name in options}
        fp.write(sections.attach(codec.encode(picture.pixels, options.get("quality"), **wish), picture))
    except ImageError as error:
        raise OSError(f"cannot write mode {image.mode} as {FORMAT}: {error}") from error
    except (UgicError, ValueError) as error:
        raise OSError(str(error)) from error


def _picture(image: Image.Image, options: dict[str, Any]) -> Picture:
    image.load()
    picture = of_image(image, options.get("icc_profile", image.info.get("icc_profile")) or None)
    exif = options.get("exif")
    if isinstance(exif, Image.Exif):
        exif = exif.tobytes()
    elif exif is None and "exif" not in options:
        exif = metadata.kept_exif(image, image.size, srgb=False, turned=False)
    xmp = options["xmp"] if "xmp" in options else metadata.kept_xmp(image, turned=False)
    icc = picture.icc
    if icc and "icc_profile" not in options and not _says_more_than_srgb(icc):
        icc = None
    return Picture(picture.pixels, picture.alpha, icc, exif or None, xmp or None)


def _says_more_than_srgb(icc: bytes) -> bool:
    try:
        return not colour.is_srgb(icc)
    except colour.ProfileError:
        return False


Image.register_open(FORMAT, UgicImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_decoder(_DECODER, UgicDecoder)
Image.register_extension(FORMAT, ".ugic")
Image.register_mime(FORMAT, "image/x-ugic")
