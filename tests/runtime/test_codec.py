from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm import Codec
from ugicm.runtime import bitstream, range_coder
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.encoder import analysis, container, range_encoder
from ugicm.runtime.errors import (
    CodecMismatchError,
    ConditionError,
    CorruptFileError,
    DesynchronisedError,
    ImageError,
    QualityError,
    UgicError,
)
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.symbols import checkerboard, z_rows


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def decoded_symbols(codec: Codec, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(z, y symbols) of a file, by the steps of the decoder."""
    stream = bitstream.parse(data)
    m = codec.bundle.manifest
    shape = (1, m.hyper_channels, -(-stream.height // m.stride), -(-stream.width // m.stride))
    z = range_coder.decode([stream.z], z_rows(shape).ravel(), codec.bundle.z_tables).reshape(shape)
    scale_index, _ = codec.networks.scales_and_means(z)
    y = range_coder.decode(stream.y, scale_index.ravel(), codec.bundle.y_tables)
    return z, y.reshape(scale_index.shape)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (63, 65), (64, 64), (769, 513)])
def test_any_size_comes_back(codec: Codec, size: tuple[int, int]) -> None:
    image = noise(*size)
    out = codec.decode(codec.encode(image, 3))
    assert out.shape == image.shape and out.dtype == np.uint8


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.integers(1, 8), st.integers(0, 99))
def test_decoded_symbols_are_the_encoded_ones(codec: Codec, height: int, width: int, quality: int, seed: int) -> None:
    image = noise(height, width, seed)
    y, z = analysis.analysed(codec.networks, image, quality)
    symbols = analysis.symbols_of(codec.networks, y, *codec.networks.scales_and_means(z))
    found_z, found_y = decoded_symbols(codec, codec.encode(image, quality))
    assert np.array_equal(found_z, z)
    assert np.array_equal(found_y, symbols)


def test_a_photograph_gets_better_and_larger_with_quality(codec: Codec, photograph: np.ndarray) -> None:
    files = [codec.encode(photograph, q) for q in range(1, codec.qualities + 1)]
    sizes = [len(f) for f in files]
    quality = [psnr(photograph, codec.decode(f)) for f in files]
    assert sizes == sorted(sizes)
    assert quality[-1] > quality[0] + 4
    assert all(b > a - 0.1 for a, b in zip(quality, quality[1:], strict=False))
    assert quality[3] > 26


def test_one_file_whatever_it_is_decoded_for(codec: Codec, photograph: np.ndarray) -> None:
    data = codec.encode(photograph)
    human, machine, between = codec.decode_views(data, ["human", "machine", 0.5])
    assert np.array_equal(human, codec.decode(data))
    assert np.array_equal(human, codec.decode(data, 0.0))
    assert np.array_equal(machine, codec.decode(data, 1.0))
    assert not np.array_equal(human, machine)
    assert not np.array_equal(between, machine)
    assert codec.encode(photograph) == data


def test_timings_name_the_stages(codec: Codec, photograph: np.ndarray) -> None:
    data = codec.encode(photograph)
    assert set(codec.timings) == {"g_a", "h_a", "exact", "context", "entropy"}
    codec.decode(data)
    assert set(codec.timings) == {"entropy", "exact", "context", "g_s"}


@pytest.mark.parametrize("bad", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "x"])
def test_what_is_no_image_is_refused(codec: Codec, bad: object) -> None:
    with pytest.raises(ImageError):
        codec.encode(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("quality", [0, 9, -1, 0.9, 8.01, float("nan"), True, "4"])
def test_quality_out_of_range_is_refused(codec: Codec, quality: object) -> None:
    with pytest.raises(QualityError, match="1 to 8"):
        codec.encode(noise(8, 8), quality)  # type: ignore[arg-type]


@pytest.mark.parametrize("condition", ["robot", 1.5, -0.1, float("nan"), ""])
def test_unknown_conditions_are_refused(codec: Codec, condition: str | float) -> None:
    with pytest.raises(ConditionError, match="human, machine or a number"):
        codec.decode(codec.encode(noise(8, 8)), condition)


def test_another_codecs_file_is_refused_by_name(codec: Codec) -> None:
    stream = bitstream.parse(codec.encode(noise(8, 8)))
    data = container.pack(replace(stream, codec_id=bytes(8)))
    with pytest.raises(CodecMismatchError, match="x.ugic: made by codec 0000000000000000"):
        codec.decode(data, name="x.ugic")


def test_other_symbols_are_reported_not_shown(codec: Codec) -> None:
    stream = bitstream.parse(codec.encode(noise(70, 70)))
    data = container.pack(replace(stream, symbol_checksum=stream.symbol_checksum ^ 1))
    with pytest.raises(DesynchronisedError):
        codec.decode(data)


def test_quality_beyond_the_codec_is_corrupt(codec: Codec) -> None:
    stream = bitstream.parse(codec.encode(noise(8, 8)))
    with pytest.raises(CorruptFileError):
        codec.decode(container.pack(replace(stream, quality=226)))


def test_a_hyper_latent_beyond_the_proof_is_corrupt(codec: Codec) -> None:
    assert codec.bundle.exact is not None
    shape = (1, codec.bundle.manifest.hyper_channels, 1, 1)
    z = np.full(shape, codec.bundle.exact.input_limit + 1, np.int32)
    stream = range_encoder.encode(z.ravel(), z_rows(shape).ravel(), codec.bundle.z_tables)[0]
    data = container.pack(Bitstream(codec.codec_id, 1, 5, 5, stream, (b"",), 0))
    with pytest.raises(CorruptFileError, match="hyper-latent"):
        codec.decode(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_flipped_byte_goes_unnoticed(codec: Codec, photograph: np.ndarray, data: st.DataObject) -> None:
    whole = codec.encode(photograph[:64, :64], 2)
    where = data.draw(st.integers(0, len(whole) - 1))
    change = data.draw(st.integers(1, 255))
    broken = whole[:where] + bytes([whole[where] ^ change]) + whole[where + 1 :]
    with pytest.raises(UgicError):
        codec.decode(broken)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_no_truncation_goes_unnoticed(codec: Codec, photograph: np.ndarray, data: st.DataObject) -> None:
    whole = codec.encode(photograph[:64, :64], 2)
    with pytest.raises(UgicError):
        codec.decode(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_forged_checksums_end_in_a_name_too(codec: Codec) -> None:
    """Changed streams under a file checksum that fits them: what a hostile file can do."""
    stream = bitstream.parse(codec.encode(noise(64, 64), 2))
    rng = np.random.default_rng(5)
    for _ in range(200):
        body = bytearray(stream.y[0])
        body[rng.integers(len(body))] ^= int(rng.integers(1, 256))
        with pytest.raises(UgicError):
            codec.decode(container.pack(replace(stream, y=(bytes(body),))))


def test_checkerboard_begins_with_an_anchor() -> None:
    assert checkerboard(2, 3)[0, 0].tolist() == [[1, 0, 1], [0, 1, 0]]
