"""Encoding with effort: cheaper files, for the same decoders."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.reference import decoder as reference
from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.commands.encode import main
from ugicm.runtime.effort import search
from ugicm.runtime.effort.distortion import Distortion, distortion_graph
from ugicm.runtime.effort.nodes import Graph, write
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.effort.similarity import scales_of, similarity_loss
from ugicm.runtime.effort.steps import draw
from ugicm.runtime.encoder.flow import encoding
from ugicm.runtime.errors import UsageError
from ugicm.runtime.graphs.tiles import Span, Tile, tiles
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.runtime.symbols import z_rows
from ugicm.runtime.tables import TOTAL


def squares(codec: Codec, image: np.ndarray, data: bytes) -> float:
    return float(np.square(codec.decode(data).astype(float) - image).sum())


def price(codec: Codec, image: np.ndarray, quality: int) -> float:
    """Bits that the codec pays for a squared difference, between the neighbours of a quality."""
    less, more = (codec.encode(image, q) for q in (quality - 1, quality + 1))
    return 8 * (len(more) - len(less)) / (squares(codec, image, less) - squares(codec, image, more))


@pytest.mark.parametrize("quality", [2, 6])
def test_effort_costs_less_at_the_codecs_own_price(codec: Codec, photograph: np.ndarray, quality: int) -> None:
    files = [codec.encode(photograph, quality, effort) for effort in (0, 1, 2)]
    each = price(codec, photograph, quality)
    costs = [8 * len(data) + each * squares(codec, photograph, data) for data in files]
    assert costs[1] < 0.99 * costs[0] and costs[2] < costs[1]
    assert files[0] == codec.encode(photograph, quality) == codec.answer(encoding(codec.bundle, photograph, quality))


@pytest.mark.parametrize("effort", [1, 2, 3])
def test_the_reference_decoder_reads_what_effort_wrote(
    codec: Codec, photograph: np.ndarray, effort: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search.SCHEDULES, 3, replace(search.SCHEDULES[3], steps=5))
    data = codec.encode(photograph[:70, :50], 4, effort)
    assert data != codec.encode(photograph[:70, :50], 4)
    stream = bitstream.parse(data)
    tables = [codec.bundle.z_tables, codec.bundle.y_tables]
    rows_z = z_rows((1, 64, 2, 1))
    z = np.array(decoded([stream.z], rows_z, tables[0])).reshape(rows_z.shape)
    rows, _ = codec.networks.scales_and_means(z.astype(np.int32))
    symbols = np.array(decoded(stream.y, rows, tables[1]), np.int32)
    assert bitstream.symbol_checksum(z.astype(np.int32), symbols.reshape(rows.shape)) == stream.symbol_checksum


def decoded(streams, rows, tables):
    stops = np.cumsum(tables.lengths)
    lists = [tables.frequencies[b - n : b].tolist() for b, n in zip(stops, tables.lengths, strict=True)]
    return reference.decode_symbols(streams, rows.ravel().tolist(), lists, tables.offsets.tolist())


@pytest.mark.parametrize("shape", [(1, 1), (65, 33)])
def test_padding_counts_for_nothing(codec: Codec, photograph: np.ndarray, shape: tuple[int, int]) -> None:
    image = photograph[: shape[0], : shape[1]]
    found = search.Search(codec.networks, codec.answer, image)
    assert found.inside.sum() == image[..., 0].size
    data = codec.encode(image, 3, effort=1)
    assert codec.decode(data).shape == image.shape
    plain = codec.encode(image, 3)
    assert len(data) <= len(plain) or squares(codec, image, data) < squares(codec, image, plain)


def test_a_flat_picture_stays_as_it_is(codec: Codec) -> None:
    image = np.full((64, 64, 3), 130, np.uint8)
    assert len(codec.encode(image, 4, effort=1)) <= len(codec.encode(image, 4))


def test_the_cheaper_of_plain_and_refined_is_kept(
    codec: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search.SCHEDULES, 1, search.Schedule(2, 30.0, 0.6))  # far too long steps
    assert codec.encode(photograph, 4, effort=1) == codec.encode(photograph, 4)


def test_windows_give_the_gradient_of_the_whole(codec: Codec, photograph: np.ndarray) -> None:
    bundle, found = codec.bundle, search.Search(codec.networks, codec.answer, photograph[:128, :192])
    y, z = search.Analysis(codec.networks, photograph[:128, :192])(5)
    y_hat = found.context(z, 5).written(y).y_hat
    graph = derived(codec.networks, "distortion", partial(distortion_graph, bundle, found.views[0][1]))
    parts = [Tile(Span(0, 8, 0, 8), Span(0, 12, 0, 12))], tiles(8, 12, 2, 40)
    assert len(parts[1]) > 1
    target = found.padded.astype(np.float32)
    whole, pieces = (
        Distortion(target, found.inside, bundle.inverse_gain[4:5], [(1.0, graph)], windows)(y_hat) for windows in parts
    )
    assert pieces[1] == pytest.approx(whole[1], rel=1e-5)
    assert np.abs(pieces[0] - whole[0]).max() < 1e-4 * np.abs(whole[0]).max()
    decoded = np.asarray(next(iter(codec.networks.pictures(y_hat, 5, [found.views[0][1]])))).astype(float)
    # Decoding rounds; the loss does not.
    assert whole[1] == pytest.approx(np.square(decoded - found.padded).sum(), rel=0.02)


def test_a_picture_searched_in_windows_costs_what_it_costs_whole(
    codec: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = np.ascontiguousarray(np.concatenate([photograph, photograph[:, ::-1]], axis=1))
    plain, whole = codec.encode(image, 5), codec.encode(image, 5, effort=1)
    cut: list[int] = []

    def counted(*arguments: int) -> list[Tile]:
        found = tiles(*arguments)
        cut.append(len(found))
        return found

    monkeypatch.setattr(search, "tiles", counted)
    monkeypatch.setattr(search, "LARGEST_WINDOW", 160 * 160)
    pieces = codec.encode(image, 5, effort=1)
    assert cut[0] > 1 and cut == cut[:1]
    each = price(codec, image, 5)
    costs = [8 * len(data) + each * squares(codec, image, data) for data in (plain, whole, pieces)]
    assert costs[2] == pytest.approx(costs[1], rel=1e-3) and costs[2] < 0.99 * costs[0]


def test_bits_between_symbols_are_interpolated(codec: Codec) -> None:
    tables = codec.bundle.y_tables
    rate, row = Rate(tables), int(np.argmax(tables.lengths))
    start, length = int(tables.lengths[:row].sum()), int(tables.lengths[row])
    bits = -np.log2(tables.frequencies[start : start + length - 1] / TOTAL)
    values = tables.offsets[row] + np.arange(length - 1)
    found, slopes = rate(values.astype(np.float32), np.full(values.shape, row))
    assert np.allclose(found, bits, atol=1e-4)
    assert np.allclose(slopes[:-1], np.diff(bits), atol=1e-4)
    between, _ = rate((values[:-1] + 0.25).astype(np.float32), np.full(length - 2, row))
    assert np.allclose(between, 0.75 * bits[:-1] + 0.25 * bits[1:], atol=1e-3)
    skipped = np.flatnonzero(tables.lengths == 0)[:1]
    assert rate(np.zeros(1, np.float32), skipped) == (0, 0)


def test_each_tune_lowers_its_own_distortion_most(codec: Codec, photograph: np.ndarray) -> None:
    """At a quality where rates hardly differ."""
    files = {tune: codec.encode(photograph, 5, effort=1, tune=tune) for tune in search.TUNES}
    alike = {tune: ms_ssim(photograph, codec.decode(data)) for tune, data in files.items()}
    assert alike["ms-ssim"] == max(alike.values())
    machine = {tune: psnr(photograph, codec.decode(data, "machine")) for tune, data in files.items()}
    assert machine["machine"] > machine["psnr"]
    with pytest.raises(UsageError, match="tune"):
        codec.encode(photograph, 5, effort=1, tune="lpips")


@pytest.mark.parametrize("shape", [(256, 192), (64, 128)])
def test_the_loss_of_similarity_is_the_metric(codec: Codec, photograph: np.ndarray, shape: tuple[int, int]) -> None:
    image = np.ascontiguousarray(np.pad(photograph, ((0, 128), (0, 0), (0, 0)), "reflect")[: shape[0], : shape[1]])
    other = np.clip(image + np.random.default_rng(1).normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    nodes, constants, loss = similarity_loss("a", "b", scales_of(min(shape)))
    model = write(Graph(tuple(nodes), constants, {"a": 1, "b": 1}, (loss,), 20), {loss: 1})
    found = OnnxRuntime(threads=1).load(model, "loss")({"a": other[None], "b": image[None]})[0].item()
    assert found == pytest.approx(1 - ms_ssim(image, other), rel=1e-3)


def test_draws_fall_on_the_neighbours_and_tell_of_every_step(
    codec: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    residual = np.random.default_rng(2).normal(0, 2, 10000).astype(np.float32)
    drawn, slope = draw(residual, 0.05, np.random.default_rng(0))
    assert np.isfinite(slope).all() and (slope >= 0).all()
    assert ((drawn >= np.floor(residual)) & (drawn <= np.floor(residual) + 1)).all()
    assert np.mean(np.abs(drawn - np.rint(residual)) < 0.01) > 0.9
    schedule = search.SCHEDULES[3]
    monkeypatch.setitem(search.SCHEDULES, 3, replace(schedule, steps=3))
    heard: list[tuple[int, int]] = []
    files = [codec.encode(photograph, 4, effort=3, watch=lambda *step: heard.append(step)) for _ in range(2)]
    assert heard[-3:] == [(1, 3), (2, 3), (3, 3)] and files[0] == files[1]


class OnDevice:
    """A backend that has a device, as those of GPUs do."""

    name, device = "somewhere", None

    def __init__(self, backend: object) -> None:
        self.load = backend.load


def test_what_no_effort_is_possible_for_is_refused(codec: Codec, photograph: np.ndarray) -> None:
    for effort in (-1, 9, True, 1.5):
        with pytest.raises(UsageError, match="give 0 to"):
            codec.encode(photograph, 4, effort=effort)
    with pytest.raises(UsageError, match="onnxruntime"):
        Codec(codec.bundle, OnDevice(codec.backend)).encode(photograph, 4, effort=1)


def test_the_command_line_takes_an_effort(codec: Codec, photograph: np.ndarray, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(photograph).save(tmp_path / "a.png")
    assert main([str(tmp_path / "a.png"), "-o", str(tmp_path / "a.ugic"), "--effort", "1", "--threads", "1"]) == 0
    assert (tmp_path / "a.ugic").read_bytes() == codec.encode(photograph, 4, effort=1)
    assert main([str(tmp_path / "a.png"), "-o", str(tmp_path / "b.ugic"), "--effort", "7"]) == 2
    assert not (tmp_path / "b.ugic").exists()
