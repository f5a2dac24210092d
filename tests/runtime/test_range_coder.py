"""Any symbols, rows and tables survive the round trip; no stream causes worse than CorruptFileError."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coders import each_coder  # noqa: F401
from ugicm.runtime import range_coder
from ugicm.runtime.coders import coder
from ugicm.runtime.commands.coder import coder_name
from ugicm.runtime.encoder.range_encoder import encode
from ugicm.runtime.errors import BundleError, CorruptFileError
from ugicm.runtime.range_coder import decode
from ugicm.runtime.tables import MAX_ENTRIES, Tables

TOTAL = 1 << 24
INT32 = np.iinfo(np.int32)


def random_frequencies(rng, length, concentration):
    """`length` integers of at least 1 that sum to 2**24; a small concentration makes extreme skew."""
    shares = rng.gamma(concentration, size=length) + 1e-300
    row = 1 + np.floor(shares / shares.sum() * (TOTAL - length)).astype(np.int64)
    row[rng.integers(length)] += TOTAL - row.sum()
    return row


def make_tables(rows, offsets):
    """Tables of lists of frequencies; an empty list is a skipped row."""
    flat = np.array([f for row in rows for f in row], np.uint32)
    return Tables.from_arrays(flat, np.array([len(r) for r in rows], np.int32), np.array(offsets, np.int32))


@st.composite
def coded_inputs(draw, max_symbols=200):
    """(symbols, rows, tables, substreams): skipped, escape-only, skewed rows; symbols in and out of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    lengths = draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 7, 40, 300]), min_size=1, max_size=8))
    table = [random_frequencies(rng, n, rng.choice([0.02, 1.0, 50.0])).tolist() if n else [] for n in lengths]
    near = st.integers(-50, 50)
    far = st.sampled_from([INT32.min, INT32.min + 1, INT32.max - 400, INT32.max - 298])
    offsets = [draw(st.one_of(near, far)) for _ in lengths]
    tables = make_tables(table, offsets)
    count = draw(st.integers(0, max_symbols))
    rows = rng.integers(0, len(lengths), count).astype(draw(st.sampled_from([np.uint8, np.uint16])))
    size, start = tables.lengths.astype(np.int64)[rows], tables.offsets.astype(np.int64)[rows]
    inside = start + rng.integers(0, np.maximum(size, 1))
    edge = start + rng.choice([-1, 0, 1], count) + size * rng.integers(0, 2, count)
    anything = rng.integers(INT32.min, INT32.max, count, endpoint=True)
    extreme = rng.choice([INT32.min, INT32.max, 0, -1], count)
    kind = rng.choice(4, count, p=[0.7, 0.1, 0.1, 0.1])
    symbols = np.choose(kind, [inside, edge, anything, extreme]).clip(INT32.min, INT32.max)
    symbols[size == 0] = 0
    return symbols.astype(np.int32), rows, tables, draw(st.integers(1, 9))


@settings(deadline=None, max_examples=300)
@given(coded_inputs())
def test_round_trip(case):
    symbols, rows, tables, substreams = case
    streams = encode(symbols, rows, tables, substreams)
    decoded = decode(streams, rows, tables)
    assert len(streams) == substreams
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


@pytest.mark.parametrize("substreams", [1, 2, 1000])
def test_no_symbols(substreams):
    tables = make_tables([[1, TOTAL - 1]], [0])
    streams = encode(np.zeros(0, np.int32), np.zeros(0, np.uint8), tables, substreams)
    assert streams == [b""] * substreams
    assert decode(streams, np.zeros(0, np.uint8), tables).size == 0


