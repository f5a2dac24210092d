"""Symbols to bytes: what `ugicm.runtime.range_coder` reads. `docs/bitstream.md` specifies it bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ugicm.runtime.coders import coder
from ugicm.runtime.encoder.container import write_varint
from ugicm.runtime.range_coder import grouped_rows, parts
from ugicm.runtime.tables import Rows, Tables


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


def encode_substream(symbols: NDArray[np.int32], rows: Rows, tables: Tables) -> bytes:
    """One substream: see `encode`."""
    encoder = SubstreamEncoder(tables)
    encoder.symbols(symbols, rows)
    return encoder.finish()


class SubstreamEncoder:
    """Writes one substream, all at once or a stage at a time: the range coder's state goes on from stage to stage."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._encoder = coder().RangeEncoder()
        self._escapes: list[bytes] = []
        self._coded = False

    def entries(self, entries: NDArray[np.int32], model: Any) -> None:
        """Code entries of a row of two or more that are none of the tables'."""
        self._encoder.encode(entries, model)
        self._coded = self._coded or entries.size > 0

    def symbols(self, symbols: NDArray[np.int32], rows: Rows) -> None:
        """Code 1-D int32 symbols by their rows. Raises ValueError for a symbol of a skipped row that is not zero."""
        tables = self._tables
        order, used, counts, ends = grouped_rows(rows, tables)
        grouped = symbols[order]
        if order.size < rows.size and np.count_nonzero(grouped) != np.count_nonzero(symbols):
            raise ValueError("a symbol of a skipped row is not zero")
        limits = np.repeat(tables.limits[used], counts)
        # Modulo 2**32 a symbol below the row's offset becomes a large index: one comparison finds both tails.
        indexes = (grouped - np.repeat(tables.starts[used], counts)).view(np.uint32)
        outside = indexes >= limits.view(np.uint32)
        if outside.any():
            self._escapes.append(_pack_escapes(grouped[outside]))
        entries = np.minimum(indexes, limits.view(np.uint32)).view(np.int32)
        start = 0
        for row, end, limit in zip(used.tolist(), ends, tables.limits[used].tolist(), strict=True):
            if limit > 0:
                self._encoder.encode(entries[start:end], tables.encoder_model(row))
            elif limit < 0 and entries[start:end].any():
                raise ValueError("a symbol of a skipped row is not zero")
            self._coded = self._coded or limit >= 0
            start = end

    def finish(self) -> bytes:
        """The substream; empty if nothing was coded."""
        if not self._coded:
            return b""
        section = b"".join(self._escapes)
        words: bytes = self._encoder.get_compressed().astype("<u4").tobytes()
        return write_varint(len(section)) + section + words


def _pack_escapes(values: NDArray[np.int32]) -> bytes:
    """The values' zigzag forms (0, -1, 1, -2, … become 0, 1, 2, 3, …) as concatenated LEB128 varints."""
    zigzag = ((values << 1) ^ (values >> 31)).view(np.uint32)
    shifts = np.arange(0, 35, 7, dtype=np.uint64)
    septets = (zigzag[:, None].astype(np.uint64) >> shifts) & np.uint64(0x7F)
    more = (zigzag[:, None].astype(np.uint64) >> (shifts + np.uint64(7))) > 0
    kept = np.concatenate([np.ones((values.size, 1), bool), more[:, :-1]], axis=1)
    packed: bytes = (septets | (more * np.uint64(0x80)))[kept].astype(np.uint8).tobytes()
    return packed
