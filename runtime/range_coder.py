"""Symbols to bytes and back: table-driven range coding with an escape code, over constriction.

`docs/bitstream.md` specifies the substreams and the coder bit by bit. Rows of integer frequencies are what a
stream means; constriction takes float probabilities and gives each of a row's n entries 1 plus its share of
2**24 - n, cumulated in float64 and floored. Handed the values `frequency - 1`, which are integers that sum to
2**24 - n, it scales by exactly 1, every partial sum is exact, and it lands on the integer frequencies
(tests/reference proves it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NoReturn

import constriction
import numpy as np
from numpy.typing import NDArray

from runtime.bitstream import read_varint, write_varint
from runtime.errors import BundleError, CorruptFileError, TruncatedError

TOTAL = 1 << 24
MAX_ENTRIES = TOTAL - 2  # the longest row that constriction accepts
_WORD = 4  # bytes of a range coder word

Rows = NDArray[np.uint8] | NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class Tables:
    """A set of rows of integer frequencies. Build it with `from_arrays`, which checks it.

    frequencies: uint32, all rows concatenated; those of a row are at least 1 and sum to 2**24.
    lengths: int32, entries of each row, the escape (its last entry) included. 0 marks a skipped row: its
    symbols are always 0 and not coded. 1 marks a row whose every symbol is escaped.
    offsets: int32, the value of each row's first entry; entry k stands for offset + k.
    """

    frequencies: NDArray[np.uint32]
    lengths: NDArray[np.int32]
    offsets: NDArray[np.int32]

    @classmethod
    def from_arrays(
        cls, frequencies: NDArray[Any], lengths: NDArray[Any], offsets: NDArray[Any], *, name: str = "tables"
    ) -> Tables:
        """Check the arrays and keep read-only copies. Raises BundleError, which calls them `name`."""

        def require(condition: bool, what: str) -> None:
            if not condition:
                raise BundleError(f"{name}: {what}; export the bundle again")

        for array, dtype, field in (
            (frequencies, np.uint32, "frequencies"),
            (lengths, np.int32, "lengths"),
            (offsets, np.int32, "offsets"),
        ):
            require(array.dtype == dtype and array.ndim == 1, f"{field} must be a 1-D {np.dtype(dtype)} array")
        require(lengths.size == offsets.size, f"{lengths.size} lengths but {offsets.size} offsets")
        require(lengths.size <= 1 << 16, f"{lengths.size} rows, at most 65536 are allowed")
        wide = lengths.astype(np.int64)
        require(bool(np.all((wide >= 0) & (wide <= MAX_ENTRIES))), f"row lengths must be 0 to {MAX_ENTRIES}")
        require(
            int(wide.sum()) == frequencies.size,
            f"the rows need {wide.sum()} frequencies, not {frequencies.size}",
        )
        require(bool(np.all(frequencies >= 1)), "every frequency must be at least 1")
        ends = np.concatenate([[0], np.cumsum(frequencies, dtype=np.int64)])
        stops = np.cumsum(wide)
        sums = ends[stops] - ends[stops - wide]
        require(bool(np.all((sums == TOTAL) | (wide == 0))), "the frequencies of a row must sum to 2**24")
        last = offsets.astype(np.int64) + np.maximum(wide - 2, 0)
        require(bool(np.all(last < 1 << 31)), "a row reaches past the largest int32 symbol")
        copies = [np.array(a, dtype=a.dtype.newbyteorder("=")) for a in (frequencies, lengths, offsets)]
        for copy in copies:
            copy.setflags(write=False)
        return cls(*copies)

    @property
    def rows(self) -> int:
        """How many rows there are; a row index is less than this."""
        return self.lengths.size

    def model(self, row: int) -> Any:
        """constriction's model of a row of two or more entries, built at its first use."""
        model = self._models.get(row)
        if model is None:
            stop = int(self._stops[row])
            shares = self.frequencies[stop - int(self.lengths[row]) : stop].astype(np.float64)
            shares -= 1
            model = self._models[row] = constriction.stream.model.Categorical(shares, perfect=False)
        return model

    @cached_property
    def skips(self) -> bool:
        """Whether any row is skipped."""
        return bool(np.any(self.lengths == 0))

    @cached_property
    def _models(self) -> dict[int, Any]:
        return {}

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64)


