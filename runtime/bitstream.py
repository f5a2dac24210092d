"""The container of a .ugic file: a small header, the entropy-coded substreams, two checksums.

`docs/bitstream.md` is the specification; this module and that page say the same thing. Nothing here knows a
network, a table or a shape: the header is read, bounded and checked, the substreams stay bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.errors import CorruptFileError, NotUgicError, TruncatedError, VersionError

MAGIC = b"UGIC"
VERSIONS = (1, 2)
CODEC_ID_BYTES = 8
MAX_SIDE = 65535  # pixels
MAX_PIXELS = 1 << 28
MAX_SUBSTREAMS = 65535
MIN_BAND_BITS, MAX_BAND_BITS = 8, 20
MIN_BLOCK, MAX_BLOCK = 32, 1 << 20  # positions
ALPHA, ICC_PROFILE, EXIF, XMP = 1, 2, 4, 6  # types of sections: odd ones change the picture
MAX_SECTIONS = 64
MAX_METADATA = 1 << 24  # bytes of all sections of even types together

_STAGED, _SECTIONS = 1, 2  # flags of version 2
_CHECKED_AT_ONCE = 1 << 18  # symbols
_MAX_VARINT_BYTES = 5  # every number of the format fits in 32 bits
HEADER_BYTES = len(MAGIC) + 1 + CODEC_ID_BYTES + 1 + 2 * _MAX_VARINT_BYTES


@dataclass(frozen=True)
class Guard:
    """How the rows of a staged codec are rounded (`runtime/guard.py`).

    band_bits: 8 to 20; every decoder's scale indexes must lie within 2**-band_bits of the encoder's.
    block: positions that share one shift, 32 to 2**20.
    """

    band_bits: int
    block: int


@dataclass(frozen=True)
class Section:
    """What a file carries beside its symbols.

    type: 1 to 2**32 - 1; a decoder refuses an odd one that it does not know and skips an even one.
    data: as the type defines it.
    """

    type: int
    data: bytes


@dataclass(frozen=True)
class Bitstream:
    """One encoded image, its substreams still entropy-coded.

    codec_id: 8 bytes that name everything the entropy path depends on.
    quality: 1 to 255.
    width, height: of the image before padding, in pixels; 1 to 65535 each, their product at most 2**28.
    z: the hyper-latent's single substream.
    y: the latent's substreams in scan order, 1 to 65535 of them; exactly one where there is a guard.
    symbol_checksum: what `symbol_checksum` returns for the symbols that were encoded.
    guard: of a staged codec's file; None for other codecs.
    sections: at most 64, of ascending types; those of even types hold at most 2**24 bytes together.
    """

    codec_id: bytes
    quality: int
    width: int
    height: int
    z: bytes
    y: tuple[bytes, ...]
    symbol_checksum: int
    guard: Guard | None = None
    sections: tuple[Section, ...] = ()

    @property
    def version(self) -> int:
        """Of the format: 1 where neither a guard nor a section needs more."""
        return 2 if self.guard or self.sections else 1


@dataclass(frozen=True)
class Header:
    """What a file says before its substreams; the fields of `Bitstream`."""

    codec_id: bytes
    quality: int
    width: int
    height: int


def pack(b: Bitstream) -> bytes:
    """The bytes of the .ugic file of `b`. Raises ValueError for a field outside the ranges of `Bitstream`."""
    if len(b.codec_id) != CODEC_ID_BYTES:
        raise ValueError(f"the codec id has {len(b.codec_id)} bytes, it must have {CODEC_ID_BYTES}")
    if fault := _out_of_range(b.quality, b.width, b.height, len(b.y)) or _misfit(b.guard, b.sections, len(b.y)):
        raise ValueError(fault)
    head = [
        MAGIC,
        bytes([b.version]),
        b.codec_id,
        bytes([b.quality]),
        write_varint(b.width),
        write_varint(b.height),
    ]
    if b.version > 1:
        head.append(write_varint(_STAGED * bool(b.guard) | _SECTIONS * bool(b.sections)))
    if b.guard:
        head += [bytes([b.guard.band_bits]), write_varint(b.guard.block)]
    if b.sections:
        head.append(write_varint(len(b.sections)))
    for section in b.sections:
        head += [write_varint(section.type), write_varint(len(section.data)), section.data]
    body = [write_varint(len(b.z)), b.z, write_varint(len(b.y)), *(write_varint(len(s)) for s in b.y), *b.y]
    if not 0 <= b.symbol_checksum < 1 << 32:
        raise ValueError(f"the symbol checksum {b.symbol_checksum} does not fit in 32 bits")
    data = b"".join([*head, *body, b.symbol_checksum.to_bytes(4, "little")])
    return data + zlib.crc32(data).to_bytes(4, "little")


def parse(data: bytes, name: str = "<bytes>") -> Bitstream:
    """Read and check the .ugic file `data`; `name` is what error messages call it.

    Every field is bounded by what is left of `data` before it is read, so hostile sizes allocate nothing.

    Sections of even types that nobody knows are kept as they are.

    Raises NotUgicError (magic), VersionError (version, or a flag or section that must be understood and is not),
    TruncatedError (a field or length reaches past the end; true of every proper prefix of a file), CorruptFileError
    (trailing bytes, file checksum, non-minimal or over-long varints, a value outside the ranges of `Bitstream`).
    """
    header, at = _header(data, name)
    guard, sections, at = _additions(data, at, name) if data[len(MAGIC)] > 1 else (None, (), at)
    z_length, at = read_varint(data, at, name)
    z, at = _take(data, at, z_length, name)
    count, at = read_varint(data, at, name)
    if count > MAX_SUBSTREAMS:
        _corrupt(name, f"it claims {count} substreams, at most {MAX_SUBSTREAMS} are allowed")
    lengths = []
    for _ in range(count):
        length, at = read_varint(data, at, name)
        lengths.append(length)
    y = []
    for length in lengths:
        substream, at = _take(data, at, length, name)
        y.append(substream)
    checksum, at = _take(data, at, 4, name)
    file_checksum, end = _take(data, at, 4, name)
    if end != len(data):
        _corrupt(name, f"{len(data) - end} bytes follow its last field")
    if zlib.crc32(memoryview(data)[:at]) != int.from_bytes(file_checksum, "little"):
        _corrupt(name, "its file checksum does not match its bytes")
    if fault := _out_of_range(header.quality, header.width, header.height, count) or _misfit(guard, sections, count):
        _corrupt(name, fault)
    return Bitstream(
        header.codec_id,
        header.quality,
        header.width,
        header.height,
        z,
        tuple(y),
        int.from_bytes(checksum, "little"),
        guard,
        sections,
    )


def read_header(start: bytes, name: str = "<bytes>") -> Header:
    """What the first HEADER_BYTES of a file say (all of a shorter one), without the rest being looked at.

    Raises NotUgicError, VersionError, TruncatedError, CorruptFileError, as `parse` does for these fields.
    """
    header, _ = _header(start, name)
    if fault := _out_of_range(header.quality, header.width, header.height, 1):
        _corrupt(name, fault)
    return header


def symbol_checksum(z: NDArray[np.signedinteger[Any]], y: NDArray[np.signedinteger[Any]]) -> int:
    """CRC-32 over all symbols, z then y, skipped ones included, each modulo 2**16 as a little-endian uint16.

    z, y: signed integer arrays of any shape whose C order is the scan order.
    """
    crc = 0
    for symbols in (z, y):
        if symbols.dtype.kind != "i":
            raise TypeError(f"symbols are signed integers, not {symbols.dtype}")
        flat = np.ascontiguousarray(symbols).reshape(-1)
        for at in range(0, flat.size, _CHECKED_AT_ONCE):
            crc = zlib.crc32(flat[at : at + _CHECKED_AT_ONCE].astype("<u2").data, crc)
    return crc


def write_varint(value: int) -> bytes:
    """LEB128 of a value below 2**32: seven bits a byte, low ones first, 128 added to all but the last."""
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} does not fit in an unsigned 32-bit varint")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, at: int, name: str = "<bytes>") -> tuple[int, int]:
    """The varint at index `at` of `data` and the index after it.

    Raises TruncatedError where `data` ends inside it, CorruptFileError where it is not the shortest form of
    its value or the value needs more than 32 bits.
    """
    value = 0
    for i in range(_MAX_VARINT_BYTES):
        if at + i >= len(data):
            _truncated(name)
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i > 0:
                _corrupt(name, f"the number at byte {at} is not in its shortest form")
            if value >= 1 << 32:
                break
            return value, at + i + 1
    _corrupt(name, f"the number at byte {at} needs more than 32 bits")


def _header(data: bytes, name: str) -> tuple[Header, int]:
    """The fields before the substreams, their ranges not yet checked, and the index after them."""
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise NotUgicError(f"{name} is not a .ugic file: it does not begin with {MAGIC.decode()}")
    at = len(MAGIC)
    if len(data) > at and data[at] not in VERSIONS:
        raise VersionError(
            f"{name} has format version {data[at]}, this release reads 1 and 2; install one that reads it"
        )
    at += 1
    codec_id, at = _take(data, at, CODEC_ID_BYTES, name)
    quality, at = _take(data, at, 1, name)
    width, at = read_varint(data, at, name)
    height, at = read_varint(data, at, name)
    return Header(codec_id, quality[0], width, height), at


def _additions(data: bytes, at: int, name: str) -> tuple[Guard | None, tuple[Section, ...], int]:
    """The fields that version 2 adds, not yet checked against each other, and the index after them."""
    flags, at = read_varint(data, at, name)
    if flags & ~(_STAGED | _SECTIONS):
        raise VersionError(f"{name} has flags {flags:#x} that this release does not know; install one that reads them")
    guard = None
    if flags & _STAGED:
        bits, at = _take(data, at, 1, name)
        block, at = read_varint(data, at, name)
        guard = Guard(bits[0], block)
    count, at = read_varint(data, at, name) if flags & _SECTIONS else (0, at)
    if not flags or (flags & _SECTIONS and not 1 <= count <= MAX_SECTIONS):
        _corrupt(
            name, f"it has flags {flags} and {count} sections; version 2 has a guard or 1 to {MAX_SECTIONS} sections"
        )
    sections: list[Section] = []
    for _ in range(count):
        kind, at = read_varint(data, at, name)
        size, at = read_varint(data, at, name)
        if kind % 2 and kind != ALPHA:
            raise VersionError(
                f"{name} has a section of type {kind} that changes the picture and that this release does not know; "
                "install one that does"
            )
        body, at = _take(data, at, size, name)
        sections.append(Section(kind, body))
    return guard, tuple(sections), at


def _take(data: bytes, at: int, size: int, name: str) -> tuple[bytes, int]:
    if size > len(data) - at:
        _truncated(name)
    return data[at : at + size], at + size


def _out_of_range(quality: int, width: int, height: int, substreams: int) -> str:
    """What is wrong with these header fields, or an empty string."""
    if not 1 <= quality <= 255:
        return f"the quality {quality} is outside 1 to 255"
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        return f"the image size {width}x{height} is outside 1x1 to {MAX_SIDE} a side and {MAX_PIXELS} pixels"
    if not 1 <= substreams <= MAX_SUBSTREAMS:
        return f"the number of y substreams {substreams} is outside 1 to {MAX_SUBSTREAMS}"
    return ""


def _misfit(guard: Guard | None, sections: tuple[Section, ...], substreams: int) -> str:
    """What is wrong with the fields that version 2 adds, or an empty string."""
    if guard and not MIN_BAND_BITS <= guard.band_bits <= MAX_BAND_BITS:
        return f"the band 2**-{guard.band_bits} is outside 2**-{MIN_BAND_BITS} to 2**-{MAX_BAND_BITS}"
    if guard and not MIN_BLOCK <= guard.block <= MAX_BLOCK:
        return f"blocks of {guard.block} positions are outside {MIN_BLOCK} to {MAX_BLOCK}"
    if guard and substreams != 1:
        return f"a staged file has one y substream, not {substreams}"
    types = [section.type for section in sections]
    if len(types) > MAX_SECTIONS:
        return f"it has {len(types)} sections, at most {MAX_SECTIONS} are allowed"
    if any(a >= b for a, b in zip([0, *types], types, strict=False)):
        return f"sections of types {types} are out of order"
    size = sum(len(section.data) for section in sections if section.type % 2 == 0)
    if size > MAX_METADATA:
        return f"its metadata has {size} bytes, at most {MAX_METADATA} are allowed"
    return ""


def _truncated(name: str) -> NoReturn:
    raise TruncatedError(f"{name} ends before its last field; copy or download it again")


def _corrupt(name: str, what: str) -> NoReturn:
    raise CorruptFileError(f"{name} is damaged: {what}; copy or download it again")
