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

from ugicm.runtime.bitstream import read_varint, write_varint
from ugicm.runtime.errors import BundleError, CorruptFileError, TruncatedError

TOTAL = 1 << 24
MAX_ENTRIES = TOTAL - 2  # the longest row that constriction accepts
_WORD = 4  # bytes of a range coder word
_SHORT, _LIKELY = 18, TOTAL * 2 // 3  # rows that decode faster from the left: at most so long, one entry so frequent
_BLOCK = 8192  # symbols that are counted at once

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

    def encoder_model(self, row: int) -> Any:
        """constriction's model of a row of two or more entries, for encoding; built at its first use."""
        model = self._encoder_models[row]
        if model is None:
            model = self._encoder_models[row] = _categorical(self._row(row), lazy=False)
        return model

    def decoder_model(self, row: int) -> Any:
        """The same frequencies for decoding: searched from the left where the row is short and one entry likely.

        constriction's cumulated form halves the interval, three nanoseconds a step whatever the data; its lazy form
        adds up probabilities from the left, which a processor predicts where the outcome is nearly always the same.
        """
        model = self._decoder_models[row]
        if model is None:
            frequencies = self._row(row)
            lazy = frequencies.size <= _SHORT and int(frequencies.max()) >= _LIKELY
            model = _categorical(frequencies, lazy=True) if lazy else self.encoder_model(row)
            self._decoder_models[row] = model
        return model

    def coded(self, rows: Rows) -> NDArray[np.bool_] | None:
        """For each symbol whether its row is coded at all; None where every row of the tables is."""
        first, skipped = self._skipped
        if not skipped:
            return None
        # One comparison where the skipped rows come before all others, as those of small scales do.
        return rows >= first if first == skipped else np.take(self.lengths > 0, rows, mode="clip")

    def _row(self, row: int) -> NDArray[np.uint32]:
        stop = int(self._stops[row])
        return self.frequencies[stop - int(self.lengths[row]) : stop]

    @cached_property
    def _skipped(self) -> tuple[int, int]:
        """How many rows are skipped before the first that is not, and in all."""
        skipped = self.lengths == 0
        return int(np.argmin(np.append(skipped, False))), int(np.count_nonzero(skipped))

    @cached_property
    def limits(self) -> NDArray[np.int32]:
        """int32 (rows,), the index of each row's escape; -1 for a skipped row."""
        return self.lengths - np.int32(1)

    @cached_property
    def starts(self) -> NDArray[np.int32]:
        """int32 (rows,), the value of each row's first entry; 0 for a skipped row."""
        return np.where(self.lengths > 0, self.offsets, np.int32(0))

    @cached_property
    def _encoder_models(self) -> list[Any]:
        return [None] * self.rows

    @cached_property
    def _decoder_models(self) -> list[Any]:
        return [None] * self.rows

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum(self.lengths, dtype=np.int64)


def _categorical(frequencies: NDArray[np.uint32], lazy: bool) -> Any:
    shares = frequencies.astype(np.float64)
    shares -= 1
    return constriction.stream.model.Categorical(shares, perfect=False, lazy=lazy)


def encode(symbols: NDArray[np.int32], rows: Rows, tables: Tables, substreams: int = 1) -> list[bytes]:
    """Code `symbols` (1-D int32, any values), each by its table row (`rows`, 1-D uint8 or uint16).

    Returns `substreams` byte strings, to be decoded by `decode` with the same rows and tables.
    Raises ValueError for a non-zero symbol in a skipped row and for arguments of the wrong kind.
    """
    if symbols.dtype != np.int32 or symbols.ndim != 1 or symbols.shape != rows.shape:
        raise ValueError(f"need as many int32 symbols as rows, got {symbols.dtype} {symbols.shape} and {rows.shape}")
    if substreams < 1:
        raise ValueError(f"{substreams} substreams; at least 1 is needed")
    return [encode_substream(symbols[part], rows[part], tables) for part in parts(rows, tables, substreams)]


