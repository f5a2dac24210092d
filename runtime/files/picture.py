"""One way from any picture file to what is coded: upright 8-bit sRGB, an opacity, and the metadata that still holds."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from ugicm.runtime.bitstream import MAX_PIXELS, MAX_SIDE
from ugicm.runtime.errors import ImageError
from ugicm.runtime.files import colour, containers, metadata, profiles
from ugicm.runtime.files.pixels import Samples, raw_mode, reduced, samples

# Not every format that Pillow knows: EPS starts another program, TGA mistakes other files for its own.
READ = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "PPM", "GIF", "JPEG2000", "QOI", "ICO")
_ADVICE = "use a PNG, JPEG, WebP, AVIF, TIFF, BMP, PPM or GIF file"
_OPENING = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A picture, upright.

    pixels: uint8 (H, W, 3), C-contiguous and writable; sRGB unless `icc` says otherwise.
    alpha: uint8 (H, W), 255 is opaque, or None where every pixel is. Colours of wholly transparent pixels are white.
    icc: the colour profile of the pixels, or None for sRGB.
    exif: an EXIF block from its TIFF header on, or None: without orientation, thumbnail and maker notes.
    xmp: an XMP packet, UTF-8, or None.
    notes: what had to be converted or dropped, in words.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    notes: tuple[str, ...] = ()

    def on_white(self) -> np.ndarray:
        """uint8 (H, W, 3): the pixels where they are opaque, white behind them where they are not."""
        if self.alpha is None:
            return self.pixels
        return on_white(self.pixels, self.alpha)


def on_white(pixels: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """uint8 (H, W, 3) of a picture of some opacity, uint8 (H, W), before white."""
    white = Image.new("RGB", (pixels.shape[1], pixels.shape[0]), "white")
    white.paste(Image.fromarray(pixels), mask=Image.fromarray(alpha))
    return np.array(white)


def read_picture(source: Path | bytes, keep_profile: bool = False, name: str = "<bytes>") -> Picture:
    """Read a picture, whatever it holds.

    EXIF orientation is applied. Colours are converted to sRGB from what the file says of them: an ICC profile, PNG's
    cICP, gAMA and cHRM, AVIF's code points, EXIF's Adobe RGB. Of several frames the first is taken.

    Args:
        source: a regular file, or the bytes of one; at most 65535 pixels a side and 2^28 in all, which is checked
            before pixels are decoded.
        keep_profile: leave RGB pixels as they are, and say their profile.
        name: what messages call `source` where it is bytes.

    Raises:
        ImageError: missing, unreadable, truncated, too large, or not an image.
    """
    name = str(source) if isinstance(source, Path) else name
    with _opened(source, name) as handle:
        start = handle.read(4)
        if not start:
            raise ImageError(f"{name}: is empty; fetch or save the image again")
        if start == b"UGIC":
            raise ImageError(f"{name}: is an encoded .ugic file, not an image; decode it instead")
        handle.seek(0)
        try:
            return _read(handle, name, keep_profile)
        except MemoryError:
            raise ImageError(f"{name}: not enough memory for its pixels; resize or split it") from None


def of_image(image: Image.Image, icc: bytes | None) -> Picture:
    """The picture of a loaded image of Pillow's, as it stands: not turned, its metadata left out.

    Args:
        icc: its profile. One of RGB is kept and not applied; one of grey or CMYK is applied, because RGB is coded; one
            that cannot be applied is left out.

    Raises:
        ImageError: pixels without an agreed black and white.
    """
    found = samples(image, "ppm" if image.mode == "I" and image.format in ("PNG", "PPM") else "")
    pixels = None
    if icc and profiles.colour_space(icc) != "RGB":
        with suppress(colour.ProfileError):
            pixels = colour.to_srgb(found.colour, icc)
        icc = None
    return _hidden_white(Picture(_as_rgb(found.colour) if pixels is None else pixels, found.alpha, icc))


def check_size(width: int, height: int, name: str) -> None:
    """Raise ImageError unless an image of these pixels fits a bitstream."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ImageError(f"{name}: {width}x{height} pixels; each side must be 1 to {MAX_SIDE}: resize or split it")
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}x{height} pixels, more than {MAX_PIXELS / 1e6:.0f} million: resize or split it"
        )


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """An array (H, W, …) stored with an EXIF orientation (1 to 8; EXIF 2.32, tag 274), as it is to be seen."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    return array[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


@contextmanager
def _opened(source: Path | bytes, name: str) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        if "\0" in str(source):
            raise FileNotFoundError
        if os.path.isdir(source):
            raise ImageError(f"{name}: is a folder; name the image files in it")
        if os.path.exists(source) and not os.path.isfile(source):
            raise ImageError(f"{name}: is not a regular file; save the image to a file first")
        with source.open("rb") as handle:
            yield handle
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file; check the name") from None
    except OSError as error:
        raise ImageError(f"{name}: cannot be read: {error.strerror or error}") from error


def _read(handle: BinaryIO, name: str, keep_profile: bool) -> Picture:
    tiff = containers.tiff_facts(handle)
    if tiff is not None and (reason := tiff.refusal()):
        raise ImageError(f"{name}: {reason}; save it with 8 or 16 bits")
    inverted = False
    try:
        try:
            image = open_header(handle)
        except UnidentifiedImageError:
            if words := containers.unread_kind(handle):
                raise ImageError(f"{name}: {words}") from None
            if tiff is None:
                raise ImageError(
                    f"{name}: not an image of a known kind, or its first bytes are damaged; {_ADVICE}"
                ) from None
            if tiff.photometric or tiff.samples != 1 or not tiff.photometric_at:
                raise ImageError(
                    f"{name}: a TIFF file of {tiff.samples} × {tiff.bits} bits, photometric {tiff.photometric}, which "
                    "is not read; save it as 8-bit RGB"
                ) from None
            handle, inverted = _black_is_zero(handle, tiff), True
            image = open_header(handle)
        check_size(*image.size, name=name)
        if image.format == "JPEG2000" and not _codestream_ends(handle):
            raise ImageError(f"{name}: truncated; {_ADVICE}")
        frames = getattr(image, "n_frames", 1)
        raw = raw_mode(image)
        image.load()
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: a TIFF file of samples that are not read; save it as 8-bit RGB") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: more than {MAX_PIXELS / 1e6:.0f} million pixels: resize or split it") from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly every built-in type on damaged data.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ImageError(f"{name}: damaged or cut short ({reason}); fetch or save the image again") from error

    notes: list[str] = []
    try:
        turned = metadata.orientation(image)
    except Exception:  # The picture is intact although its EXIF block is not.
        turned = 1
        notes.append("its damaged EXIF block is ignored")
    try:
        found = samples(image, raw, lambda: open_header(handle))
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    if inverted or tiff is not None and image.format == "TIFF" and tiff.photometric == 0 and image.mode[:2] == "I;":
        found = replace(found, colour=~found.colour)  # Pillow inverts up to 8 bits
    return _upright_srgb(image, handle, found, turned, frames, keep_profile, notes)


def _upright_srgb(
    image: Image.Image,
    handle: BinaryIO,
    found: Samples,
    turned: int,
    frames: int,
    keep_profile: bool,
    notes: list[str],
) -> Picture:
    bits, codepoints = 16 if found.deep else 8, None
    if image.format == "PNG":
        codepoints = containers.png_codepoints(handle)
    elif image.format == "AVIF":
        codepoints, bits = containers.avif_facts(handle)
    elif image.format == "JPEG2000":
        bits = max(bits, containers.jpeg_2000_bits(handle))
    if bits > 8:
        notes.append(f"{bits} bits a channel reduced to 8")
    if found.kind:
        notes.append(f"{found.kind} converted to RGB")
    alpha = found.alpha
    if alpha is None and image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        notes.append("alpha without effect dropped")
    pixels, icc = _colours(image, handle, found.colour, codepoints, keep_profile, notes)
    if turned > 1:
        pixels = upright(pixels, turned)
        alpha = None if alpha is None else np.ascontiguousarray(upright(alpha, turned))
    if frames > 1:
        notes.append(f"{frames} frames, only the first is used")
    size = (pixels.shape[1], pixels.shape[0])
    exif, xmp = metadata.kept_exif(image, size, srgb=icc is None), metadata.kept_xmp(image)
    notes += metadata.not_kept(image)
    if sum(len(block or b"") for block in (exif, xmp, icc)) > metadata.LARGEST:
        notes.append(f"its metadata is dropped, more than {metadata.LARGEST >> 20} MB")
        exif = xmp = None
    if not (pixels.flags.c_contiguous and pixels.flags.writeable):
        pixels = np.array(pixels, order="C")
    return _hidden_white(Picture(pixels, alpha, icc, exif, xmp, tuple(notes)))


def _colours(
    image: Image.Image,
    handle: BinaryIO,
    values: np.ndarray,
    codepoints: containers.Codepoints | None,
    keep_profile: bool,
    notes: list[str],
) -> tuple[np.ndarray, bytes | None]:
    """uint8 (H, W, 3) pixels and the profile that they keep."""
    icc: bytes | None = image.info.get("icc_profile") or None
    if image.format == "JPEG2000":
        icc = icc or containers.jpeg_2000_profile(handle)
    word = "colour profile"
    try:
        hdr = colour.HDR.get(codepoints.transfer) if codepoints else None
        if hdr and codepoints and values.shape[2:] != (4,) and (image.format == "PNG" or not icc):
            if keep_profile:
                notes.append(f"its pixels are {hdr} (HDR), which no profile says")
                return _as_rgb(values), None
            notes.append(f"{hdr} (HDR) converted to sRGB, light above 203 cd/m² clipped")
            return colour.hdr_to_srgb(values, codepoints), None
        # In a PNG file cICP comes before iCCP, and that before gAMA; in an AVIF file the profile comes first.
        if codepoints and codepoints.transfer != 2 and (image.format == "PNG" or not icc):
            if codepoints.transfer not in profiles.CURVES or codepoints.primaries not in profiles.PRIMARIES:
                if codepoints.primaries != 2:
                    notes.append(f"its colours, {codepoints.primaries}/{codepoints.transfer} of H.273, taken for sRGB")
                return _as_rgb(values), None
            icc, word = colour.profile_of_codepoints(codepoints), "H.273 colours"
        elif icc is None and image.format == "PNG":
            icc, word = colour.profile_of_png(image.info), "gamma"
        elif icc is None and metadata.marked_adobe_rgb(image):
            icc, word = colour.adobe_rgb(), "Adobe RGB"
        if icc is None or image.mode == "LAB" or colour.is_srgb(icc):
            return _as_rgb(values), None
        if keep_profile and values.shape[2:] != (4,) and profiles.colour_space(icc) == "RGB":
            return _as_rgb(values), icc
        converted = colour.to_srgb(values, icc)
        notes.append(f"{word} converted to sRGB")
        return converted, None
    except colour.ProfileError as error:
        notes.append(f"its {word} is dropped: {error}")
        return _as_rgb(values), None


def _as_rgb(values: np.ndarray) -> np.ndarray:
    values = reduced(values)
    if values.ndim == 2:
        return np.repeat(values[..., None], 3, axis=2)
    return values if values.shape[2] == 3 else np.array(Image.fromarray(values, "CMYK").convert("RGB"))


def _hidden_white(picture: Picture) -> Picture:
    """The colours of wholly transparent pixels become white: unseen ones cost bits and show at edges."""
    if picture.alpha is None:
        return picture
    pixels = np.array(picture.pixels)
    pixels[picture.alpha == 0] = 255
    return replace(picture, pixels=pixels)


def open_header(handle: BinaryIO, formats: Sequence[str] = READ) -> Image.Image:
    """`Image.open`, which reads the header alone, without Pillow's own, smaller limit of pixels."""
    Image.init()
    handle.seek(0)
    with _OPENING:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, MAX_SIDE**2
        try:
            return Image.open(handle, formats=[form for form in formats if form in Image.OPEN])
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _black_is_zero(handle: BinaryIO, tiff: containers.TiffFacts) -> BinaryIO:
    """A TIFF file in which white is zero as one in which black is: Pillow lacks the first at some depths."""
    handle.seek(0)
    data = bytearray(handle.read())
    data[tiff.photometric_at : tiff.photometric_at + 2] = b"\1\0" if tiff.little else b"\0\1"
    return io.BytesIO(bytes(data))


def _codestream_ends(handle: BinaryIO) -> bool:
    """Whether a JPEG 2000 codestream has its end marker: OpenJPEG takes one cut off in a tile's header for blank.

    Bytes above FF 8F stand in no packet (ISO/IEC 15444-1, annex D.5), so that an end marker behind the last start of a
    tile part is one.
    """
    position = handle.tell()
    handle.seek(0)
    data = handle.read()
    handle.seek(position)
    return data.rfind(b"\xff\xd9") > data.rfind(b"\xff\x90")
