"""Symbols to bytes and back: table-driven range coding with an escape code; `docs/bitstream.md` specifies every bit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.coders import coder
from ugicm.runtime.errors import CorruptFileError, TruncatedError
from ugicm.runtime.fields import Fields
from ugicm.runtime.tables import Rows, Tables


def decode(streams: Sequence[bytes], rows: Rows, tables: Tables, name: str = "<bytes>") -> NDArray[np.int32]:
    """The int32 symbols that `encode` turned into `streams`, given the same `rows` and `tables`.

    Memory and time are bounded by len(rows) and the streams' own sizes. Raises CorruptFileError, which calls the file
    `name`, for streams that break a rule of docs/bitstream.md, and ValueError for rows of the wrong kind.
    """
    out = np.zeros(rows.size, np.int32)
    for i, (stream, part) in enumerate(zip(streams, parts(rows, tables, len(streams), name), strict=True)):
        decode_substream(stream, rows[part], tables, out[part], damaged(name, i, len(streams)))
    return out


def damaged(name: str, number: int, count: int) -> str:
    """How the message of an error in a substream begins."""
    return f"{name} is damaged: substream {number} of {count}"


def parts(rows: Rows, tables: Tables, substreams: int, name: str = "<bytes>") -> list[slice]:
    """The part of the scan order that each substream covers: consecutive, with equal shares of the coded symbols.

    A substream without coded symbols has an empty part, or one of skipped symbols alone. Raises CorruptFileError, which
    calls the file `name`: no substreams; ValueError: rows of the wrong kind, or beyond the tables.
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
    from ugicm.runtime.substreams import shares

    return shares(tables.coded(rows), rows.size, substreams)


def grouped_rows(rows: Rows, tables: Tables) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], list[int]]:
    """The coding order of a part: row ascending, stable. NumPy sorts by radix, one counting pass for uint8.

    Returns:
        The scan positions in coding order, without the skipped rows before the first that is not; the rows in use,
        ascending, skipped ones possibly among them; how many symbols each has; and where each ends in the order.
    """
    skipped = tables.skipped[0]
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
    in_order = rows[order]  # counting through them spares the int64 copy of `rows` that np.bincount makes
    ends = np.searchsorted(in_order, np.arange(skipped, int(in_order[-1]) + 1, dtype=rows.dtype), side="right")
    counts = np.diff(ends, prepend=0)
    used = np.flatnonzero(counts)
    return order, used + skipped, counts[used], ends[used].tolist()


def decode_substream(stream: bytes, rows: Rows, tables: Tables, out: NDArray[np.int32], where: str) -> None:
    """Decode one substream's symbols into `out` (scan order, zeros before). `where` begins the message of an error."""
    decoder = SubstreamDecoder(stream, tables, where)
    decoder.symbols(rows, out)
    decoder.finish()


