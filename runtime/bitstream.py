"""The container of a .ugic file: a small header, the entropy-coded substreams, two checksums.

`docs/bitstream.md` is the specification; this module and that page say the same thing. Nothing here knows a
network, a table or a shape: the header is read, bounded and checked, the substreams stay bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.errors import NotUgicError, VersionError
from ugicm.runtime.fields import MAX_VARINT_BYTES, corrupt, read_varint, take

if TYPE_CHECKING:
    from ugicm.runtime.additions import Guard, Section

MAGIC = b"UGIC"
VERSIONS = (1, 2)
CODEC_ID_BYTES = 8
MAX_SIDE = 65535  # pixels
MAX_PIXELS = 1 << 28
MAX_SUBSTREAMS = 65535
_CHECKED_AT_ONCE = 1 << 18  # symbols
HEADER_BYTES = len(MAGIC) + 1 + CODEC_ID_BYTES + 1 + 2 * MAX_VARINT_BYTES


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
    """The fields before the substreams; those of `Bitstream`."""

    codec_id: bytes
    quality: int
    width: int
    height: int


def parse(data: bytes, name: str = "<bytes>") -> Bitstream:
    """Read and check the .ugic file `data`; `name` is what error messages call it.

    Every field is bounded by what is left of `data` before it is read, so hostile sizes allocate nothing.

    Sections of even types that nobody knows are kept as they are.

    Raises NotUgicError (magic), VersionError (version, or a flag or section that must be understood and is not),
    TruncatedError (a field or length reaches past the end; true of every proper prefix of a file), CorruptFileError
    (trailing bytes, file checksum, non-minimal or over-long varints, a value outside the ranges of `Bitstream`).
    """
    header, at = _header(data, name)
    guard: Guard | None = None
    sections: tuple[Section, ...] = ()
    if data[len(MAGIC)] > 1:
        from ugicm.runtime import additions

        guard, sections, at = additions.read_additions(data, at, name)
    z_length, at = read_varint(data, at, name)
    z, at = take(data, at, z_length, name)
    count, at = read_varint(data, at, name)
    if count > MAX_SUBSTREAMS:
        corrupt(name, f"it claims {count} substreams, at most {MAX_SUBSTREAMS} are allowed")
    lengths = []
    for _ in range(count):
        length, at = read_varint(data, at, name)
        lengths.append(length)
    y = []
    for length in lengths:
        substream, at = take(data, at, length, name)
        y.append(substream)
    checksum, at = take(data, at, 4, name)
    file_checksum, end = take(data, at, 4, name)
    if end != len(data):
        corrupt(name, f"{len(data) - end} bytes follow its last field")
    if zlib.crc32(memoryview(data)[:at]) != int.from_bytes(file_checksum, "little"):
        corrupt(name, "its file checksum does not match its bytes")
    if fault := out_of_range(header.quality, header.width, header.height, count):
        corrupt(name, fault)
    if data[len(MAGIC)] > 1 and (fault := additions.misfit(guard, sections, count)):
        corrupt(name, fault)
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
    """The header in the first HEADER_BYTES of a file (all of a shorter one), without a look at the rest.

    Raises NotUgicError, VersionError, TruncatedError, CorruptFileError, as `parse` does for these fields.
    """
    header, _ = _header(start, name)
    if fault := out_of_range(header.quality, header.width, header.height, 1):
        corrupt(name, fault)
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
    codec_id, at = take(data, at, CODEC_ID_BYTES, name)
    quality, at = take(data, at, 1, name)
    width, at = read_varint(data, at, name)
    height, at = read_varint(data, at, name)
    return Header(codec_id, quality[0], width, height), at


def out_of_range(quality: int, width: int, height: int, substreams: int) -> str:
    """The fault in these header fields, or an empty string."""
    if not 1 <= quality <= 255:
        return f"the quality {quality} is outside 1 to 255"
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        return f"the image size {width}x{height} is outside 1x1 to {MAX_SIDE} a side and {MAX_PIXELS} pixels"
    if not 1 <= substreams <= MAX_SUBSTREAMS:
        return f"the number of y substreams {substreams} is outside 1 to {MAX_SUBSTREAMS}"
    return ""
