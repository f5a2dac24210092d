"""Protocol buffers, written."""

from __future__ import annotations


def field(number: int, value: int | bytes | memoryview) -> bytes:
    """A field of a message that holds numbers and lengths of bytes, nothing of fixed size."""
    if isinstance(value, int):
        return _varint_bytes(number << 3) + _varint_bytes(value)
    return b"".join([_varint_bytes(number << 3 | 2), _varint_bytes(len(value)), value])


def _varint_bytes(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
