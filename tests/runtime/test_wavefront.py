"""Wavefronts: each position once, after all that it reads; files of a raster-scan codec, coded and decoded in steps."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.compressai_models import lively_raster, photograph
from tests.levels import check_levels
from ugicm import Codec
from ugicm.export.to_onnx import main as export
from ugicm.runtime import bitstream
from ugicm.runtime.commands.cli import main as cli
from ugicm.runtime.errors import BundleError, UgicError
from ugicm.runtime.flow import drive
from ugicm.runtime.schedule import WAVEFRONT, Stage
from ugicm.runtime.wavefront import NEIGHBOURS, OFFSETS, Front, walk

STAGE = Stage("step", (0, 2), WAVEFRONT, "after")
NAMES = {"step": ((NEIGHBOURS, "hyper", "gain"), ("index", "mean")), "after": (("y_hat", "mean"), ("lrp",))}


@given(st.integers(1, 9), st.integers(1, 14))
@settings(max_examples=40, deadline=None)
def test_each_position_comes_once_and_after_all_that_it_reads(height: int, width: int) -> None:
    front = Front({}, set(), (1, height, width), np.float32)
    done, steps = np.zeros((height, width), bool), 0
    for rows, columns in front.steps():
        for i, j in zip(rows, columns, strict=True):
            read = [(i + a, j + b) for a, b in OFFSETS]
            assert all(done[a, b] for a, b in read if 0 <= a < height and 0 <= b < width)
        assert not done[rows, columns].any() and np.all(np.diff(rows) > 0)
        done[rows, columns] = True
        steps += 1
    assert done.all() and steps == (width + 3 * (height - 1) if width > 2 else height * width)


def toy(graph: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """A step that mixes all that it reads, and an addition after it; equal for a position however many there are."""
    if graph == "after":
        return [0.25 * np.sin(inputs["y_hat"] + inputs["mean"])]
    n = len(inputs["hyper"])
    around = inputs[NEIGHBOURS].reshape(n, len(OFFSETS), 2) * np.arange(1, len(OFFSETS) + 1)[:, None]
    index = np.abs(np.cos(around).sum(1) + inputs["hyper"]) * inputs["gain"][0, :, 0, 0]
    return [index.astype(np.float32), (np.sin(around).sum(1) / 3).astype(np.float32)]


def raster(known: dict[str, np.ndarray], symbols: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index, y_hat), one position at a time."""
    channels, height, width = symbols.shape
    padded = np.zeros((channels, height + 2, width + 4), np.float32)
    index = np.zeros_like(symbols, np.float32)
    for i in range(height):
        for j in range(width):
            around = np.stack([padded[:, i + 2 + a, j + 2 + b] for a, b in OFFSETS]).reshape(1, -1)
            inputs = {NEIGHBOURS: around, "hyper": known["hyper"][0, :, i, j][None], "gain": known["gain"]}
            found, mean = toy("step", inputs)
            latents = symbols[:, i, j].astype(np.float32) + mean
            index[:, i, j] = found[0]
            padded[:, i + 2, j + 2] = (latents + toy("after", {"y_hat": latents, "mean": mean})[0])[0]
    return index, padded[:, 2:, 2:-2]


@given(st.integers(1, 6), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_a_walk_is_the_raster_scan(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    symbols = rng.integers(-3, 4, (2, height, width))
    known = {"hyper": rng.random((1, 2, height, width), np.float32), "gain": np.full((1, 2, 1, 1), 1.5, np.float32)}
    y_hat, index = np.zeros((2, height, width), np.float32), np.zeros((2, height, width), np.float32)

    def code(at: Any, found: np.ndarray, mean: np.ndarray) -> np.ndarray:
        index[:, at[0], at[1]] = found
        return symbols[:, at[0], at[1]].astype(np.float32) + mean

    walking = walk(STAGE, NAMES, known, y_hat, code, lambda name, inputs: (name, inputs))  # type: ignore[var-annotated]
    drive(walking, lambda asked: toy(*asked))
    expected = raster(known, symbols)
    assert np.allclose(index, expected[0], atol=1e-5) and np.allclose(y_hat, expected[1], atol=1e-5)


@pytest.mark.parametrize("wrong", ["index", "hyper"])
def test_graphs_of_other_shapes_are_an_error_with_a_name(wrong: str) -> None:
    known = {"hyper": np.zeros((1, 2, 3, 3), np.float32), "gain": np.ones((1, 2, 1, 1), np.float32)}
    if wrong == "hyper":
        known["hyper"] = known["hyper"][:, :, 1:]

    def answer(asked: Any) -> list[np.ndarray]:
        index, mean = toy(*asked)
        return [index[:, :1], mean]

    walking = walk(STAGE, NAMES, known, np.zeros((2, 3, 3), np.float32), lambda *a: a[1], lambda *a: a)  # type: ignore[var-annotated]
    with pytest.raises(BundleError, match="export the bundle again"):
        drive(walking, answer)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small mbt2018, exported."""
    folder = tmp_path_factory.mktemp("raster")
    torch.save(lively_raster("mbt2018", 6, 9).state_dict(), folder / "model.pth.tar")
    assert export([str(folder / "model.pth.tar"), "-o", str(folder / "bundle")]) == 0
    return folder / "bundle"


@pytest.fixture(scope="module")
def raster_codec(bundle: Path) -> Codec:
    return Codec.from_bundle(bundle, threads=1)


@pytest.mark.parametrize("size", [(1, 1), (70, 33), (513, 769)])
def test_any_size_comes_back_the_same_at_every_level(bundle: Path, raster_codec: Codec, size: tuple[int, int]) -> None:
    check_levels(bundle, raster_codec, size)


def test_many_at_once_are_those_one_by_one(raster_codec: Codec) -> None:
    """Files of one size share runs of the step's graph, at whatever step each is."""
    files = [raster_codec.encode(np.roll(photograph(128, 128), 8 * i, 0)) for i in range(3)]
    for file, outcome in zip(files, raster_codec.decode_many(files), strict=True):
        assert outcome.error is None
        assert np.abs(outcome.value[0].astype(int) - raster_codec.decode(file)).max() <= 1


@torch.no_grad()
def test_symbols_picture_and_size_are_compressais(raster_codec: Codec) -> None:
    model = lively_raster("mbt2018", 6, 9)
    model.update(force=True)
    image = photograph(128, 192)
    data = raster_codec.encode(image)
    stream = bitstream.parse(data)
    theirs = model.compress(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)
    size = sum(len(strings[0]) for strings in theirs["strings"])
    assert len(stream.z) + len(stream.y[0]) <= 1.015 * size + 8
    picture = model.decompress(**theirs)["x_hat"][0].permute(1, 2, 0)
    apart = np.abs(torch.round(picture * 255).numpy() - raster_codec.decode(data).astype(int))
    assert np.count_nonzero(apart > 1) == 0


def test_damage_is_an_error_with_a_name(raster_codec: Codec) -> None:
    data = raster_codec.encode(photograph(64, 128))
    whole, rng = raster_codec.decode(data), np.random.default_rng(5)
    for _ in range(30):
        changed = bytearray(data[:-4])
        changed[rng.integers(20, len(changed))] ^= int(rng.integers(1, 256))
        try:
            picture = raster_codec.decode(bytes(changed) + zlib.crc32(changed).to_bytes(4, "little"))
        except UgicError:
            continue
        assert np.array_equal(picture, whole)  # the last bits of a range coder change no symbol


def test_info_tells_of_wavefronts(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["info", str(bundle)]) == 0
    assert "1, in wavefronts, guarded rounding with a band of 2^-" in capsys.readouterr().out
