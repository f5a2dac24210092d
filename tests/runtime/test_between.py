"""Qualities between whole ones: names in a byte, gains between gains, the same in the page."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugicm import Codec
from ugicm.adapters.web.site import STATIC
from ugicm.runtime import bitstream
from ugicm.runtime.between import between, byte_of, division, ladder, quality_of
from ugicm.runtime.encoder.quality import quality_byte
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.symbols import z_first


@given(st.integers(1, 255))
def test_each_byte_names_one_quality_and_whole_ones_keep_theirs(qualities: int) -> None:
    bytes_ = ladder(qualities)
    named = [quality_of(byte, qualities) for byte in bytes_]
    assert sorted(bytes_) == list(range(1, len(bytes_) + 1)) and len(bytes_) <= 255
    assert named == sorted(set(named)) and named[0] == 1 and named[-1] == qualities
    assert [byte_of(quality, qualities) for quality in named] == bytes_
    assert all(quality_of(byte, qualities) == byte for byte in range(1, qualities + 1))
    assert (len(bytes_) > qualities) == (division(qualities) > 1)
    for beyond in (0, len(bytes_) + 1):
        with pytest.raises(ValueError, match="names no quality"):
            quality_of(beyond, qualities)


def test_the_page_of_the_format_is_right_about_eight_qualities(codec: Codec) -> None:
    assert [quality_of(byte, 8) for byte in (9, 117, 225)] == [1.03125, 4.5, 7.96875]
    assert quality_byte(4.3, codec.bundle) == byte_of(4.3125, 8) == 111


def test_tables_of_z_for_each_quality_serve_the_steps_above_it(codec: Codec) -> None:
    """As the variable-rate models have."""
    tables, channels = codec.bundle.z_tables, codec.bundle.manifest.hyper_channels
    for quality in (1, 4, 4.5, 7.96875, 8):
        assert z_first(tables, channels, byte_of(quality, 8)) == 0
    of_each = replace(
        tables, **{name: np.tile(getattr(tables, name), 8) for name in ("frequencies", "lengths", "offsets")}
    )
    for quality in (1, 4, 4.5, 7.96875, 8):
        assert z_first(of_each, channels, byte_of(quality, 8)) == (int(quality) - 1) * channels


def test_gains_lie_between_those_of_their_neighbours(codec: Codec) -> None:
    rows = codec.bundle.inverse_gain
    assert np.array_equal(between(rows, 3), rows[2:3])
    half = between(rows, byte_of(3.5, 8))
    assert half.dtype == np.float32 and np.allclose(half[0] ** 2, rows[2] * rows[3], rtol=1e-5)
    assert np.allclose(between(-rows, byte_of(3.5, 8)), -half)
    with pytest.raises(ValueError, match="cannot be interpolated"):
        between(np.stack([rows[0], -rows[1]]), 5)


def test_files_between_qualities_lie_between_in_size_and_quality(codec: Codec, photograph: np.ndarray) -> None:
    files = [codec.encode(photograph, quality) for quality in (4, 4.25, 4.5, 4.75, 5)]
    assert [bitstream.parse(data).quality for data in files] == [4, 109, 117, 125, 5]
    sizes, values = [len(data) for data in files], [psnr(photograph, codec.decode(data)) for data in files]
    assert sizes == sorted(sizes)
    assert values == pytest.approx(np.linspace(values[0], values[-1], 5), abs=0.1)


@pytest.mark.skipif(not shutil.which("node"), reason="no node: the page's modules are not tested on their own")
def test_the_page_names_the_same_qualities_and_gains(codec: Codec) -> None:
    rows = codec.bundle.inverse_gain[:, :, 0, 0]
    script = (
        f'const {{ qualityOf, gainsOf }} = await import("file://{STATIC}/between.js");'
        'const { rows, qualities } = JSON.parse(await new Promise((done) => { let text = "";'
        'process.stdin.on("data", (part) => (text += part)).on("end", () => done(text)); }));'
        "const flat = Float32Array.from(rows.flat());"
        "const named = Array.from({ length: 256 }, (_, byte) => qualityOf(byte, qualities));"
        "const gains = [1, 8, 9, 117, 225].map((b) => Array.from(gainsOf(flat, b, qualities, rows[0].length)));"
        "console.log(JSON.stringify({ named, gains }));"
    )
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        input=json.dumps({"rows": rows.tolist(), "qualities": len(rows)}),
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    bytes_ = sorted(ladder(len(rows)))
    assert found["named"] == [None, *(quality_of(b, len(rows)) for b in bytes_), *[None] * (255 - len(bytes_))]
    for byte, gains in zip((1, 8, 9, 117, 225), found["gains"], strict=True):
        assert np.allclose(between(codec.bundle.inverse_gain, byte).ravel(), gains, rtol=3e-7)