class SubstreamDecoder:
    """Reads what `SubstreamEncoder` wrote, in the same steps. `where` begins the message of an error.

    Every method raises CorruptFileError for a stream that breaks a rule of docs/bitstream.md.
    """

    def __init__(self, stream: bytes, tables: Tables, where: str) -> None:
        self._stream, self._tables, self._where = stream, tables, where
        self._unpacked = 0  # escapes so far
        self._coded = False

    @cached_property
    def _parts(self) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.uint32], Any]:
        """The escape section, where its varints begin (and the last one ends), the words and their decoder."""
        section, words = _split(self._stream, self._where)
        data = np.frombuffer(section, np.uint8)
        return data, np.append(0, np.flatnonzero(data < 0x80) + 1), words, coder().RangeDecoder(words)

    def entries(self, count: int, model: Any) -> NDArray[np.int32]:
        """The next `count` entries of a row that is none of the tables'."""
        if not count:
            return np.zeros(0, np.int32)
        decoder = self._parts[3]
        try:
            entries: NDArray[np.int32] = decoder.decode(model, count)
        except AssertionError:  # how coders report a state that no encoder reaches
            _fail(self._where, "holds words that no encoder writes")
        self._coded = True
        return entries

    def symbols(self, rows: Rows, out: NDArray[np.int32]) -> None:
        """Decode the symbols of these rows into `out` (zeros before), 1-D int32 of as many."""
        tables = self._tables
        order, used, counts, ends = grouped_rows(rows, tables)
        if not np.any(tables.lengths[used]):
            return
        data, bounds, _, _ = self._parts
        grouped = np.zeros(order.size, np.int32)
        start = 0
        for row, end, limit in zip(used.tolist(), ends, tables.limits[used].tolist(), strict=True):
            if limit > 0:
                grouped[start:end] = self.entries(end - start, tables.decoder_model(row))
            start = end
        escapes = np.flatnonzero(grouped == np.repeat(tables.limits[used], counts))
        grouped += np.repeat(tables.starts[used], counts)
        if escapes.size:
            first, self._unpacked = self._unpacked, self._unpacked + escapes.size
            if self._unpacked >= bounds.size:
                self._check_escapes()
            values = _unpack_escapes(data, bounds[first : self._unpacked + 1], self._where)
            row = used[np.searchsorted(np.asarray(ends), escapes, side="right")]
            if np.any(values - tables.starts.view(np.uint32)[row] < tables.limits.view(np.uint32)[row]):
                _fail(self._where, "escapes a symbol that its row holds")
            grouped[escapes] = values.view(np.int32)
        out[order] = grouped

    def finish(self) -> None:
        """Refuse what is left over or missing."""
        if not (self._coded or self._unpacked):
            if self._stream:
                _fail(self._where, "holds bytes but no symbols")
            return
        _, _, words, decoder = self._parts
        # An encoder writes at least one word, and none if it coded nothing; the library tells neither apart.
        if self._coded != (words.size > 0) or not decoder.maybe_exhausted():
            _fail(self._where, "does not end where its symbols end")
        self._check_escapes()

    def _check_escapes(self) -> None:
        data, bounds, _, _ = self._parts
        if bounds.size - 1 != self._unpacked or bounds[-1] != data.size:
            _fail(self._where, f"needs {self._unpacked} escaped symbols and holds {bounds.size - 1}")


def _split(stream: bytes, where: str) -> tuple[bytes, NDArray[np.uint32]]:
    """The escape section of a non-empty substream and its range coder words."""
    fields = Fields(stream)
    try:
        size = fields.varint()
    except (CorruptFileError, TruncatedError):
        _fail(where, "does not begin with a well-formed length")
    if size > len(stream) - fields.at:
        _fail(where, "is shorter than its escape section")
    section = fields.take(size)
    if (len(stream) - fields.at) % 4:
        _fail(where, "does not end on a whole word")
    # A copy, since bytes at an odd offset are no aligned uint32 array.
    return section, np.frombuffer(stream, "<u4", offset=fields.at).astype(np.uint32)


def _unpack_escapes(data: NDArray[np.uint8], bounds: NDArray[np.intp], where: str) -> NDArray[np.uint32]:
    """The values of the varints between `bounds` as the bits of int32; strict about their form."""
    starts, sizes = bounds[:-1], np.diff(bounds)
    if np.any((sizes > 1) & (data[bounds[1:] - 1] == 0)) or np.any(sizes > 5):
        _fail(where, "holds an escaped symbol that is not in its shortest form")
    zigzag = np.zeros(sizes.size, np.uint64)
    for i in range(int(sizes.max(initial=0))):
        longer = sizes > i
        zigzag[longer] |= (data[starts[longer] + i] & 0x7F).astype(np.uint64) << np.uint64(7 * i)
    if np.any(zigzag >> np.uint64(32)):
        _fail(where, "holds an escaped symbol of more than 32 bits")
    half = zigzag.astype(np.uint32)
    return (half >> np.uint32(1)) ^ (np.uint32(0) - (half & np.uint32(1)))


def _fail(where: str, what: str) -> NoReturn:
    raise CorruptFileError(f"{where} {what}; copy or download it again")
