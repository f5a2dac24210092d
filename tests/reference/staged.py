"""Files of version 2, guarded rounding and staged substreams from docs/bitstream.md alone, in plain Python."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.reference.decoder import Refused, Substream, read_varint

SHIFTS = 64


@dataclass
class File:
    """The fields of a file of either version."""

    version: int = 1
    codec_id: bytes = b""
    quality: int = 0
    width: int = 0
    height: int = 0
    band_bits: int = 0  # 0: not staged
    block: int = 0
    sections: list[tuple[int, bytes]] = field(default_factory=list)
    z: bytes = b""
    y: list[bytes] = field(default_factory=list)
    symbol_checksum: int = 0


def read_file(data: bytes) -> File:
    if data[:4] != b"UGIC" or data[4:5] not in (b"\1", b"\2") or len(data) < 14:
        raise Refused("another format")
    file = File(version=data[4], codec_id=data[5:13], quality=data[13])
    at = 14

    def number() -> int:
        nonlocal at
        value, at = read_varint(data, at)
        return value

    def take(size: int) -> bytes:
        nonlocal at
        if size > len(data) - at:
            raise Refused("too short")
        at += size
        return data[at - size : at]

    file.width, file.height = number(), number()
    if file.version == 2:
        flags = number()
        if not 1 <= flags <= 3:
            raise Refused("flags")
        if flags & 1:
            file.band_bits, file.block = take(1)[0], number()
            if not (8 <= file.band_bits <= 20 and 32 <= file.block <= 1 << 20):
                raise Refused("guard")
        if flags & 2:
            count = number()
            for _ in range(count):
                kind, size = number(), number()
                file.sections.append((kind, take(size)))
            types = [kind for kind, _ in file.sections]
            if not 1 <= count <= 64 or types != sorted(set(types)) or 0 in types:
                raise Refused("number or order of sections")
            if any(kind % 2 and kind != 1 for kind in types):
                raise Refused("a section that must be known")
            if sum(len(body) for kind, body in file.sections if kind % 2 == 0) > 1 << 24:
                raise Refused("too much metadata")
    file.z = take(number())
    count = number()
    if not 1 <= count <= (1 if file.band_bits else 65535):
        raise Refused("number of substreams")
    lengths = [number() for _ in range(count)]
    file.y = [take(length) for length in lengths]
    file.symbol_checksum = int.from_bytes(take(4), "little")
    checksum = zlib.crc32(data[:at])
    if int.from_bytes(take(4), "little") != checksum or at != len(data):
        raise Refused("file checksum")
    if not (file.quality and 1 <= file.width <= 65535 and 1 <= file.height <= 65535):
        raise Refused("quality or size")
    if file.width * file.height > 1 << 28:
        raise Refused("size")
    return file


def move(number: int) -> int:
    """0, 1, -1, 2, -2, …, 32"""
    return (number + 1) // 2 if number % 2 else -(number // 2)


def rejected(v: int, k: int, bits: int, matters: Sequence[bool]) -> bool:
    """Whether an encoder whose index is v must not move it by k."""
    return any(m and v + 2 * k - ((2 * r + 1) << bits - 1) in (-1, 0) for r, m in enumerate(matters))


def guarded_rows(
    indexes: Sequence[float], numbers: Sequence[int], bits: int, block: int, skipped: Sequence[bool]
) -> list[int]:
    """The row of each index; `numbers` of the blocks' shifts, `skipped` whether each row of the tables is."""
    matters = [not (a and b) for a, b in zip(skipped, skipped[1:], strict=False)]
    rows = []
    for i, number in enumerate(numbers):
        cells = [math.floor(min(max(s, -1.0), len(skipped)) * 2**bits) for s in indexes[i * block : (i + 1) * block]]
        for earlier in range(number):
            if not any(rejected(v + d, move(earlier), bits, matters) for v in cells for d in (-1, 0, 1)):
                raise Refused("an earlier shift was free")
        rows += [min(max((v + 2 * move(number) + (1 << bits - 1)) >> bits, 0), len(skipped) - 1) for v in cells]
    return rows


def shift_frequencies(blocks: int, misses: int) -> list[int]:
    fit = (8 + blocks) * 65536 // (8 + blocks + 1 + misses)
    rest = 2**24 - SHIFTS
    row = []
    for _ in range(SHIFTS - 1):
        share = rest * fit // 65536
        row.append(1 + share)
        rest -= share
    return [*row, 1 + rest]


def decode_staged(
    stream: bytes,
    stages: Sequence[Callable[[list[list[int]]], Sequence[float]]],
    bits: int,
    block: int,
    tables: Sequence[Sequence[int]],
    offsets: Sequence[int],
) -> list[list[int]]:
    """The symbols of each stage; a stage is called with those of the stages before it and gives its scale indexes."""
    substream = Substream(stream, tables, offsets)
    skipped = [not row for row in tables]
    done: list[list[int]] = []
    blocks = misses = 0
    for stage in stages:
        indexes = stage(done)
        frequencies = shift_frequencies(blocks, misses)
        numbers = [substream.entry(frequencies) for _ in range(-(-len(indexes) // block))]
        blocks, misses = blocks + len(numbers), misses + sum(numbers)
        rows = guarded_rows(indexes, numbers, bits, block, skipped)
        values = iter(substream.symbols([row for row in rows if tables[row]]))
        done.append([next(values) if tables[row] else 0 for row in rows])
    substream.finish()
    return done