def encode(symbols: NDArray[np.int32], rows: Rows, tables: Tables, substreams: int = 1) -> list[bytes]:
    """Code `symbols` (1-D int32, any values), each by its table row (`rows`, 1-D uint8 or uint16).

    Returns `substreams` byte strings, to be decoded by `decode` with the same rows and tables.
    Raises ValueError for a non-zero symbol in a skipped row and for arguments of the wrong kind.
    """
    if symbols.dtype != np.int32 or symbols.ndim != 1 or symbols.shape != rows.shape:
        raise ValueError(f"need as many int32 symbols as rows, got {symbols.dtype} {symbols.shape} and {rows.shape}")
    if substreams < 1:
        raise ValueError(f"{substreams} substreams; at least 1 is needed")
    coded = _coded_positions(rows, tables)
    if coded is not None:
        if np.count_nonzero(symbols) != np.count_nonzero(symbols[coded]):
            raise ValueError("a symbol of a skipped row is not zero")
        symbols, rows = symbols[coded], rows[coded]
    bounds = [i * symbols.size // substreams for i in range(substreams + 1)]
    parts = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    return [_encode_substream(symbols[part], rows[part], tables) for part in parts]


def decode(streams: Sequence[bytes], rows: Rows, tables: Tables, name: str = "<bytes>") -> NDArray[np.int32]:
    """The int32 symbols that `encode` turned into `streams`, given the same `rows` and `tables`.

    Memory and time are bounded by len(rows) and the streams' own sizes, whatever the streams hold. Raises
    CorruptFileError, which calls the file `name`, for streams that break a rule of docs/bitstream.md, and
    ValueError for rows of the wrong kind.
    """
    coded = _coded_positions(rows, tables)
    if not streams:
        raise CorruptFileError(f"{name} is damaged: it has no substreams; copy or download it again")
    coded_rows = rows if coded is None else rows[coded]
    symbols = np.empty(coded_rows.size, np.int32)
    count = len(streams)
    for i, stream in enumerate(streams):
        part = slice(i * symbols.size // count, (i + 1) * symbols.size // count)
        _decode_substream(
            stream, coded_rows[part], tables, symbols[part], f"{name} is damaged: substream {i} of {count}"
        )
    if coded is None:
        return symbols
    out = np.zeros(rows.size, np.int32)
    out[coded] = symbols
    return out


def _coded_positions(rows: Rows, tables: Tables) -> NDArray[np.intp] | None:
    """Indexes of the symbols whose rows are not skipped, or None where that is all of them."""
    if rows.dtype not in (np.uint8, np.uint16) or rows.ndim != 1:
        raise ValueError(f"rows must be a 1-D uint8 or uint16 array, not {rows.dtype} {rows.shape}")
    top = int(rows.max(initial=0))
    if rows.size and top >= tables.rows:
        raise ValueError(f"row {top} used, the tables have {tables.rows}")
    if not tables.skips:
        return None
    coded = np.flatnonzero((tables.lengths > 0)[rows])
    return None if coded.size == rows.size else coded


def _groups(rows: Rows) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
    """The coding order (row ascending, stable; NumPy sorts these by radix) and each used row's part of it."""
    order = np.argsort(rows, kind="stable")
    # Counting through the sorted rows spares the int64 copy of `rows` that np.bincount makes.
    in_order = rows[order]
    used = np.arange(int(in_order[-1]) + 1, dtype=rows.dtype)
    stops = np.searchsorted(in_order, used, side="right").tolist()
    starts = [0, *stops[:-1]]
    return order, [(row, slice(a, b)) for row, (a, b) in enumerate(zip(starts, stops, strict=True)) if b > a]


def _encode_substream(symbols: NDArray[np.int32], rows: Rows, tables: Tables) -> bytes:
    if symbols.size == 0:
        return b""
    order, groups = _groups(rows)
    grouped = symbols[order]
    encoder = constriction.stream.queue.RangeEncoder()
    escaped: list[NDArray[np.int32]] = []
    for row, part in groups:
        values = grouped[part]
        escape = np.uint32(tables.lengths[row] - 1)
        # Modulo 2**32 a symbol below the row's offset becomes a large index: one comparison finds both tails.
        indexes = values.view(np.uint32) - tables.offsets.view(np.uint32)[row]
        outside = indexes >= escape
        if outside.any():
            escaped.append(values[outside])
        if escape > 0:
            encoder.encode(np.minimum(indexes, escape).view(np.int32), tables.model(row))
    section = _pack_escapes(np.concatenate(escaped)) if escaped else b""
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return write_varint(len(section)) + section + words


def _decode_substream(stream: bytes, rows: Rows, tables: Tables, out: NDArray[np.int32], where: str) -> None:
    """Decode one substream's symbols into `out` (scan order). `where` begins the message of an error."""
    if rows.size == 0:
        if stream:
            _fail(where, "holds bytes but no symbols")
        return
    section, words = _split(stream, where)
    order, groups = _groups(rows)
    grouped = np.empty(rows.size, np.uint32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    coded = False
    escapes: list[tuple[int, NDArray[np.intp]]] = []
    for row, part in groups:
        escape = int(tables.lengths[row]) - 1
        if escape == 0:
            escapes.append((row, np.arange(part.start, part.stop)))
            continue
        coded = True
        try:
            indexes = decoder.decode(tables.model(row), part.stop - part.start)
        except AssertionError:  # how constriction reports a state that no encoder reaches
            _fail(where, "holds words that no encoder writes")
        outside = np.flatnonzero(indexes == escape)
        if outside.size:
            escapes.append((row, outside + part.start))
        np.add(indexes.view(np.uint32), tables.offsets.view(np.uint32)[row], out=grouped[part])
    # An encoder writes at least one word, and none if it coded nothing; the library tells neither apart.
    if coded != (words.size > 0) or not decoder.maybe_exhausted():
        _fail(where, "does not end where its symbols end")
    values = _unpack_escapes(section, sum(at.size for _, at in escapes), where)
    start = 0
    for row, at in escapes:
        part_values = values[start : start + at.size]
        start += at.size
        if np.any(part_values - tables.offsets.view(np.uint32)[row] < np.uint32(tables.lengths[row] - 1)):
            _fail(where, "escapes a symbol that its row holds")
        grouped[at] = part_values
    out[order] = grouped.view(np.int32)


def _split(stream: bytes, where: str) -> tuple[bytes, NDArray[np.uint32]]:
    """The escape section of a non-empty substream and its range coder words."""
    try:
        size, start = read_varint(stream, 0, where)
    except (CorruptFileError, TruncatedError):
        _fail(where, "does not begin with a well-formed length")
    stop = start + size
    if stop > len(stream):
        _fail(where, "is shorter than its escape section")
    if (len(stream) - stop) % _WORD:
        _fail(where, "does not end on a whole word")
    # A copy, since bytes at an odd offset are no aligned uint32 array.
    return stream[start:stop], np.frombuffer(stream, "<u4", offset=stop).astype(np.uint32)


def _pack_escapes(values: NDArray[np.int32]) -> bytes:
    """The values' zigzag forms (0, -1, 1, -2, … become 0, 1, 2, 3, …) as concatenated LEB128 varints."""
    zigzag = ((values << 1) ^ (values >> 31)).view(np.uint32)
    shifts = np.arange(0, 35, 7, dtype=np.uint64)
    septets = (zigzag[:, None].astype(np.uint64) >> shifts) & np.uint64(0x7F)
    more = (zigzag[:, None].astype(np.uint64) >> (shifts + np.uint64(7))) > 0
    kept = np.concatenate([np.ones((values.size, 1), bool), more[:, :-1]], axis=1)
    packed: bytes = (septets | (more * np.uint64(0x80)))[kept].astype(np.uint8).tobytes()
    return packed


def _unpack_escapes(section: bytes, count: int, where: str) -> NDArray[np.uint32]:
    """The `count` values of an escape section as the bits of int32; strict about their number and form."""
    data = np.frombuffer(section, np.uint8)
    stops = np.flatnonzero(data < 0x80) + 1
    if stops.size != count or (data.size and data[-1] >= 0x80):
        _fail(where, f"needs {count} escaped symbols and holds {stops.size}")
    starts = np.concatenate([[0], stops[:-1]]).astype(np.intp)[:count]
    sizes = stops - starts
    if np.any((sizes > 1) & (data[stops - 1] == 0)) or np.any(sizes > 5):
        _fail(where, "holds an escaped symbol that is not in its shortest form")
    zigzag = np.zeros(count, np.uint64)
    for i in range(int(sizes.max(initial=0))):
        longer = sizes > i
        zigzag[longer] |= (data[starts[longer] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    if np.any(zigzag >> np.uint64(32)):
        _fail(where, "holds an escaped symbol of more than 32 bits")
    half = zigzag.astype(np.uint32)
    return (half >> np.uint32(1)) ^ (np.uint32(0) - (half & np.uint32(1)))


def _fail(where: str, what: str) -> NoReturn:
    raise CorruptFileError(f"{where} {what}; copy or download it again")
