"""A decoder of symbols written from docs/bitstream.md and the integer tables alone, in plain Python.

It keeps the page honest: what the runtime decodes through a library must come out of these lines too.
"""

from collections.abc import Sequence

MASK = (1 << 64) - 1
PRECISION = 24


class Refused(Exception):
    """The stream breaks a rule of docs/bitstream.md."""


class RangeDecoder:
    def __init__(self, words: Sequence[int]) -> None:
        self.words = words
        self.next = 0
        self.lower = 0
        self.range = MASK
        self.point = self._word() << 32 | self._word()

    def _word(self) -> int:
        word = self.words[self.next] if self.next < len(self.words) else 0
        self.next += 1
        return word

    def decode(self, frequencies: Sequence[int]) -> int:
        scale = self.range >> PRECISION
        quantile = (self.point - self.lower & MASK) // scale
        if quantile >= 1 << PRECISION:
            raise Refused("no encoder reaches this state")
        index = cumulative = 0
        while cumulative + frequencies[index] <= quantile:
            cumulative += frequencies[index]
            index += 1
        self.lower = self.lower + scale * cumulative & MASK
        self.range = scale * frequencies[index]
        if self.range < 1 << 32:
            self.lower = self.lower << 32 & MASK
            self.range <<= 32
            self.point = self.point << 32 & MASK | self._word()
        return index

    def finished(self) -> bool:
        return self.next >= len(self.words) and (self.point - self.lower & MASK) < (1 << 33) - 1


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at == len(data) or shift > 28:
            raise Refused("varint ends too late or too early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if value >= 1 << 32 or (byte == 0 and shift > 7):
        raise Refused("varint too large or not minimal")
    return value, at


class Substream:
    """One substream, read in as many steps as it was written in; `tables` and `offsets` as of `decode_symbols`."""

    def __init__(self, stream: bytes, tables: Sequence[Sequence[int]], offsets: Sequence[int]) -> None:
        self.tables, self.offsets = tables, offsets
        self.size, at = read_varint(stream, 0)
        self.escapes, body = stream[at : at + self.size], stream[at + self.size :]
        if len(self.escapes) < self.size or len(body) % 4:
            raise Refused("lengths disagree")
        self.coder = RangeDecoder([int.from_bytes(body[i : i + 4], "little") for i in range(0, len(body), 4)])
        self.coded = False
        self.at = 0  # in the escape section

    def entry(self, frequencies: Sequence[int]) -> int:
        self.coded = True
        return self.coder.decode(frequencies)

    def symbols(self, rows: Sequence[int]) -> list[int]:
        """One symbol for each entry of `rows`, all of which are rows with entries."""
        symbols = [0] * len(rows)
        for i in sorted(range(len(rows)), key=lambda i: rows[i]):  # a stable sort
            frequencies, offset = self.tables[rows[i]], self.offsets[rows[i]]
            escape = len(frequencies) - 1
            index = self.entry(frequencies) if escape > 0 else 0
            if index < escape:
                symbols[i] = offset + index
                continue
            zigzag, self.at = read_varint(self.escapes, self.at)
            symbols[i] = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1
            if offset <= symbols[i] < offset + escape:
                raise Refused("an escaped symbol that its row holds")
        return symbols

    def finish(self) -> None:
        if self.at != self.size:
            raise Refused("escapes left over")
        if bool(self.coder.words) != self.coded or (self.coded and not self.coder.finished()):
            raise Refused("words left over or missing")


def decode_substream(
    stream: bytes, rows: Sequence[int], tables: Sequence[Sequence[int]], offsets: Sequence[int]
) -> list[int]:
    """The symbols of one substream, one for each entry of `rows`, all of which are rows with entries."""
    if not rows:
        if stream:
            raise Refused("bytes without symbols")
        return []
    substream = Substream(stream, tables, offsets)
    symbols = substream.symbols(rows)
    substream.finish()
    return symbols


def decode_symbols(
    streams: Sequence[bytes], rows: Sequence[int], tables: Sequence[Sequence[int]], offsets: Sequence[int]
) -> list[int]:
    """All symbols in scan order; `rows` holds the row of each, `tables` the frequencies of each row."""
    if not streams:
        raise Refused("no substreams")
    coded = [i for i, row in enumerate(rows) if tables[row]]
    symbols = [0] * len(rows)
    for s, stream in enumerate(streams):
        part = coded[s * len(coded) // len(streams) : (s + 1) * len(coded) // len(streams)]
        values = decode_substream(stream, [rows[i] for i in part], tables, offsets)
        for i, value in zip(part, values, strict=True):
            symbols[i] = value
    return symbols
