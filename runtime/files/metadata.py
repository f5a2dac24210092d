"""EXIF and XMP of a picture without what only its old file could mean.

Thumbnails and maker notes go: they can outweigh the picture, and a thumbnail shows what it was. The orientation goes
because it has been applied. Colours are sRGB now, unless the profile is kept.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from PIL import Image, ImageFile

LARGEST = 16 << 20  # bytes of metadata that a file may hold
_ORIENTATION, _XMP, _EXIF, _GPS, _INTEROPERABILITY = 0x0112, 0x02BC, 0x8769, 0x8825, 0xA005
_MAKER_NOTE, _COLOUR_SPACE, _WIDTH, _HEIGHT, _PADDING = 0x927C, 0xA001, 0xA002, 0xA003, 0xEA1C
# Of the main directory, everything but how the pixels of the old file were stored: names, dates, rights, titles.
_KEPT = frozenset(
    (0x010E, 0x010F, 0x0110, 0x011A, 0x011B, 0x0128, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298)
) | frozenset(range(0x9C9B, 0x9CA0))
# By themselves these say nothing about a picture: resolution; versions, layout and size of the old file.
_EMPTY = frozenset((0x011A, 0x011B, 0x0128, 0x9000, 0x9101, _COLOUR_SPACE, 0xA000, _WIDTH, _HEIGHT))
_XMP_ORIENTATION = (
    re.compile(rb"""\s+tiff:Orientation\s*=\s*(["'])[^"']{0,9}\1"""),
    re.compile(rb"<tiff:Orientation>[^<]{0,9}</tiff:Orientation>"),
)

# In a JPEG file: the name of a second packet, of which a .ugic file has none (XMP specification part 3, 1.1.3.1).
_EXTENSION = re.compile(
    rb"""\s+xmpNote:HasExtendedXMP\s*=\s*(["'])\w{0,64}\1|<xmpNote:HasExtendedXMP>\w{0,64}</xmpNote:HasExtendedXMP>"""
)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of a loaded image, 1 to 8; 1 where there is none. Raises whatever a damaged block causes."""
    found = image.getexif().get(_ORIENTATION, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def kept_exif(image: Image.Image, size: tuple[int, int], srgb: bool = True, turned: bool = True) -> bytes | None:
    """The EXIF block of an image, TIFF header first; None where nothing of it is worth keeping.

    Args:
        size: width and height of the picture now.
        srgb: whether its colours were converted to sRGB.
        turned: whether its orientation was applied, and goes.
    """
    try:
        source = image.getexif()
        main = {tag: value for tag, value in source.items() if tag in _KEPT}
        if not turned and (stored := orientation(image)) > 1:
            main[_ORIENTATION] = stored
        private = dict(source.get_ifd(_EXIF))
        gps = dict(source.get_ifd(_GPS))
        for tag in (_MAKER_NOTE, _PADDING, _INTEROPERABILITY):
            private.pop(tag, None)
        if _WIDTH in private and _HEIGHT in private:
            private[_WIDTH], private[_HEIGHT] = size
        if srgb and _COLOUR_SPACE in private:
            private[_COLOUR_SPACE] = 1
        return _block(main, private, gps)
    except Exception:  # Pillow's reader and writer raise many types on damaged or odd values.
        return None


def marked_adobe_rgb(image: Image.Image) -> bool:
    """Whether EXIF alone says Adobe RGB: uncalibrated, and an interoperability index of R03 (DCF 2.0)."""
    try:
        exif = image.getexif()
        index = exif.get_ifd(_INTEROPERABILITY).get(1)
        return str(index).startswith("R03") and exif.get_ifd(_EXIF).get(_COLOUR_SPACE) != 1
    except Exception:
        return False


def kept_xmp(image: Image.Image, turned: bool = True) -> bytes | None:
    """The XMP packet of an image without the blanks that packets are padded with and, if `turned`, its orientation."""
    found = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    packet = found.encode("utf-8", "surrogateescape") if isinstance(found, str) else found
    if not isinstance(packet, bytes):
        return None
    packet = packet.strip(b"\0 \r\n\t")
    for pattern in _XMP_ORIENTATION if turned else ():
        packet = pattern.sub(b"", packet)
    packet = _EXTENSION.sub(b"", packet)
    end = packet.rfind(b"<?xpacket end")
    if end > 0:
        packet = packet[:end].rstrip() + b"\n" + packet[end:]
    return packet or None


def not_kept(image: Image.Image) -> list[str]:
    """In words, the metadata of a loaded image that is neither EXIF nor the main packet of XMP."""
    from PIL import IptcImagePlugin

    found = []
    with suppress(Exception):  # Pillow's reader raises many types on damaged blocks.
        if isinstance(image, ImageFile.ImageFile) and IptcImagePlugin.getiptcinfo(image):
            found.append("its IPTC block is dropped")
    packet = image.info.get("xmp") or b""
    if _EXTENSION.search(packet.encode("utf-8", "surrogateescape") if isinstance(packet, str) else packet):
        found.append("its extended XMP is dropped")
    return found


def exif_orientation(block: bytes | None) -> int:
    """The orientation in an EXIF block, 1 to 8; 1 where there is none or it is damaged."""
    if not block:
        return 1
    try:
        exif = Image.Exif()
        exif.load(block)
        found = exif.get(_ORIENTATION, 1)
    except Exception:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def without_orientation(block: bytes) -> bytes | None:
    """An EXIF block without its orientation; None where it cannot be written again."""
    try:
        exif = Image.Exif()
        exif.load(block)
        del exif[_ORIENTATION]
        return bare(exif.tobytes())
    except Exception:  # Pillow reads values that it cannot write.
        return None


def with_xmp(block: bytes | None, xmp: bytes | None) -> Image.Exif:
    """An EXIF block, intact, and an XMP packet as one directory, which is how a TIFF file holds them."""
    exif = Image.Exif()
    exif.load(block or b"")
    if xmp:
        exif[_XMP] = xmp
    return exif


def bare(block: bytes) -> bytes:
    """An EXIF block from its TIFF header on."""
    return re.sub(rb"^(Exif\0\0)+", b"", block)


def _block(main: dict[int, Any], private: dict[int, Any], gps: dict[int, Any]) -> bytes | None:
    if not (set(main) | set(private) | set(gps)) - _EMPTY:
        return None
    exif = Image.Exif()
    exif.update(main)
    if private:
        exif[_EXIF] = private
    if gps:
        exif[_GPS] = gps
    return bare(exif.tobytes())
