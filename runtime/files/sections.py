"""The sections of a .ugic file: a picture's opacity, colour profile, EXIF and XMP, to bytes and back.

Opacity is coded losslessly, as a PNG datastream of the chunks IHDR, IDAT and IEND alone: grey, 8 bits, or 1 where every
pixel is either opaque or wholly transparent. The others stand as they are.
"""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from PIL import Image

from ugicm.runtime import bitstream
from ugicm.runtime.additions import ALPHA, EXIF, ICC_PROFILE, XMP, Section
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.encoder import container
from ugicm.runtime.errors import CorruptFileError
from ugicm.runtime.files.metadata import bare
from ugicm.runtime.files.picture import Picture, open_header

NAMES = {ALPHA: "transparency", ICC_PROFILE: "ICC profile", EXIF: "EXIF", XMP: "XMP"}
_SIGNATURE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_MOST_INFLATED = 1032  # bytes that one byte of DEFLATE can stand for
_LARGEST_PLANE = 1 << 30


@dataclass(frozen=True)
class Extras:
    """The known sections of a file, as the fields of `Picture`."""

    alpha: np.ndarray | None = None
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None


def attach(data: bytes, picture: Picture) -> bytes:
    """The .ugic file `data` with what a picture carries besides its pixels; the same bytes where that is nothing."""
    sections = sections_of(picture)
    return container.pack(dataclasses.replace(bitstream.parse(data), sections=sections)) if sections else data


def sections_of(picture: Picture) -> tuple[Section, ...]:
    """The sections for all that a picture carries besides its pixels, in the order of the types."""
    found = []
    if picture.alpha is not None:
        found.append(Section(ALPHA, encode_alpha(picture.alpha)))
    metadata = ((ICC_PROFILE, picture.icc), (EXIF, bare(picture.exif or b"")), (XMP, picture.xmp))
    return (*found, *(Section(kind, block) for kind, block in metadata if block))


def extras_of(stream: Bitstream, name: str = "<bytes>") -> Extras:
    """The sections of a parsed file, its opacity decoded.

    Raises:
        CorruptFileError: an opacity that is none, or of another size than the picture.
    """
    held = {section.type: section.data for section in stream.sections}
    alpha = decode_alpha(held[ALPHA], stream.width, stream.height, name) if ALPHA in held else None
    return Extras(alpha, held.get(ICC_PROFILE), held.get(EXIF), held.get(XMP))


def sizes(stream: Bitstream) -> dict[str, int]:
    """Bytes of each section, by its name in words, type and length included."""

    def bytes_of(section: Section) -> int:
        head = len(container.write_varint(section.type)) + len(container.write_varint(len(section.data)))
        return head + len(section.data)

    return {NAMES.get(s.type, f"section {s.type}"): bytes_of(s) for s in stream.sections}


def in_words(found: dict[str, int]) -> str:
    """`sizes`, for people: `EXIF 312 bytes, transparency 1,024 bytes`."""
    return ", ".join(f"{name} {size:,} bytes" for name, size in found.items())


def encode_alpha(alpha: np.ndarray) -> bytes:
    """The section of an opacity, uint8 (H, W)."""
    image = Image.fromarray(alpha)
    if not ((alpha > 0) & (alpha < 255)).any():
        image = image.convert("1")
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=9)
    return buffer.getvalue()


def decode_alpha(data: bytes, width: int, height: int, name: str) -> np.ndarray:
    """uint8 (H, W) of the section of an opacity, decoded once its bytes can hold what it claims.

    Raises:
        CorruptFileError: see `extras_of`.
    """

    def refuse() -> NoReturn:
        raise CorruptFileError(f"{name} is damaged: its transparency cannot be decoded; copy or download it again")

    if width * height > _LARGEST_PLANE or not data.startswith(_SIGNATURE):
        refuse()
    head, at = data[16:29], 33
    depth = head[8] if len(head) == 13 else 0
    if depth not in (1, 8) or head != width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0]):
        refuse()
    stored = 0
    while data[at + 4 : at + 8] == b"IDAT":
        length = int.from_bytes(data[at : at + 4], "big")
        stored += length
        at += 12 + length
    ends = data[at : at + 8] == b"\0\0\0\0IEND" and len(data) == at + 12
    if not ends or height * (1 + (width * depth + 7) // 8) > _MOST_INFLATED * stored:
        refuse()
    try:
        with open_header(io.BytesIO(data), ("PNG",)) as image:
            alpha = np.array(image)
    except Exception:  # Pillow's decoders raise nearly every built-in type on damaged data.
        refuse()
    return alpha * np.uint8(255) if alpha.dtype == bool else alpha