def decode(streams: Sequence[bytes], rows: Rows, tables: Tables, name: str = "<bytes>") -> NDArray[np.int32]:
    """The int32 symbols that `encode` turned into `streams`, given the same `rows` and `tables`.

    Memory and time are bounded by len(rows) and the streams' own sizes, whatever the streams hold. Raises
    CorruptFileError, which calls the file `name`, for streams that break a rule of docs/bitstream.md, and
    ValueError for rows of the wrong kind.
    """
    out = np.zeros(rows.size, np.int32)
    for i, (stream, part) in enumerate(zip(streams, parts(rows, tables, len(streams), name), strict=True)):
        decode_substream(stream, rows[part], tables, out[part], damaged(name, i, len(streams)))
    return out


def damaged(name: str, number: int, count: int) -> str:
    """How the message of an error in a substream begins."""
    return f"{name} is damaged: substream {number} of {count}"


def parts(rows: Rows, tables: Tables, substreams: int, name: str = "<bytes>") -> list[slice]:
    """What part of the scan order each substream covers: consecutive, with equal shares of the coded symbols.

    A substream without coded symbols has an empty part, or one of skipped symbols alone.

    Raises:
        CorruptFileError: no substreams; it calls the file `name`.
        ValueError: rows of the wrong kind, or beyond the tables.
    """
    if rows.dtype not in (np.uint8, np.uint16) or rows.ndim != 1:
        raise ValueError(f"rows must be a 1-D uint8 or uint16 array, not {rows.dtype} {rows.shape}")
    top = int(rows.max(initial=0))
    if rows.size and top >= tables.rows:
        raise ValueError(f"row {top} used, the tables have {tables.rows}")
    if not substreams:
        raise CorruptFileError(f"{name} is damaged: it has no substreams; copy or download it again")
    if substreams == 1:
        return [slice(0, rows.size)]
    coded = tables.coded(rows)
    total = rows.size if coded is None else int(np.count_nonzero(coded))
    cuts = [i * total // substreams for i in range(substreams)]
    if coded is not None and total < rows.size:
        cuts = _positions(coded, cuts, total)
    cuts[0] = 0
    return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], rows.size], strict=True)]


def _positions(mask: NDArray[np.bool_], ordinals: list[int], total: int) -> list[int]:
    """Where the true elements of these ordinals stand, of `total`; the end for one past the last. Ascending."""
    if len(ordinals) * _BLOCK > mask.size:
        positions = np.append(np.flatnonzero(mask), mask.size)
        return [int(p) for p in positions[ordinals]]
    # Counting is a hundred times faster than listing, so only the blocks that are wanted are listed.
    counts = [np.count_nonzero(mask[at : at + _BLOCK]) for at in range(0, mask.size, _BLOCK)]
    ends = np.cumsum(counts)
    out = []
    for ordinal, block in zip(ordinals, np.searchsorted(ends, ordinals, side="right").tolist(), strict=True):
        if ordinal >= total:
            out.append(mask.size)
            continue
        inside = np.flatnonzero(mask[block * _BLOCK : (block + 1) * _BLOCK])
        out.append(block * _BLOCK + int(inside[ordinal - int(ends[block]) + counts[block]]))
    return out


