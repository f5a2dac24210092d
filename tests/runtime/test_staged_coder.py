"""Stages through one range coder state: they round-trip, agree with the page, and refuse what no encoder writes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coders import each_coder  # noqa: F401
from tests.reference import staged
from tests.reference.decoder import Refused
from tests.reference.test_reference import as_lists
from tests.runtime.test_range_coder import TOTAL, coded_inputs, make_tables
from ugicm.runtime.additions import Guard
from ugicm.runtime.errors import CorruptFileError, UgicError
from ugicm.runtime.guard import SHIFTS, Rounding
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder


@st.composite
def staged_inputs(draw):
    """(indexes and symbols of each stage, tables, guard)"""
    symbols, rows, tables, count = draw(coded_inputs(max_symbols=150))
    guard = Guard(draw(st.integers(8, 20)), draw(st.integers(32, 63)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    s = rows + rng.uniform(-0.5, 0.5, rows.size) * draw(st.sampled_from([0.1, 1.0, 1.0]))
    cuts = np.sort(rng.integers(0, rows.size + 1, count - 1))
    rounding = Rounding(guard, tables.lengths == 0)
    stages = []
    for index, values in zip(np.split(s, cuts), np.split(symbols, cuts), strict=True):
        row = rounding.rows(index, rounding.shifts(index))
        values = np.where(tables.lengths[row] > 0, values, 0).astype(np.int32)
        stages.append((index, values))
    return stages, tables, guard


def encoded(stages, tables, guard):
    rounding, encoder = Rounding(guard, tables.lengths == 0), StagedEncoder(tables)
    for s, symbols in stages:
        shifts = rounding.shifts(s)
        encoder.shifts(shifts)
        encoder.symbols(symbols, rounding.rows(s, shifts))
    return encoder.finish()


def decoded(stream, stages, tables, guard, name="<bytes>"):
    rounding, decoder = Rounding(guard, tables.lengths == 0), StagedDecoder(stream, tables, name)
    out = []
    for s, _ in stages:
        shifts = decoder.shifts(-(-s.size // guard.block))
        out.append(decoder.symbols(rounding.rows(s, shifts, name)).tolist())
    decoder.finish()
    return out


def by_the_page(stream, stages, tables, guard):
    asked = [lambda done, s=s: s.tolist() for s, _ in stages]
    return staged.decode_staged(stream, asked, guard.band_bits, guard.block, *as_lists(tables))


@settings(deadline=None, max_examples=100)
@given(staged_inputs())
def test_round_trip_and_the_page_reads_the_same(case):
    stages, tables, guard = case
    stream = encoded(*case)
    assert decoded(stream, *case) == [symbols.tolist() for _, symbols in stages]
    if any(s.size for s, _ in stages):
        assert by_the_page(stream, *case) == [symbols.tolist() for _, symbols in stages]


@settings(deadline=None, max_examples=200)
@given(staged_inputs(), st.data())
def test_both_refuse_the_same_streams(case, data):
    stages, tables, guard = case
    if not any(s.size for s, _ in stages):
        return
    stream = bytearray(encoded(*case))
    at = data.draw(st.integers(0, len(stream)))
    cut = data.draw(st.sampled_from([0, 0, 1, 4, 8]))
    stream[at : at + cut] = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"", bytes(4), b"\x80\x00"])))
    try:
        expected = by_the_page(bytes(stream), *case)
    except Refused:
        expected = None
    try:
        found = decoded(bytes(stream), *case, "photo.ugic")
    except CorruptFileError as error:
        assert str(error).startswith("photo.ugic is damaged: ") and "\n" not in str(error)
        found = None
    assert found == expected


def test_the_table_of_shifts_follows_those_before_it():
    tables = make_tables([[]], [0])
    rare, often = (np.array(n, np.uint8) for n in ([0] * 300, [3] * 300))

    def size(*stages):
        encoder = StagedEncoder(tables)
        for numbers in stages:
            encoder.shifts(numbers)
        stream = encoder.finish()
        decoder = StagedDecoder(stream, tables)
        assert [decoder.shifts(n.size).tolist() for n in stages] == [n.tolist() for n in stages]
        decoder.finish()
        return len(stream)

    assert size(rare, rare) - size(rare) <= 4
    assert size(often, often) - size(often) < size(often)
    assert size(np.array([SHIFTS - 1] * 9, np.uint8)) < 9 * 8


def test_a_stage_without_positions_costs_nothing():
    tables = make_tables([[TOTAL // 2, TOTAL // 2]], [0])
    empty = (np.zeros(0), np.zeros(0, np.int32))
    one = (np.zeros(3), np.array([0, 1, 0], np.int32))
    guard = Guard(12, 32)
    assert encoded([empty], tables, guard) == b""
    assert encoded([empty, one, empty], tables, guard) == encoded([one], tables, guard)
    assert decoded(encoded([one], tables, guard), [empty, one, empty], tables, guard) == [[], [0, 1, 0], []]


def test_escapes_of_all_stages_stand_in_one_section():
    tables = make_tables([[TOTAL - 1, 1]], [0])
    stages = [(np.zeros(2), np.array([5, 0], np.int32)), (np.zeros(1), np.array([-7], np.int32))]
    stream = encoded(stages, tables, Guard(12, 32))
    assert stream[:3] == bytes([2, 10, 13])
    assert decoded(stream, stages, tables, Guard(12, 32)) == [[5, 0], [-7]]
    with pytest.raises(CorruptFileError, match="needs 2 escaped symbols and holds 1"):
        decoded(bytes([1, 10]) + stream[3:], stages, tables, Guard(12, 32))
    with pytest.raises(CorruptFileError, match="needs 2 escaped symbols and holds 3"):
        decoded(bytes([3, 10, 13, 13]) + stream[3:], stages, tables, Guard(12, 32))


def test_a_symbol_of_a_skipped_row_is_misuse():
    encoder = StagedEncoder(make_tables([[], [TOTAL]], [0, 0]))
    with pytest.raises(ValueError, match="skipped"):
        encoder.symbols(np.ones(2, np.int32), np.array([0, 1], np.uint8))


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=80), st.integers(0, 2**32))
def test_arbitrary_bytes(stream, seed):
    rng = np.random.default_rng(seed)
    tables = make_tables([[], [TOTAL], [TOTAL // 2, TOTAL // 4, TOTAL // 4]], [0, 0, -1])
    stages = [(rng.uniform(-1, 4, 70), None)] * 3
    try:
        out = decoded(stream, stages, tables, Guard(8, 32))
    except UgicError:
        return
    assert [len(symbols) for symbols in out] == [70] * 3
