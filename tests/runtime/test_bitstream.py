"""The container: what is packed is parsed, and every damaged file has an error with a name."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import staged
from tests.reference.decoder import Refused
from ugicm.runtime.additions import ALPHA, EXIF, ICC_PROFILE, MAX_METADATA, Guard, Section
from ugicm.runtime.bitstream import (
    HEADER_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    MAX_SUBSTREAMS,
    Bitstream,
    parse,
    read_header,
    symbol_checksum,
)
from ugicm.runtime.encoder.container import pack, write_varint
from ugicm.runtime.errors import CorruptFileError, NotUgicError, TruncatedError, UgicError, VersionError
from ugicm.runtime.fields import Fields

SMALL = Bitstream(b"\x00codecid", 4, 768, 512, b"zzz", (b"yy", b"", b"yyyy"), 0xDEADBEEF)

GUARDED = replace(SMALL, y=(b"yy",), guard=Guard(12, 2048))
FULL = replace(GUARDED, sections=(Section(ALPHA, b"alpha"), Section(ICC_PROFILE, b""), Section(1000, b"new")))

bitstreams = st.builds(
    Bitstream,
    codec_id=st.binary(min_size=8, max_size=8),
    quality=st.integers(1, 255),
    width=st.one_of(st.integers(1, 300), st.just(MAX_SIDE)),
    height=st.integers(1, 4096),
    z=st.binary(max_size=300),
    y=st.lists(st.binary(max_size=200), min_size=1, max_size=150).map(tuple),
    symbol_checksum=st.integers(0, 2**32 - 1),
)


guarded = st.builds(
    lambda b, bits, block, y: replace(b, guard=Guard(bits, block), y=(y,)),
    bitstreams,
    st.integers(8, 20),
    st.one_of(st.integers(32, 1 << 20), st.sampled_from([32, 1 << 20])),
    st.binary(max_size=200),
)
section_lists = st.lists(
    st.builds(
        Section,
        st.one_of(st.sampled_from([ALPHA, ICC_PROFILE, EXIF, 2**32 - 2]), st.integers(1, 200).map(lambda n: 2 * n)),
        st.binary(max_size=60),
    ),
    max_size=9,
    unique_by=lambda section: section.type,
).map(lambda sections: tuple(sorted(sections, key=lambda section: section.type)))
either_version = st.builds(
    lambda b, sections: replace(b, sections=sections), st.one_of(bitstreams, guarded), section_lists
)


def sealed(data):
    return data + zlib.crc32(data).to_bytes(4, "little")


def read_or_refused_alike(data):
    """By the runtime, which then writes the same bytes again, and by the reference."""
    try:
        parsed = parse(data)
    except UgicError:
        with pytest.raises(Refused):
            staged.read_file(data)
        return
    assert pack(parsed) == data
    assert staged.read_file(data).z == parsed.z


@settings(deadline=None)
@given(either_version)
def test_round_trip(b):
    data = pack(b)
    assert parse(data) == b
    assert data[4] == b.version == (2 if b.guard or b.sections else 1)
    header = read_header(data[:HEADER_BYTES])
    assert (header.codec_id, header.quality, header.width, header.height) == (b.codec_id, b.quality, b.width, b.height)


@settings(deadline=None)
@given(either_version)
def test_the_reference_reads_the_same_fields(b):
    file = staged.read_file(pack(b))
    assert (file.codec_id, file.quality, file.width, file.height) == (b.codec_id, b.quality, b.width, b.height)
    assert (file.z, tuple(file.y), file.symbol_checksum) == (b.z, b.y, b.symbol_checksum)
    assert [Section(*section) for section in file.sections] == list(b.sections)
    assert (Guard(file.band_bits, file.block) if file.band_bits else None) == b.guard
    assert file.version == b.version


def test_layout_of_version_2():
    start = b"UGIC\x02\x00codecid\x04\x80\x06\x80\x04"
    assert pack(GUARDED).startswith(start + b"\x01\x0c\x80\x10" + b"\x03zzz")
    sections = b"\x03" + b"\x01\x05alpha" + b"\x02\x00" + b"\xe8\x07\x03new"
    assert pack(FULL).startswith(start + b"\x03\x0c\x80\x10" + sections + b"\x03zzz")
    assert pack(replace(FULL, guard=None)).startswith(start + b"\x02" + sections + b"\x03zzz")


def test_layout_and_overhead():
    data = pack(replace(SMALL, y=(b"y" * 70_000,)))
    assert data[:14] == b"UGIC\x01\x00codecid\x04"
    assert len(data) - 3 - 70_000 <= 32


@pytest.mark.parametrize("b", [SMALL, GUARDED, FULL])
def test_every_prefix_is_truncated(b):
    data = pack(b)
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            parse(data[:size])


@settings(deadline=None, max_examples=300)
@given(either_version, st.data())
def test_corruption_is_named(b, data):
    good = pack(b)
    bad = bytearray(good)
    at = data.draw(st.integers(0, len(bad)))
    cut = data.draw(st.integers(0, 6))
    bad[at : at + cut] = data.draw(st.binary(max_size=6))
    if bytes(bad) != good:
        with pytest.raises(UgicError, match="^photo.ugic [^\n]*$"):
            parse(bytes(bad), "photo.ugic")


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=60),
    st.sampled_from(
        [b"", b"UGIC", b"UGIC\x01", b"UGIC\x01" + bytes(8) + b"\x01\x01\x01"]
        + [b"UGIC\x02" + bytes(8) + b"\x01\x01\x01" + more for more in (b"", b"\x01\x0c\x80\x08", b"\x02", b"\x02\x01")]
    ),
)
def test_arbitrary_bytes(tail, head):
    """With a correct file checksum, so that nothing hides behind it."""
    read_or_refused_alike(sealed(head + tail))


@settings(deadline=None, max_examples=200)
@given(either_version, st.data())
def test_mended_corruption_is_refused_alike(b, data):
    bad = bytearray(pack(b)[:-4])
    at = data.draw(st.one_of(st.integers(0, min(len(bad), 40)), st.integers(0, len(bad))))
    cut = data.draw(st.integers(0, 3))
    bad[at : at + cut] = data.draw(
        st.one_of(st.binary(max_size=3), st.sampled_from([b"\x80\x00", b"\x03", b"\xff\x0f"]))
    )
    test_arbitrary_bytes.hypothesis.inner_test(bytes(bad), b"")


def test_named_errors():
    data = pack(SMALL)
    with pytest.raises(NotUgicError):
        parse(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(NotUgicError):
        parse(b"x")
    with pytest.raises(VersionError, match="version 3"):
        parse(data[:4] + b"\x03" + data[5:])
    with pytest.raises(VersionError):
        parse(b"UGIC\x00")
    with pytest.raises(CorruptFileError, match="1 bytes follow"):
        parse(data + b"\x00")
    with pytest.raises(CorruptFileError, match="file checksum"):
        parse(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])


def fields(quality=1, width=b"\x01", height=b"\x01", z=b"\x00", y=b"\x01\x00"):
    return sealed(b"UGIC\x01" + bytes(8) + bytes([quality]) + width + height + z + y + bytes(4))


HUGE = b"\xff\xff\xff\xff\x0f"


@pytest.mark.parametrize(
    ("data", "error", "what"),
    [
        (fields(quality=0), CorruptFileError, "quality 0"),
        (fields(width=b"\x00"), CorruptFileError, "image size 0x1"),
        (fields(height=b"\x00"), CorruptFileError, "image size 1x0"),
        (fields(width=b"\x80\x80\x04"), CorruptFileError, "image size 65536x1"),
        (fields(width=b"\xff\xff\x03", height=b"\xff\xff\x03"), CorruptFileError, "image size 65535x65535"),
        (fields(width=b"\x81\x00"), CorruptFileError, "shortest form"),
        (fields(width=b"\xff\xff\xff\xff\x10"), CorruptFileError, "more than 32 bits"),
        (fields(width=b"\x80\x80\x80\x80\x80\x01"), CorruptFileError, "more than 32 bits"),
        (fields(z=HUGE), TruncatedError, "ends before"),
        (fields(y=HUGE), CorruptFileError, "4294967295 substreams"),
        (fields(y=b"\x00"), CorruptFileError, "substreams 0"),
        (fields(y=b"\x02" + HUGE + HUGE), TruncatedError, "ends before"),
        (fields(y=b"\xff\xff\x03"), TruncatedError, "ends before"),
    ],
)
def test_hostile_headers(data, error, what):
    with pytest.raises(error, match=what):
        parse(data)


def added(fields, z=b"\x00", y=b"\x01\x00"):
    return sealed(b"UGIC\x02" + bytes(8) + b"\x01\x01\x01" + fields + z + y + bytes(4))


@pytest.mark.parametrize(
    ("data", "error", "what"),
    [
        (added(b"\x00"), CorruptFileError, "flags 0 and 0 sections"),
        (added(b"\x04"), VersionError, "flags 0x4"),
        (added(b"\x85\x01\x0c\x80\x08"), VersionError, "flags 0x85"),
        (added(b"\x81\x00\x0c\x80\x08"), CorruptFileError, "shortest form"),
        (added(b"\x01\x07\x80\x08"), CorruptFileError, r"band 2\*\*-7"),
        (added(b"\x01\x15\x80\x08"), CorruptFileError, r"band 2\*\*-21"),
        (added(b"\x01\x0c\x1f"), CorruptFileError, "blocks of 31"),
        (added(b"\x01\x0c\x81\x80\x40"), CorruptFileError, "blocks of 1048577"),
        (added(b"\x01\x0c\x80\x08", y=b"\x02\x00\x00"), CorruptFileError, "one y substream, not 2"),
        (added(b"\x02\x00"), CorruptFileError, "flags 2 and 0 sections"),
        (added(b"\x02\x41" + b"\x02\x00" * 65), CorruptFileError, "65 sections"),
        (added(b"\x02" + HUGE), CorruptFileError, "4294967295 sections"),
        (added(b"\x02\x01\x02" + HUGE), TruncatedError, "ends before"),
        (added(b"\x02\x01\x00\x00"), CorruptFileError, "out of order"),
        (added(b"\x02\x02\x04\x00\x02\x00"), CorruptFileError, "out of order"),
        (added(b"\x02\x02\x02\x00\x02\x00"), CorruptFileError, "out of order"),
        (added(b"\x02\x01\x03\x00"), VersionError, "section of type 3"),
    ],
)
def test_hostile_additions(data, error, what):
    with pytest.raises(error, match=what):
        parse(data)
    with pytest.raises(Refused):
        staged.read_file(data)


def test_metadata_is_bounded_together_and_alpha_is_not_metadata():
    half = bytes(MAX_METADATA // 2)
    met = replace(SMALL, sections=(Section(ALPHA, b"a" + half), Section(ICC_PROFILE, half), Section(EXIF, half)))
    data = pack(met)
    assert parse(data) == met
    with pytest.raises(ValueError, match="16777217 bytes"):
        pack(replace(met, sections=(*met.sections, Section(6, b"x"))))
    at = data.index(b"\x04\x80\x80\x80\x04")
    longer = data[: at + 1] + write_varint(len(half) + 1) + b"x" + data[at + 5 : -4]
    with pytest.raises(CorruptFileError, match="metadata has 16777217 bytes"):
        parse(sealed(longer))


def test_limits_that_are_met():
    for width, height in ((1, MAX_SIDE), (MAX_SIDE, MAX_PIXELS // MAX_SIDE), (16384, 16384)):
        b = replace(SMALL, width=width, height=height)
        assert parse(pack(b)) == b
    many = replace(SMALL, y=(b"",) * MAX_SUBSTREAMS)
    assert parse(pack(many)) == many


@pytest.mark.parametrize(
    "change",
    [
        {"codec_id": b"short"},
        {"quality": 0},
        {"quality": 256},
        {"width": 0},
        {"height": MAX_SIDE + 1},
        {"width": 16385, "height": 16384},
        {"y": ()},
        {"y": (b"",) * (MAX_SUBSTREAMS + 1)},
        {"guard": Guard(12, 2048)},
        {"y": (b"",), "guard": Guard(7, 2048)},
        {"y": (b"",), "guard": Guard(21, 2048)},
        {"y": (b"",), "guard": Guard(12, 31)},
        {"y": (b"",), "guard": Guard(12, (1 << 20) + 1)},
        {"sections": (Section(0, b""),)},
        {"sections": (Section(2**32, b""),)},
        {"sections": (Section(4, b""), Section(2, b""))},
        {"sections": (Section(2, b""), Section(2, b""))},
        {"sections": tuple(Section(n, b"") for n in range(2, 132, 2))},
        {"symbol_checksum": 2**32},
        {"symbol_checksum": -1},
    ],
)
def test_pack_refuses_what_parse_would(change):
    with pytest.raises(ValueError):
        pack(replace(SMALL, **change))


@given(st.integers(0, 2**32 - 1), st.binary(max_size=3))
def test_varint(value, before):
    data = before + write_varint(value)
    fields = Fields(data, at=len(before))
    assert (fields.varint(), fields.at) == (value, len(data))
    assert len(data) - len(before) == max(1, -(-value.bit_length() // 7))


@pytest.mark.parametrize("value", [-1, 2**32])
def test_varint_range(value):
    with pytest.raises(ValueError):
        write_varint(value)


def test_symbol_checksum():
    z = np.array([[[[1, -1]]]], np.int32)
    y = np.array([65536 + 3, -32768, 0], np.int32)
    expected = zlib.crc32(b"\x01\x00\xff\xff" + b"\x03\x00\x00\x80\x00\x00")
    assert symbol_checksum(z, y) == expected
    assert symbol_checksum(z.astype(np.int64), y.astype(np.int64)) == expected
    grid = np.arange(24, dtype=np.int32).reshape(1, 2, 3, 4)
    assert symbol_checksum(grid, grid) == symbol_checksum(grid.ravel(), grid.ravel())
    turned = grid.transpose(0, 1, 3, 2)
    assert symbol_checksum(turned, z) == symbol_checksum(turned.copy().ravel(), z)
    assert symbol_checksum(np.zeros((1, 4, 0, 3), np.int32), np.zeros(0, np.int8)) == 0
    with pytest.raises(TypeError):
        symbol_checksum(z.astype(np.float32), y)
