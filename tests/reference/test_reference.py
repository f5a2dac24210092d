"""docs/bitstream.md, the integer tables and the library agree: on frequencies, on words, on refusals."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coders import each_coder  # noqa: F401
from tests.reference import decoder as reference
from tests.reference import staged
from tests.runtime.test_range_coder import TOTAL, coded_inputs, random_frequencies
from ugicm.runtime import bitstream, range_coder
from ugicm.runtime.additions import ICC_PROFILE, Guard, Section
from ugicm.runtime.coders import by_constriction, coder
from ugicm.runtime.encoder import container, range_encoder
from ugicm.runtime.errors import CorruptFileError
from ugicm.runtime.guard import Rounding
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder
from ugicm.runtime.tables import Tables

PAGE = Path(__file__).parents[2] / "docs" / "bitstream.md"


def one_row(frequencies, offset=0):
    return Tables.from_arrays(
        np.array(frequencies, np.uint32), np.array([len(frequencies)], np.int32), np.array([offset], np.int32)
    )


def as_lists(tables):
    stops = np.cumsum(tables.lengths)
    rows = [tables.frequencies[b - n : b].tolist() for b, n in zip(stops, tables.lengths, strict=True)]
    return rows, tables.offsets.tolist()


def encode_words(entries, frequencies):
    """The page's encoder, with `lower` as an unbounded integer."""
    lower, extent, shifts = 0, (1 << 64) - 1, 0
    for k in entries:
        scale = extent >> 24
        lower += scale * sum(frequencies[:k])
        extent = scale * frequencies[k]
        if extent < 1 << 32:
            lower, extent, shifts = lower << 32, extent << 32, shifts + 1
    if not entries:
        return []
    point = -(-lower >> 32)
    words = [point >> 32 * i & 0xFFFFFFFF for i in reversed(range(shifts + 1))]
    return [*words, 0] if lower + extent >> 32 == point else words


frequencies = st.one_of(
    st.tuples(st.integers(2, 40), st.integers(0, 2**32), st.sampled_from([0.02, 1.0, 50.0])).map(
        lambda a: random_frequencies(np.random.default_rng(a[1]), a[0], a[2]).tolist()
    ),
    st.tuples(st.integers(2, 300), st.integers(0, 299)).map(
        # All the mass on one entry: the rest have frequency 1, this one 2**24 - (n - 1).
        lambda a: [1] * (a[1] % a[0]) + [TOTAL - a[0] + 1] + [1] * (a[0] - 1 - a[1] % a[0])
    ),
)


@settings(deadline=None, max_examples=150)
@given(coded_inputs())
def test_reference_decodes_what_the_runtime_encodes(case):
    symbols, rows, tables, substreams = case
    streams = range_encoder.encode(symbols, rows, tables, substreams)
    assert reference.decode_symbols(streams, rows.tolist(), *as_lists(tables)) == symbols.tolist()


@settings(deadline=None, max_examples=150)
@given(frequencies, st.integers(0, 2**32))
def test_the_library_lands_on_the_integers(row, seed):
    """`point` at both ends of an entry's interval must give that entry."""
    models = [one_row(row).encoder_model(0), one_row(row).decoder_model(0)]
    if coder() is by_constriction:
        models.append(by_constriction.encoder_model(np.array(row, np.uint32), lazy=True))
    scale = ((1 << 64) - 1) >> 24
    cumulative = np.concatenate([[0], np.cumsum(row)])
    picks = np.random.default_rng(seed).permutation(len(row))[:40].tolist()
    for k in picks:
        low, high = int(cumulative[k]) * scale, int(cumulative[k + 1]) * scale - 1
        for point in (low, high):
            words = np.array([point >> 32, point & 0xFFFFFFFF], np.uint32)
            for model in models:
                assert coder().RangeDecoder(words).decode(model, 1).tolist() == [k]


