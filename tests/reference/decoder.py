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


def decode_substream(
    stream: bytes, rows: Sequence[int], tables: Sequence[Sequence[int]], offsets: Sequence[int]
) -> list[int]:
    """The symbols of one substream, one for each entry of `rows`, all of which are rows with entries."""
    if not rows:
        if stream:
            raise Refused("bytes without symbols")
        return []
    size, at = read_varint(stream, 0)
    escapes, body = stream[at : at + size], stream[at + size :]
    if len(escapes) < size or len(body) % 4:
        raise Refused("lengths disagree")
    words = [int.from_bytes(body[i : i + 4], "little") for i in range(0, len(body), 4)]
    coder = RangeDecoder(words)
    symbols = [0] * len(rows)
    coded = False
    at = 0
    for i in sorted(range(len(rows)), key=lambda i: rows[i]):  # a stable sort
        frequencies, offset = tables[rows[i]], offsets[rows[i]]
        escape = len(frequencies) - 1
        index = 0
        if escape > 0:
            index = coder.decode(frequencies)
            coded = True
        if index < escape:
            symbols[i] = offset + index
            continue
        zigzag, at = read_varint(escapes, at)
        symbols[i] = zigzag >> 1 if zigzag % 2 == 0 else -(zigzag >> 1) - 1
        if offset <= symbols[i] < offset + escape:
            raise Refused("an escaped symbol that its row holds")
    if at != size:
        raise Refused("escapes left over")
    if bool(words) != coded or (coded and not coder.finished()):
        raise Refused("words left over or missing")
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
