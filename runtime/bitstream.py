"""The container of a .ugic file, specified in `docs/bitstream.md`: a header, entropy-coded substreams, two checksums.

Nothing here knows a network, a table or a shape: the header is read, bounded and checked, the substreams stay bytes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.errors import NotUgicError, VersionError
from ugicm.runtime.fields import MAX_VARINT_BYTES, Fields

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
class Header:
    """The fields before the substreams.

    codec_id: 8 bytes that name everything the entropy path depends on.
    quality: 1 to 255.
    width, height: of the image before padding, in pixels; 1 to 65535 each, their product at most 2**28.
    """

    codec_id: bytes
    quality: int
    width: int
    height: int


@dataclass(frozen=True)
class Bitstream(Header):
    """One encoded image, its substreams still entropy-coded.

    z: the hyper-latent's single substream.
    y: the latent's substreams in scan order, 1 to 65535 of them; exactly one where there is a guard.
    symbol_checksum: what `symbol_checksum` returns for the symbols that were encoded.
    guard: of a staged codec's file; None for other codecs.
    sections: at most 64, of ascending types; those of even types hold at most 2**24 bytes together.
    """

    z: bytes
    y: tuple[bytes, ...]
    symbol_checksum: int
    guard: Guard | None = None
    sections: tuple[Section, ...] = ()

    @property
    def version(self) -> int:
        """Of the format: 1 where neither a guard nor a section needs more."""
        return 2 if self.guard or self.sections else 1


def parse(data: bytes, name: str = "<bytes>") -> Bitstream:
    """Read and check the .ugic file `data`; `name` is what error messages call it.

    Every field is bounded by what is left of `data` before it is read, so hostile sizes allocate nothing. Sections of
    even types that nobody knows are kept as they are.

    Raises NotUgicError (magic), VersionError (version, or a flag or section that must be understood and is not),
    TruncatedError (a field or length reaches past the end; true of every proper prefix of a file), CorruptFileError
    (trailing bytes, file checksum, non-minimal or over-long varints, a value outside the ranges of `Bitstream`).
    """
    fields = Fields(data, name)
    header, version = _header(fields)
    guard: Guard | None = None
    sections: tuple[Section, ...] = ()
    if version > 1:
        from ugicm.runtime import additions

        guard, sections = additions.read_additions(fields)
    z = fields.take(fields.varint())
    count = fields.varint()
    if count > MAX_SUBSTREAMS:
        fields.corrupt(f"it claims {count} substreams, at most {MAX_SUBSTREAMS} are allowed")
    lengths = [fields.varint() for _ in range(count)]
    y = tuple(map(fields.take, lengths))
    checksum = int.from_bytes(fields.take(4), "little")
    found = zlib.crc32(memoryview(data)[: fields.at])
    said = int.from_bytes(fields.take(4), "little")
    if fields.at != len(data):
        fields.corrupt(f"{len(data) - fields.at} bytes follow its last field")
    if found != said:
        fields.corrupt("its file checksum does not match its bytes")
    if fault := out_of_range(header, count) or (additions.misfit(guard, sections, count) if version > 1 else ""):
        fields.corrupt(fault)
    return Bitstream(**vars(header), z=z, y=y, symbol_checksum=checksum, guard=guard, sections=sections)


def read_header(start: bytes, name: str = "<bytes>") -> Header:
    """The header in the first HEADER_BYTES of a file (all of a shorter one); raises for it what `parse` raises."""
    fields = Fields(start, name)
    header, _ = _header(fields)
    if fault := out_of_range(header, 1):
        fields.corrupt(fault)
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


def _header(fields: Fields) -> tuple[Header, int]:
    """The fields before the substreams, their ranges not yet checked, and the version of the format."""
    data, name = fields.data, fields.name
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise NotUgicError(f"{name} is not a .ugic file: it does not begin with {MAGIC.decode()}")
    fields.take(len(MAGIC))
    (version,) = fields.take(1)
    if version not in VERSIONS:
        raise VersionError(
            f"{name} has format version {version}, this release reads 1 and 2; install one that reads it"
        )
    codec_id, (quality,) = fields.take(CODEC_ID_BYTES), fields.take(1)
    return Header(codec_id, quality, width=fields.varint(), height=fields.varint()), version


def out_of_range(header: Header, substreams: int) -> str:
    """The fault in a header or the number of `y` substreams, or an empty string."""
    quality, width, height = header.quality, header.width, header.height
    if not 1 <= quality <= 255:
        return f"the quality {quality} is outside 1 to 255"
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        return f"the image size {width}x{height} is outside 1x1 to {MAX_SIDE} a side and {MAX_PIXELS} pixels"
    if not 1 <= substreams <= MAX_SUBSTREAMS:
        return f"the number of y substreams {substreams} is outside 1 to {MAX_SUBSTREAMS}"
    return ""