@pytest.mark.parametrize("length", [2, 3, 1000, 65536])
@pytest.mark.parametrize("flat", [True, False])
def test_the_library_lands_on_the_integers_of_long_rows(length, flat):
    """The encoder's state after one symbol shows C(k) and the frequency: scale * C(k), scale * frequency."""
    rng = np.random.default_rng(length)
    row = np.full(length, TOTAL // length) if flat else random_frequencies(rng, length, 0.1)
    row[-1] += TOTAL - row.sum()
    model = by_constriction.encoder_model(row.astype(np.uint32))
    cumulative = np.concatenate([[0], np.cumsum(row)])
    scale = ((1 << 64) - 1) >> 24
    for k in {0, length - 1, *rng.integers(0, length, 500).tolist()}:
        encoder = by_constriction.RangeEncoder()
        encoder.encode(np.array([k], np.int32), model)
        words, (lower, extent) = encoder.pos()
        shift = 32 if scale * int(row[k]) < 1 << 32 else 0
        assert lower == scale * int(cumulative[k]) << shift & (1 << 64) - 1
        assert extent == scale * int(row[k]) << shift
        assert words == shift // 32


@settings(deadline=None, max_examples=200)
@given(frequencies, st.data())
def test_the_library_writes_the_words_of_the_page(row, data):
    """Renormalisation, carries and sealing, word by word; rare entries make for the longest."""
    edges = st.sampled_from([0, len(row) - 1, int(np.argmax(row)), int(np.argmin(row))])
    entries = data.draw(st.lists(st.one_of(edges, st.integers(0, len(row) - 1)), max_size=60))
    encoder = coder().RangeEncoder()
    encoder.encode(np.array(entries, np.int32), one_row(row).encoder_model(0))
    words = encoder.get_compressed().tolist()
    assert words == encode_words(entries, row)
    if coder() is by_constriction:
        assert len(words) - encoder.pos()[0] <= 2
    decoder = reference.RangeDecoder(words)
    assert [decoder.decode(row) for _ in entries] == entries


@settings(deadline=None, max_examples=300)
@given(coded_inputs(max_symbols=30), st.data())
def test_both_refuse_the_same_streams(case, data):
    symbols, rows, tables, substreams = case
    streams = [bytearray(s) for s in range_encoder.encode(symbols, rows, tables, substreams)]
    stream = streams[data.draw(st.integers(0, substreams - 1))]
    at = data.draw(st.integers(0, len(stream)))
    cut = data.draw(st.sampled_from([0, 0, 1, 4, 8]))
    stream[at : at + cut] = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"", bytes(4), b"\x80\x00"])))
    try:
        expected = reference.decode_symbols(streams, rows.tolist(), *as_lists(tables))
    except reference.Refused:
        expected = None
    try:
        decoded = range_coder.decode([bytes(s) for s in streams], rows, tables).tolist()
    except CorruptFileError:
        decoded = None
    assert decoded == expected


def example(number):
    """The text and the file of an example of the page."""
    text = PAGE.read_text(encoding="utf-8").split("## Example")[number]
    return text, bytes.fromhex("".join(re.findall(r"^    ([0-9a-f ]+)$", text, re.MULTILINE)))


def test_the_example_of_the_page():
    _, data = example(1)
    row = [4194304, 8388608, 4194303, 1]
    tables = Tables.from_arrays(np.array(row, np.uint32), np.array([0, 4], np.int32), np.array([0, -1], np.int32))
    parsed = bitstream.parse(data)
    assert (parsed.width, parsed.height, parsed.quality, parsed.codec_id) == (50, 40, 1, bytes(range(8)))
    z, y = np.array([1], np.int32), np.array([0, 0, -1, 300], np.int32)
    assert parsed.symbol_checksum == bitstream.symbol_checksum(z, y)
    for streams, rows, symbols in (((parsed.z,), [1], z), (parsed.y, [1, 0, 1, 1], y)):
        assert reference.decode_symbols(streams, rows, [[], row], [0, -1]) == symbols.tolist()
        assert range_coder.decode(streams, np.array(rows, np.uint8), tables).tolist() == symbols.tolist()
        assert tuple(range_encoder.encode(symbols, np.array(rows, np.uint8), tables)) == streams
    assert container.pack(parsed) == data


def test_the_example_of_version_2():
    text, data = example(2)
    table = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in re.findall(r"^\| [01] .*$", text, re.MULTILINE)
    ]
    numbers = [[cell.replace("−", "-").split(", ") for cell in row] for row in table]
    indexes = [[float(s) for s in row[1]] for row in numbers]
    cells, shifts, rows, symbols = ([[int(n) for n in row[i]] for row in numbers] for i in (2, 6, 7, 8))
    row = [4194304, 8388608, 4194303, 1]
    flat, lengths = np.array(row * 2, np.uint32), np.array([0, 0, 4, 4], np.int32)
    tables = Tables.from_arrays(flat, lengths, np.array([0, 0, -1, -1], np.int32))

    parsed = bitstream.parse(data)
    assert container.pack(parsed) == data
    assert parsed.sections == (Section(ICC_PROFILE, b"icc"),) and parsed.guard == Guard(8, 32)
    assert parsed.symbol_checksum == bitstream.symbol_checksum(np.array([1]), np.array(symbols))
    assert staged.read_file(data).y == list(parsed.y)
    stages = [lambda done, s=s: s for s in indexes]
    assert staged.decode_staged(parsed.y[0], stages, 8, 32, *as_lists(tables)) == symbols

    rounding, encoder = Rounding(parsed.guard, tables.lengths == 0), StagedEncoder(tables)
    decoder = StagedDecoder(parsed.y[0], tables)
    for stage, values in enumerate(symbols):
        s = np.array(indexes[stage])
        assert np.floor(s * 256).tolist() == cells[stage]
        number = decoder.shifts(1)
        assert number.tolist() == rounding.shifts(s).tolist() == shifts[stage]
        for other in (s, np.select([s == 1.498, s == 2.5], [1.5018, 2.497], s)):
            assert rounding.rows(other, number).tolist() == rows[stage]
        assert decoder.symbols(rounding.rows(s, number)).tolist() == values
        encoder.shifts(number)
        encoder.symbols(np.array(values, np.int32), rounding.rows(s, number))
    decoder.finish()
    assert encoder.finish() == parsed.y[0]
    shown = re.search(r"they are ([0-9, ]+), …", text)[1]
    assert shown == ", ".join(map(str, staged.shift_frequencies(1, 1)[:4]))
    first = ", ".join(map(str, staged.shift_frequencies(0, 0)[:4]))
    assert f"the first stage has {first}, …" in PAGE.read_text(encoding="utf-8")
