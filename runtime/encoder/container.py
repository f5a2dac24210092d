"""Writes the container of a .ugic file; `ugicm.runtime.bitstream` reads it."""

from __future__ import annotations

import zlib

from ugicm.runtime.additions import SECTIONS, STAGED, misfit
from ugicm.runtime.bitstream import CODEC_ID_BYTES, MAGIC, Bitstream, out_of_range


def pack(b: Bitstream) -> bytes:
    """The bytes of the .ugic file of `b`. Raises ValueError for a field outside the ranges of `Bitstream`."""
    if len(b.codec_id) != CODEC_ID_BYTES:
        raise ValueError(f"the codec id has {len(b.codec_id)} bytes, it must have {CODEC_ID_BYTES}")
    if fault := out_of_range(b, len(b.y)) or misfit(b.guard, b.sections, len(b.y)):
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
        head.append(write_varint(STAGED * bool(b.guard) | SECTIONS * bool(b.sections)))
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
