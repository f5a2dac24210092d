"""Files of sizes that lie, with every checksum right."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.commands import BUNDLE, FILES, refusals, tree, ugicm
from tests.coders import each_coder  # noqa: F401
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.encoder import container
from ugicm.runtime.encoder.container import write_varint
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import write_image

WHOLE = FILES[2].read_bytes()
STREAM = bitstream.parse(WHOLE)


def packed(
    z: bytes = STREAM.z,
    y: tuple[bytes, ...] = STREAM.y,
    *,
    size: tuple[int, int] = (STREAM.width, STREAM.height),
    quality: int = STREAM.quality,
    z_length: int | None = None,
    count: int | None = None,
    lengths: tuple[int, ...] | None = None,
    symbols: int = STREAM.symbol_checksum,
) -> bytes:
    """A file whose checksum is right and whose numbers may lie."""
    head = [b"UGIC", bytes([1]), STREAM.codec_id, bytes([quality]), *map(write_varint, size)]
    lengths = tuple(map(len, y)) if lengths is None else lengths
    body = [write_varint(len(z) if z_length is None else z_length), z, write_varint(len(y) if count is None else count)]
    data = b"".join([*head, *body, *map(write_varint, lengths), *y, symbols.to_bytes(4, "little")])
    return data + zlib.crc32(data).to_bytes(4, "little")


def forged() -> Iterator[tuple[str, bytes]]:
    """(what is wrong, file)"""
    for size in ((65535, 1), (1, 65535), (16384, 16384), (65535, 4096), (65535, 65535), (2**32 - 1, 1), (0, 5), (5, 0)):
        yield f"size {size}", packed(size=size)
    for quality in (0, 34, 255):
        yield f"quality {quality}", packed(quality=quality)
    for length in (2**32 - 1, 2**31, len(STREAM.z) + 1, len(STREAM.z) - 1, len(WHOLE), 0):
        yield f"z of {length} bytes", packed(z_length=length)
    for count in (0, 2, 65535, 65536, 2**32 - 1):
        yield f"{count} substreams", packed(count=count)
    whole = STREAM.y[0]
    for lengths in ((2**32 - 1,), (len(whole) + 9,), (len(whole) - 4,)):
        yield f"lengths {lengths}", packed(lengths=lengths)
    # Streams that would share bytes, were they anything but one behind the other.
    yield "overlapping streams", packed(y=(whole, b""), lengths=(len(whole), len(whole)))
    yield "half a stream in each", packed(y=(whole[: len(whole) // 2], whole[len(whole) // 2 :]))
    yield "empty streams", packed(y=(b"",) * 65535)
    yield "z of zeros", packed(z=bytes(4 * 4096), size=(4096, 4096))
    yield "z of ones", packed(z=b"\0" + b"\xff" * 40000, size=(16384, 16384))
    yield "escapes", packed(y=(write_varint(2**31) + whole,))
    yield "an escape section of its own", packed(y=(write_varint(len(whole)) + whole,))
    yield "symbols", packed(symbols=STREAM.symbol_checksum ^ 1)
    yield "long varint", WHOLE[:14] + b"\x80\x80\x80\x80\x80\x80\x01" + WHOLE[15:]
    yield "negative varint", WHOLE[:14] + b"\xff" * 10 + b"\x01" + WHOLE[15:]


def test_the_forger_can_also_tell_the_truth() -> None:
    assert packed() == WHOLE


@pytest.mark.parametrize(("what", "data"), list(forged()), ids=[what for what, _ in forged()])
def test_what_lies_has_a_name(what: str, data: bytes) -> None:
    codec = Codec.from_bundle(BUNDLE, threads=1)
    with pytest.raises(UgicError) as caught:
        codec.decode(data, name="x.ugic")
    assert "x.ugic" in str(caught.value) and "\n" not in str(caught.value)


def test_lies_from_the_command_line_in_little_memory(tmp_path: Path) -> None:
    names = []
    for i, (_, data) in enumerate(forged()):
        names.append(f"{i}.ugic")
        (tmp_path / names[-1]).write_bytes(data)
    before = tree(tmp_path)
    done = ugicm(tmp_path, "decode", *names, "-o", "out/", "--bundle", BUNDLE, memory_mb=2000)
    assert len(refusals(done)) == len(names)
    assert all(f"{name}" in line for name, line in zip(names, refusals(done), strict=True))
    assert tree(tmp_path) == before


def test_a_true_picture_that_memory_cannot_hold_is_one_line(tmp_path: Path, each_coder: str) -> None:  # noqa: F811
    """1.3 MB of file, 147 MB of pixels, and more than that for the network."""
    codec = Codec.from_bundle(BUNDLE, threads=1)
    (tmp_path / "flat.ugic").write_bytes(codec.encode(np.zeros((7000, 7000, 3), np.uint8), 1))
    (tmp_path / "small.ugic").write_bytes(WHOLE)
    done = ugicm(
        tmp_path,
        "decode",
        "flat.ugic",
        "small.ugic",
        "-o",
        "out/",
        "--bundle",
        BUNDLE,
        memory_mb=700,
    )
    lines = refusals(done)
    assert len(lines) == 1 and "flat.ugic" in lines[0], done.stderr
    assert set(tree(tmp_path / "out")) == {"small.png"}


def test_a_picture_is_no_bitstream_and_a_bitstream_no_picture(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "a.ugic").write_bytes(WHOLE)
    (tmp_path / "b.ugic").write_bytes((tmp_path / "a.png").read_bytes())
    (tmp_path / "b.png").write_bytes(WHOLE)
    before = tree(tmp_path)
    assert "not a .ugic file" in refusals(ugicm(tmp_path, "decode", "b.ugic", "-o", "x.png", "--bundle", BUNDLE))[0]
    assert "decode it instead" in refusals(ugicm(tmp_path, "encode", "b.png", "-o", "x", "--bundle", BUNDLE))[0]
    assert tree(tmp_path) == before


def test_dataclasses_of_a_stream_are_checked_before_writing() -> None:
    for wrong in ({"quality": 0}, {"width": 0}, {"height": 65536}, {"y": ()}, {"symbol_checksum": -1}):
        with pytest.raises(ValueError):
            container.pack(dataclasses.replace(STREAM, **wrong))
