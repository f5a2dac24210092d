"""Files of other bands than their bundle's, and what they cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.guard_cost import band, cost, main
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.files.images import write_image


def test_a_wider_band_costs_more_and_decodes_the_same(staged: Codec, photograph: np.ndarray) -> None:
    own = bitstream.parse(staged.encode(photograph)).guard
    assert own is not None
    narrow, wide = (cost(staged, photograph, bits) for bits in (14, 8))
    assert 0 < narrow.guards < wide.guards and narrow.block >= wide.block
    assert wide.size - narrow.size == pytest.approx(wide.guards - narrow.guards, abs=8)
    with band(13):
        other = staged.encode(photograph)
    found = bitstream.parse(other).guard
    assert found is not None and found.band_bits == 13 != own.band_bits
    assert np.array_equal(staged.decode(other), staged.decode(staged.encode(photograph)))


def test_it_prints_a_line_for_each_band(
    staged_checkpoint: Path, photograph: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(tmp_path / "a.png", photograph)
    assert main([str(staged_checkpoint.with_name("bundle")), str(tmp_path / "a.png"), "--bands", "12", "8"]) == 0
    out = capsys.readouterr().out
    assert "2^-12" in out and "2^-8" in out and "a.png" in out
