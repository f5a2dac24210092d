"""The numbers and byte strings that a .ugic file is made of."""

from __future__ import annotations

from typing import NoReturn

from ugicm.runtime.errors import CorruptFileError, TruncatedError

MAX_VARINT_BYTES = 5  # every number of the format fits in 32 bits


def read_varint(data: bytes, at: int, name: str = "<bytes>") -> tuple[int, int]:
    """The varint at index `at` of `data` and the index after it.

    Raises TruncatedError where `data` ends inside it, CorruptFileError where it is not the shortest form of
    its value or the value needs more than 32 bits.
    """
    value = 0
    for i in range(MAX_VARINT_BYTES):
        if at + i >= len(data):
            truncated(name)
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            if byte == 0 and i > 0:
                corrupt(name, f"the number at byte {at} is not in its shortest form")
            if value >= 1 << 32:
                break
            return value, at + i + 1
    corrupt(name, f"the number at byte {at} needs more than 32 bits")


def take(data: bytes, at: int, size: int, name: str) -> tuple[bytes, int]:
    """`size` bytes and the index after them. Raises TruncatedError."""
    if size > len(data) - at:
        truncated(name)
    return data[at : at + size], at + size


def truncated(name: str) -> NoReturn:
    """Raises TruncatedError."""
    raise TruncatedError(f"{name} ends before its last field; copy or download it again")


def corrupt(name: str, what: str) -> NoReturn:
    """Raises CorruptFileError: `what` completes a sentence about the file."""
    raise CorruptFileError(f"{name} is damaged: {what}; copy or download it again")