def _grouped(rows: Rows, tables: Tables) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], list[int]]:
    """The coding order of a part: row ascending, stable. NumPy sorts by radix, one counting pass for uint8.

    Returns:
        The scan positions in coding order, without the skipped rows before the first that is not; the rows in use,
        ascending, skipped ones possibly among them; how many symbols each has; and where each ends in the order.
    """
    skipped = tables._skipped[0]
    behind = rows >= skipped
    count = np.count_nonzero(behind)
    if not count:
        nothing = np.zeros(0, np.intp)
        return nothing, nothing, nothing, []
    if 2 * count < rows.size:
        # Sorting takes longer than listing what there is to sort.
        positions = np.flatnonzero(behind)
        sparse = rows[positions]
        order = positions[np.argsort(sparse, kind="stable")]
    else:
        order = np.argsort(rows, kind="stable")[rows.size - count :]
    # Counting through the sorted rows spares the int64 copy of `rows` that np.bincount makes.
    in_order = rows[order]
    ends = np.searchsorted(in_order, np.arange(skipped, int(in_order[-1]) + 1, dtype=rows.dtype), side="right")
    counts = np.diff(ends, prepend=0)
    used = np.flatnonzero(counts)
    return order, used + skipped, counts[used], ends[used].tolist()


def encode_substream(symbols: NDArray[np.int32], rows: Rows, tables: Tables) -> bytes:
    """One substream: see `encode`."""
    if symbols.size == 0:
        return b""
    order, used, counts, ends = _grouped(rows, tables)
    grouped = symbols[order]
    if order.size < rows.size and np.count_nonzero(grouped) != np.count_nonzero(symbols):
        raise ValueError("a symbol of a skipped row is not zero")
    limits = np.repeat(tables.limits[used], counts)
    # Modulo 2**32 a symbol below the row's offset becomes a large index: one comparison finds both tails.
    indexes = (grouped - np.repeat(tables.starts[used], counts)).view(np.uint32)
    outside = indexes >= limits.view(np.uint32)
    section = _pack_escapes(grouped[outside]) if outside.any() else b""
    entries = np.minimum(indexes, limits.view(np.uint32)).view(np.int32)
    encoder = constriction.stream.queue.RangeEncoder()
    start, coded = 0, False
    for row, end, limit in zip(used.tolist(), ends, tables.limits[used].tolist(), strict=True):
        if limit > 0:
            encoder.encode(entries[start:end], tables.encoder_model(row))
        elif limit < 0 and entries[start:end].any():
            raise ValueError("a symbol of a skipped row is not zero")
        coded = coded or limit >= 0
        start = end
    if not coded:
        return b""
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return write_varint(len(section)) + section + words


def decode_substream(stream: bytes, rows: Rows, tables: Tables, out: NDArray[np.int32], where: str) -> None:
    """Decode one substream's symbols into `out` (scan order, zeros before). `where` begins the message of an error."""
    grouping = _grouped(rows, tables) if rows.size else None
    if grouping is None or not np.any(tables.lengths[grouping[1]]):
        if stream:
            _fail(where, "holds bytes but no symbols")
        return
    order, used, counts, ends = grouping
    section, words = _split(stream, where)
    grouped = np.zeros(order.size, np.int32)
    decoder = constriction.stream.queue.RangeDecoder(words)
    start, coded = 0, False
    try:
        for row, end, limit in zip(used.tolist(), ends, tables.limits[used].tolist(), strict=True):
            if limit > 0:
                grouped[start:end] = decoder.decode(tables.decoder_model(row), end - start)
                coded = True
            start = end
    except AssertionError:  # how constriction reports a state that no encoder reaches
        _fail(where, "holds words that no encoder writes")
    # An encoder writes at least one word, and none if it coded nothing; the library tells neither apart.
    if coded != (words.size > 0) or not decoder.maybe_exhausted():
        _fail(where, "does not end where its symbols end")
    escapes = np.flatnonzero(grouped == np.repeat(tables.limits[used], counts))
    grouped += np.repeat(tables.starts[used], counts)
    values = _unpack_escapes(section, escapes.size, where)
    if escapes.size:
        row = used[np.searchsorted(np.asarray(ends), escapes, side="right")]
        if np.any(values - tables.starts.view(np.uint32)[row] < tables.limits.view(np.uint32)[row]):
            _fail(where, "escapes a symbol that its row holds")
        grouped[escapes] = values.view(np.int32)
    out[order] = grouped


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
