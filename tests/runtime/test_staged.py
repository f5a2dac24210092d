"""Codecs with context, from a small network's bundle: coded in stages, decoded elsewhere, admitted by tolerance."""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.levels import check_levels
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import main
from ugicm.runtime.encoder import container
from ugicm.runtime.errors import BackendError, CorruptFileError, UgicError
from ugicm.runtime.graphs import stages
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.guard import Rounding
from ugicm.runtime.stage_admission import deviation


@pytest.fixture(scope="module")
def bundle(staged_checkpoint: Path) -> Path:
    """A small checkerboard codec of CompressAI, exported."""
    return staged_checkpoint.with_name("bundle")


@pytest.fixture(scope="module")
def data(staged: Codec, photograph: np.ndarray) -> bytes:
    return staged.encode(photograph)


@pytest.mark.parametrize("size", [(1, 1), (70, 33), (64, 128)])
def test_any_size_comes_back_the_same_at_every_level(bundle: Path, staged: Codec, size: tuple[int, int]) -> None:
    check_levels(bundle, staged, size)


def test_the_file_says_its_band_and_is_of_version_2(staged: Codec, data: bytes) -> None:
    stream = bitstream.parse(data)
    assert stream.version == 2 and stream.guard is not None and len(stream.y) == 1
    assert staged.bundle.manifest.schedule is not None
    assert stream.guard.band_bits == staged.bundle.manifest.schedule.band_bits


@pytest.mark.parametrize("workers", [0, 1])
def test_many_at_once_are_those_one_by_one(staged: Codec, photograph: np.ndarray, workers: int) -> None:
    files = [staged.encode(np.roll(photograph, 8 * i, 0)) for i in range(3)]
    outcomes = list(staged.decode_many(files, workers=workers))
    for file, outcome in zip(files, outcomes, strict=True):
        assert outcome.error is None and np.array_equal(outcome.value[0], staged.decode(file))
    assert [o.value for o in staged.encode_many([photograph], workers=workers)] == [staged.encode(photograph)]


def test_stages_of_different_files_overlap(
    staged: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file between two of its stages does not keep the networks from the stages of another."""
    files = [staged.encode(np.roll(photograph, 8 * i, 0)) for i in range(3)]
    run, rows, begun, another = stages.staged, Rounding.rows, Counter[str](), threading.Event()
    assert staged.bundle.manifest.schedule is not None
    last = staged.bundle.manifest.schedule.graphs[-1]

    def beginning(networks: Networks, inputs: dict[str, np.ndarray], graph: str) -> list[np.ndarray]:
        begun[graph] += 1
        if begun["h_s"] > 1:
            another.set()
        return run(networks, inputs, graph)

    def waiting(rounding: Rounding, *arguments: Any) -> np.ndarray:
        assert another.wait(30), "no other file was begun while the first stood between two stages"
        return rows(rounding, *arguments)

    monkeypatch.setattr(stages, "staged", beginning)
    monkeypatch.setattr(Rounding, "rows", waiting)
    assert all(outcome.error is None for outcome in staged.decode_many(files, workers=0))
    assert begun["h_s"] == begun[last] == 3


def test_damage_is_an_error_with_a_name(staged: Codec, data: bytes) -> None:
    rng = np.random.default_rng(5)
    for _ in range(60):
        changed = bytearray(data[:-4])
        changed[rng.integers(20, len(changed))] ^= int(rng.integers(1, 256))
        mended = bytes(changed) + zlib.crc32(changed).to_bytes(4, "little")
        try:
            picture = staged.decode(mended)
        except UgicError:
            continue
        assert np.array_equal(picture, staged.decode(data))  # the last bits of a range coder change no symbol


def test_a_guard_belongs_to_a_codec_with_stages(codec: Codec, staged: Codec, data: bytes) -> None:
    stream = bitstream.parse(data)
    with pytest.raises(CorruptFileError, match="disagree on stages"):
        staged.decode(container.pack(replace(stream, guard=None)))
    with pytest.raises(CorruptFileError, match="disagree on stages"):
        codec.decode(container.pack(replace(stream, codec_id=codec.codec_id, quality=1)))


def test_a_backend_that_strays_is_refused(staged: Codec, data: bytes) -> None:
    class Straying:
        name = "a backend with half precision"

        def load(self, model: bytes, name: str, weights: object = None) -> object:
            graph = staged.backend.load(model, name)

            def run(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
                outputs = graph({k: v.astype(np.float16).astype(v.dtype) for k, v in inputs.items()})
                return [o.astype(np.float16).astype(o.dtype) if o.dtype == np.float32 else o for o in outputs]

            return run

    with pytest.raises(BackendError, match="may not decode stages"):
        Codec(staged.bundle, Straying()).decode(data)  # type: ignore[arg-type]
    assert deviation(staged.bundle, lambda name: staged.networks.graph(name)) > 0


def test_verify_and_info_tell_of_stages(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(bundle), "--json"]) == 0
    verdicts = json.loads(capsys.readouterr().out)
    assert all(v["admitted"] and "rows from golden" in v["reason"] for v in verdicts)
    assert main(["info", str(bundle)]) == 0
    assert "guarded rounding with a band of 2^-" in capsys.readouterr().out
