"""The container: what is packed is parsed, and every damaged file has an error with a name."""

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm.runtime.bitstream import (
    MAX_PIXELS,
    MAX_SIDE,
    MAX_SUBSTREAMS,
    Bitstream,
    pack,
    parse,
    read_varint,
    symbol_checksum,
    write_varint,
)
from ugicm.runtime.errors import CorruptFileError, NotUgicError, TruncatedError, UgicError, VersionError

SMALL = Bitstream(b"\x00codecid", 4, 768, 512, b"zzz", (b"yy", b"", b"yyyy"), 0xDEADBEEF)

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


def sealed(data):
    return data + zlib.crc32(data).to_bytes(4, "little")


@settings(deadline=None)
@given(bitstreams)
def test_round_trip(b):
    assert parse(pack(b)) == b


def test_layout_and_overhead():
    data = pack(replace(SMALL, y=(b"y" * 70_000,)))
    assert data[:14] == b"UGIC\x01\x00codecid\x04"
    assert len(data) - 3 - 70_000 <= 32


def test_every_prefix_is_truncated():
    data = pack(SMALL)
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            parse(data[:size])


@settings(deadline=None, max_examples=300)
@given(bitstreams, st.data())
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
    st.sampled_from([b"", b"UGIC", b"UGIC\x01", b"UGIC\x01" + bytes(8) + b"\x01\x01\x01"]),
)
def test_arbitrary_bytes(tail, head):
    """With a correct file checksum, so that nothing hides behind it."""
    try:
        parsed = parse(sealed(head + tail))
    except UgicError:
        return
    assert pack(parsed) == sealed(head + tail)


def test_named_errors():
    data = pack(SMALL)
    with pytest.raises(NotUgicError):
        parse(b"\x89PNG\r\n\x1a\n" + bytes(50))
    with pytest.raises(NotUgicError):
        parse(b"x")
    with pytest.raises(VersionError, match="version 2"):
        parse(data[:4] + b"\x02" + data[5:])
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
    assert read_varint(data, len(before)) == (value, len(data))
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