def test_more_substreams_than_symbols():
    tables = make_tables([[TOTAL // 2, TOTAL // 4, TOTAL // 4]], [0])
    symbols, rows = np.array([0, 1, 7], np.int32), np.zeros(3, np.uint8)
    streams = encode(symbols, rows, tables, 10)
    assert [bool(s) for s in streams] == [i * 3 // 10 < (i + 1) * 3 // 10 for i in range(10)]
    np.testing.assert_array_equal(decode(streams, rows, tables), symbols)


def test_substreams_hold_equal_parts_of_the_coded_symbols():
    tables = make_tables([[], [TOTAL // 2, TOTAL // 2]], [0, 0])
    rows = np.array([0, 0, 0, 1, 1, 0, 1, 1], np.uint8)
    symbols = np.array([0, 0, 0, 0, 5, 0, 0, 6], np.int32)
    first, second = encode(symbols, rows, tables, 2)
    assert [first[:2], second[:2]] == [b"\x01\x0a", b"\x01\x0c"]


@pytest.mark.parametrize("skipped", [(0,), (0, 1), (2,), (0, 3), (0, 1, 2, 3)])
def test_parts_of_many_symbols_hold_equal_shares_whatever_rows_are_skipped(skipped):
    tables = make_tables([[] if row in skipped else [TOTAL // 2, TOTAL // 2] for row in range(4)], [0] * 4)
    rng = np.random.default_rng(3)
    rows = np.repeat(rng.integers(0, 4, 400), rng.integers(1, 400, 400)).astype(np.uint8)
    total = int(np.count_nonzero(~np.isin(rows, skipped)))
    parts = range_coder.parts(rows, tables, 5)
    shares = [int(np.count_nonzero(~np.isin(rows[part], skipped))) for part in parts]
    assert shares == [(i + 1) * total // 5 - i * total // 5 for i in range(5)]
    assert [parts[0].start, *(part.stop for part in parts)] == [*(part.start for part in parts), rows.size]


def test_short_rows_of_one_likely_entry_decode_by_another_model():
    tables = make_tables([[1, TOTAL - 2, 1], [TOTAL // 2, TOTAL // 2], [1] * 18 + [TOTAL - 18]], [0, 0, 0])
    distinct = [tables.decoder_model(row) is not tables.encoder_model(row) for row in range(3)]
    assert distinct == [coder_name() == "constriction", False, False]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_symbols_are_grouped_by_row_in_scan_order_however_many_are_skipped(share):
    tables = make_tables([[], [], [TOTAL // 2, TOTAL // 2], [], [TOTAL - 3, 1, 2]], [0] * 5)
    rng = np.random.default_rng(3)
    rows = np.where(rng.random(5000) < share, rng.integers(2, 5, 5000), rng.integers(0, 2, 5000)).astype(np.uint8)
    symbols = np.where(tables.lengths[rows] > 0, rng.integers(-5, 6, 5000), 0).astype(np.int32)
    order, used, counts, ends = range_coder.grouped_rows(rows, tables)
    assert np.array_equal(rows[order], np.sort(rows[rows >= 2]))
    assert all(np.all(np.diff(order[end - count : end]) > 0) for count, end in zip(counts, ends, strict=True))
    assert np.array_equal(np.repeat(used, counts), rows[order])
    np.testing.assert_array_equal(decode(encode(symbols, rows, tables), rows, tables), symbols)


def test_skipped_rows_cost_nothing_and_decode_to_zero():
    tables = make_tables([[], [TOTAL]], [0, 0])
    rows = np.zeros(1000, np.uint8)
    assert encode(np.zeros(1000, np.int32), rows, tables) == [b""]
    np.testing.assert_array_equal(decode([b""], rows, tables), np.zeros(1000))


def test_escape_only_row_needs_no_words():
    symbols = np.array([INT32.min, INT32.max, 0, -1], np.int32)
    (stream,) = encode(symbols, np.zeros(4, np.uint8), make_tables([[TOTAL]], [3]))
    assert stream == bytes([12]) + b"\xff\xff\xff\xff\x0f" + b"\xfe\xff\xff\xff\x0f" + b"\x00\x01"


def test_all_rows_of_uint16_and_many_symbols():
    rng = np.random.default_rng(5)
    tables = make_tables([random_frequencies(rng, 20, 0.3).tolist()] * 1000, [-9] * 1000)
    rows = rng.integers(0, 1000, 50_000).astype(np.uint16)
    symbols = rng.integers(-12, 14, 50_000).astype(np.int32)
    np.testing.assert_array_equal(decode(encode(symbols, rows, tables, 7), rows, tables), symbols)


def test_non_contiguous_arrays():
    tables = make_tables([[1, 2, TOTAL - 3]], [0])
    symbols, rows = np.arange(20, dtype=np.int32)[::3], np.zeros(20, np.uint8)[::3]
    np.testing.assert_array_equal(decode(encode(symbols, rows, tables), rows, tables), symbols)


def test_models_are_built_once_and_only_for_used_rows(monkeypatch):
    tables = make_tables([[1, TOTAL - 1], [2, TOTAL - 2]], [0, 0])
    built = []
    for kind in ("encoder_model", "decoder_model"):
        make = getattr(coder(), kind)
        monkeypatch.setattr(coder(), kind, lambda row, make=make, **o: built.append(row.tolist()) or make(row, **o))
    encode(np.zeros(3, np.int32), np.ones(3, np.uint8), tables)
    models = tables.encoder_model(1), tables.decoder_model(1)
    decode(encode(np.zeros(3, np.int32), np.ones(3, np.uint8), tables), np.ones(3, np.uint8), tables)
    assert (tables.encoder_model(1), tables.decoder_model(1)) == models
    assert built and all(row == [2, TOTAL - 2] for row in built)


@settings(deadline=None, max_examples=400)
@given(coded_inputs(max_symbols=60), st.data())
def test_corruption_is_named_or_harmless(case, data):
    symbols, rows, tables, substreams = case
    streams = [bytearray(s) for s in encode(symbols, rows, tables, substreams)]
    for _ in range(data.draw(st.integers(1, 4))):
        stream = streams[data.draw(st.integers(0, substreams - 1))]
        at = data.draw(st.integers(0, len(stream)))
        cut = data.draw(st.integers(0, 8))
        stream[at : at + cut] = data.draw(st.binary(max_size=12))
    try:
        decoded = decode([bytes(s) for s in streams], rows, tables, "photo.ugic")
    except CorruptFileError as error:
        assert str(error).startswith("photo.ugic is damaged: substream ")
        assert "\n" not in str(error)
    else:
        assert decoded.dtype == np.int32 and decoded.shape == rows.shape


HALVES = make_tables([[TOTAL // 2, TOTAL // 4, TOTAL // 4], [TOTAL]], [0, 0])
WORD = bytes(4)


@pytest.mark.parametrize(
    ("stream", "rows", "what"),
    [
        (b"", [0], "well-formed length"),
        (b"\x80", [0], "well-formed length"),
        (b"\x80\x00" + WORD, [0], "well-formed length"),
        (b"\xff\xff\xff\xff\x1f" + WORD, [0], "well-formed length"),
        (b"\xff\xff\xff\xff\x0f" + WORD, [0], "shorter than its escape section"),
        (b"\x00\x00", [0], "whole word"),
        (b"\x00", [0], "does not end where"),
        (b"\x00" + 3 * WORD, [0], "does not end where"),
        (b"\x00\xff\xff\xff\x3f" + b"\xff\xff\xff\xff" + WORD, [0], "does not end where"),
        (b"\x00" + b"\xff" * 8, [0], "no encoder writes"),
        (b"\x01\x00" + WORD, [0], "needs 0 escaped symbols and holds 1"),
        (b"\x00\x00\x00\x00\xc0", [0], "needs 1 escaped symbols and holds 0"),
        (b"\x02\x06\x06\x00\x00\x00\xc0", [0], "needs 1 escaped symbols and holds 2"),
        (b"\x01\x86\x00\x00\x00\xc0", [0], "needs 1 escaped symbols and holds 0"),
        (b"\x02\x06\x86\x00\x00\x00\xc0", [0], "needs 1 escaped symbols and holds 1"),
        (b"\x02\x86\x00\x00\x00\x00\xc0", [0], "shortest form"),
        (b"\x06\xff\xff\xff\xff\xff\x01\x00\x00\x00\xc0", [0], "shortest form"),
        (b"\x05\xff\xff\xff\xff\x1f\x00\x00\x00\xc0", [0], "more than 32 bits"),
        (b"\x01\x02\x00\x00\x00\xc0", [0], "that its row holds"),
        (b"\x01\x02" + WORD, [1], "does not end where"),
        (b"\x00", [], "no symbols"),
    ],
)
def test_hostile_streams_by_name(stream, rows, what):
    with pytest.raises(CorruptFileError, match=what):
        decode([stream], np.array(rows, np.uint8), HALVES)


def test_surplus_and_missing_words_are_found():
    """Two words more always; words less nearly always, and with these frequencies always."""
    rng = np.random.default_rng(1)
    tables = make_tables([random_frequencies(rng, 4, 50.0).tolist()], [0])
    for count in range(1, 200):
        symbols, rows = rng.integers(1, 3, count).astype(np.int32), np.zeros(count, np.uint8)
        (stream,) = encode(symbols, rows, tables)
        with pytest.raises(CorruptFileError):
            decode([stream + 2 * WORD], rows, tables)
        with pytest.raises(CorruptFileError):
            decode([stream[:-8] if stream.endswith(WORD) else stream[:-4]], rows, tables)


def test_no_substreams():
    with pytest.raises(CorruptFileError):
        decode([], np.zeros(0, np.uint8), HALVES)


def test_misuse_is_a_value_error():
    tables = make_tables([[], [TOTAL]], [0, 0])
    zero, row = np.zeros(1, np.int32), np.zeros(1, np.uint8)
    for arguments in (
        (np.ones(1, np.int32), row, tables),
        (zero, row + np.uint8(2), tables),
        (zero, np.zeros(2, np.uint8), tables),
        (zero.astype(np.int64), row, tables),
        (zero, row.astype(np.int32), tables),
        (zero.reshape(1, 1), row.reshape(1, 1), tables),
        (zero, row, tables, 0),
    ):
        with pytest.raises(ValueError):
            encode(*arguments)
    with pytest.raises(ValueError):
        decode([b""], row + np.uint8(2), tables)


def u32(*values):
    return np.array(values, np.uint32)


def i32(*values):
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("frequencies", "lengths", "offsets", "what"),
    [
        (u32(1, TOTAL - 1).astype(np.int64), i32(2), i32(0), "frequencies must be"),
        (u32(1, TOTAL - 1), i32(2).astype(np.int64), i32(0), "lengths must be"),
        (u32(1, TOTAL - 1), i32(2), i32(0).astype(np.float32), "offsets must be"),
        (u32(1, TOTAL - 1).reshape(1, 2), i32(2), i32(0), "frequencies must be"),
        (u32(1, TOTAL - 1), i32(2), i32(0, 0), "1 lengths but 2 offsets"),
        (u32(1, TOTAL - 1), i32(3), i32(0), "need 3 frequencies, not 2"),
        (u32(1, TOTAL - 1), i32(3, -1), i32(0, 0), "row lengths must be"),
        (u32(), i32(*[TOTAL] * 2), i32(0, 0), "row lengths must be"),
        (u32(0, TOTAL), i32(2), i32(0), "at least 1"),
        (u32(1, TOTAL), i32(2), i32(0), "sum to"),
        (u32(1, TOTAL - 1, TOTAL - 2, 2), i32(1, 3), i32(0, 0), "sum to"),
        (u32(2**32 - 1, TOTAL + 1), i32(2), i32(0), "sum to"),
        (u32(1, 1, TOTAL - 2), i32(3), i32(INT32.max), "largest int32"),
        (u32(), i32(*[0] * 65537), i32(*[0] * 65537), "at most 65536"),
    ],
)
def test_bad_tables_are_named(frequencies, lengths, offsets, what):
    with pytest.raises(BundleError, match=what):
        Tables.from_arrays(frequencies, lengths, offsets, name="bundle/tables.npz")


def test_tables_are_copies_that_cannot_change():
    source = u32(1, TOTAL - 1)
    tables = Tables.from_arrays(source, i32(2), i32(0))
    source[0] = 5
    assert tables.frequencies[0] == 1 and tables.rows == 1
    with pytest.raises(ValueError):
        tables.frequencies[0] = 5


def test_longest_row():
    tables = Tables.from_arrays(
        np.append(np.ones(MAX_ENTRIES - 1, np.uint32), np.uint32(3)),
        i32(MAX_ENTRIES),
        i32(-5),
    )
    symbols, rows = i32(-5, MAX_ENTRIES - 7, MAX_ENTRIES - 6), np.zeros(3, np.uint8)
    np.testing.assert_array_equal(decode(encode(symbols, rows, tables), rows, tables), symbols)
