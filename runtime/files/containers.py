"""Facts about a picture that its file states and Pillow does not pass on: code points of colour, depths, TIFF tags.

Every reader here takes a file that may be hostile: it looks at a bounded number of fields, and a file that contradicts
itself has no facts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

_CHUNKS = 4096  # of a PNG file before its pixels
_BOXES = 4096  # of an AVIF file
_HEAD = 1 << 16  # bytes of an AVIF or JPEG 2000 file that are looked at
LARGEST_HEAD = 1 << 20  # of one whose profile is looked for
_CONTAINERS = {b"iprp": 0, b"ipco": 0, b"meta": 4, b"jp2h": 0}  # bytes before the boxes in them
# Kinds of files that people have and that are not read: where it begins, what with, and what to say.
_UNREAD = (
    (4, b"ftyphei", "a HEIC file, which is not read; save it as JPEG or AVIF"),
    (4, b"ftyphev", "a HEIC file, which is not read; save it as JPEG or AVIF"),
    (4, b"ftypmif1", "a HEIF file, which is not read; save it as JPEG or AVIF"),
    (0, b"\xff\x0a", "a JPEG XL file, which is not read; save it as PNG"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL file, which is not read; save it as PNG"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR file: floating-point pixels have no agreed white; save it with 8 or 16 bits"),
    (0, b"#?RADIANCE", "a Radiance file: floating-point pixels have no agreed white; save it with 8 or 16 bits"),
    (0, b"PF\n", "floating-point pixels have no agreed white; save it with 8 or 16 bits"),
    (0, b"8BPS", "a Photoshop document, which is not read; save it as PNG"),
    (0, b"%PDF", "a PDF document, not an image; save its pages as PNG"),
)


@dataclass(frozen=True)
class Codepoints:
    """Colour as ITU-T H.273 numbers it: `primaries` (1 BT.709, 9 BT.2020, 12 P3), `transfer` (13 sRGB, 16 PQ…)."""

    primaries: int
    transfer: int


def unread_kind(handle: BinaryIO) -> str:
    """The name of a format that is known and not read, with advice; an empty string for others."""
    handle.seek(0)
    start = handle.read(32)
    return next((words for at, magic, words in _UNREAD if start[at:].startswith(magic)), "")


def png_codepoints(handle: BinaryIO) -> Codepoints | None:
    """The contents of the chunk cICP of a PNG file (PNG, third edition, 11.3.2.6)."""
    handle.seek(8)
    for _ in range(_CHUNKS):
        head = handle.read(8)
        if len(head) < 8 or head[4:] in (b"IDAT", b"IEND"):
            return None
        length = int.from_bytes(head[:4], "big")
        if head[4:] == b"cICP" and length == 4:
            body = handle.read(4)
            return Codepoints(body[0], body[1]) if len(body) == 4 else None
        handle.seek(length + 4, 1)
    return None


def avif_facts(handle: BinaryIO) -> tuple[Codepoints | None, int]:
    """The code points (box `colr` of type nclx) and the bits a channel (box `av1C`) of an AVIF file."""
    codepoints, bits = None, 8
    for kind, body in _boxes(handle, _HEAD):
        if kind == b"colr" and body[:4] == b"nclx" and len(body) >= 8:
            codepoints = codepoints or Codepoints(*struct.unpack_from(">HH", body, 4))
        elif kind == b"av1C" and len(body) >= 3 and body[2] & 0x40:  # high_bitdepth, then twelve_bit
            bits = max(bits, 12 if body[2] & 0x20 else 10)
    return codepoints, bits


def jpeg_2000_profile(handle: BinaryIO) -> bytes | None:
    """The ICC profile of a JP2 file (box `colr`; ISO/IEC 15444-1, I.5.3.3), which Pillow does not pass on."""
    for kind, body in _boxes(handle, LARGEST_HEAD):
        if kind == b"colr" and len(body) > 3 and body[0] in (2, 3):
            return body[3:]
    return None


def _boxes(handle: BinaryIO, most: int) -> Iterator[tuple[bytes, bytes]]:
    """Types and contents of the boxes in the first bytes of a file, and in those that describe its picture."""
    handle.seek(0)
    data = handle.read(most)
    ranges = [(0, len(data))]
    for _ in range(_BOXES):
        if not ranges:
            break
        at, end = ranges.pop()
        if end - at < 8:
            continue
        size, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        stop = min(end, at + size) if size >= 8 else end
        ranges.append((stop, end))
        if kind in _CONTAINERS:
            ranges.append((at + 8 + _CONTAINERS[kind], stop))
        elif kind in (b"colr", b"av1C"):
            yield kind, data[at + 8 : stop]


def jpeg_2000_bits(handle: BinaryIO) -> int:
    """The most bits of a component of a JPEG 2000 file (marker SIZ; ISO/IEC 15444-1, A.5.1); 8 where it has none."""
    handle.seek(0)
    data = handle.read(_HEAD)
    at = data.find(b"\xff\x4f\xff\x51")
    if at < 0 or len(data) < at + 42:
        return 8
    count = int.from_bytes(data[at + 40 : at + 42], "big")
    return max([8, *((depth & 0x7F) + 1 for depth in data[at + 42 : at + 42 + 3 * min(count, 16) : 3])])


@dataclass(frozen=True)
class TiffFacts:
    """Of a TIFF file's first picture: `photometric` (0: white is zero), bits and format of its samples.

    sample_format: 1 unsigned, 2 signed, 3 floating point, 5 and 6 complex.
    photometric_at: where the file states `photometric`, in bytes; little: its byte order.
    """

    photometric: int
    bits: int
    samples: int
    sample_format: int
    photometric_at: int
    little: bool

    def refusal(self) -> str:
        """Why these samples are no picture with a known black and white; an empty string where they are."""
        if self.sample_format in (5, 6):
            return "complex pixels are no picture"
        if self.sample_format == 3:
            return "floating-point pixels have no agreed white"
        if self.sample_format == 2:
            return f"signed {self.bits}-bit pixels have no agreed black"
        if self.bits > 16:
            return f"{self.bits}-bit pixels have no agreed white"
        return ""


def tiff_facts(handle: BinaryIO) -> TiffFacts | None:
    """The contents of the first directory of a TIFF file; None where it is no TIFF file or contradicts itself."""
    handle.seek(0)
    head = handle.read(16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or len(head) < 16:
        return None
    version = struct.unpack_from(f"{order}H", head, 2)[0]
    if version not in (42, 43):
        return None
    big = version == 43
    count_form, entry_form, entry_bytes = ("Q", "HHQ", 20) if big else ("H", "HHI", 12)
    room = 8 if big else 4  # bytes of a value that stands in its entry
    try:
        handle.seek(struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0])
        count = struct.unpack(order + count_form, handle.read(8 if big else 2))[0]
        start = handle.tell()
        directory = handle.read(entry_bytes * min(count, _CHUNKS))
        found: dict[int, tuple[int, int]] = {}
        for i in range(len(directory) // entry_bytes):
            tag, kind, values = struct.unpack_from(order + entry_form, directory, i * entry_bytes)
            width = {1: 1, 3: 2, 4: 4}.get(kind)
            if tag not in (258, 262, 277, 339) or width is None or not values:
                continue
            inside = (i + 1) * entry_bytes - room
            at = start + inside
            if values * width > room:
                at = struct.unpack_from(order + ("Q" if big else "I"), directory, inside)[0]
            handle.seek(at)
            found[tag] = (struct.unpack(order + {1: "B", 2: "H", 4: "I"}[width], handle.read(width))[0], at)
    except (struct.error, OverflowError, ValueError, OSError):
        return None

    def value(tag: int, default: int) -> int:
        return found[tag][0] if tag in found else default

    photometric_at = found[262][1] if 262 in found else 0
    return TiffFacts(value(262, 1), value(258, 1), value(277, 1), value(339, 1), photometric_at, order == "<")
