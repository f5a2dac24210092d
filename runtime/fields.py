"""The numbers and byte strings that a .ugic file is made of."""

from __future__ import annotations

from typing import NoReturn

from ugicm.runtime.errors import CorruptFileError, TruncatedError

MAX_VARINT_BYTES = 5  # every number of the format fits in 32 bits


class Fields:
    """Reads the fields of `data` in order, the next at index `at`; `name` is what errors call the file."""

    def __init__(self, data: bytes, name: str = "<bytes>", at: int = 0) -> None:
        self.data, self.name, self.at = data, name, at

    def varint(self) -> int:
        """The next number.

        Raises TruncatedError where the data end inside it, CorruptFileError where it is not the shortest form of
        its value or the value needs more than 32 bits.
        """
        start, value = self.at, 0
        for i in range(MAX_VARINT_BYTES):
            (byte,) = self.take(1)
            value |= (byte & 0x7F) << 7 * i
            if byte < 0x80:
                if byte == 0 and i > 0:
                    self.corrupt(f"the number at byte {start} is not in its shortest form")
                if value >= 1 << 32:
                    break
                return value
        self.corrupt(f"the number at byte {start} needs more than 32 bits")

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises TruncatedError."""
        if size > len(self.data) - self.at:
            raise TruncatedError(f"{self.name} ends before its last field; copy or download it again")
        self.at += size
        return self.data[self.at - size : self.at]

    def corrupt(self, what: str) -> NoReturn:
        """Raises CorruptFileError: `what` completes a sentence about the file."""
        raise CorruptFileError(f"{self.name} is damaged: {what}; copy or download it again")
