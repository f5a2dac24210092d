"""CompressAI's variable-rate models: the stages give what its own code gives, at every level."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.compressai_models import VARIABLE_WIDTHS, lively_variable, photograph
from ugicm import Codec
from ugicm.export import to_tensorrt
from ugicm.export.checkpoint import load
from ugicm.export.device_graphs import device_graphs
from ugicm.export.source import Source
from ugicm.export.staged_source import given_symbols, in_torch, run_stages, z_first
from ugicm.export.tables import factorised_tables
from ugicm.export.to_onnx import main as export
from ugicm.models.entropy import compressai_module
from ugicm.runtime import bitstream
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.symbols import least_bits, z_rows
from ugicm.runtime.tables import Tables

CASES = [(a, w) for a, widths in VARIABLE_WIDTHS.items() for w in widths]
EXPORTED = ("bmshj2018-hyperprior-vbr", 6, 9, True)
LEVELS = (0, 3, 7)


@dataclass(frozen=True)
class Theirs:
    """What CompressAI computes of a picture at a level, in float64: (1, M, H, W) each, `z` centred integers."""

    gain: float
    z: np.ndarray
    indexes: np.ndarray
    symbols: np.ndarray
    y_hat: np.ndarray
    picture: Tensor


def coded_by(model: Any, x: Tensor, level: int) -> Theirs:
    model = copy.deepcopy(model).double()
    x, gain, medians = x.double(), model.Gain[level].abs(), model.entropy_bottleneck._get_medians()
    y, shape = model.g_a(x), model.g_a(x).shape
    step = model.lower_bound_zqstep(model.gayn2zqstep(1 / gain.view(1))) if model.vr_entbttlnck else torch.ones(1)
    means_too = not type(model).__name__.startswith("ScaleHyperprior")
    z = torch.round((model.h_a(y if means_too else y.abs()) - medians.reshape(1, -1, 1, 1)) / step)
    hyper, conditional = model.h_s(z * step + medians.reshape(1, -1, 1, 1)), model.gaussian_conditional
    if hasattr(model, "context_prediction"):
        padded, vbr = functional.pad(y, (2, 2, 2, 2)), compressai_module("models.vbr")
        with mock.patch.object(vbr, "BufferedRansEncoder") as encoder:
            model._compress_ar(padded, hyper, *shape[2:], 5, 2, gain, 1 / gain, 2)
        lists = encoder.return_value.encode_with_indexes.call_args.args[:2]
        symbols, indexes = (torch.tensor(v).reshape(-1, shape[1]).T.reshape(shape) for v in lists)
        y_hat = padded[:, :, 2:-2, 2:-2]
        return Theirs(float(gain), z.numpy(), indexes.numpy(), symbols.numpy(), y_hat.numpy(), model.g_s(y_hat))
    scales, means = hyper.chunk(2, 1) if means_too else (hyper, torch.zeros_like(hyper))
    heard: list[Tensor] = []
    model.g_s.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    picture = model(x, s=level)["x_hat"]
    indexes, symbols = conditional.build_indexes(scales * gain), torch.round((y - means) * gain)
    return Theirs(float(gain), z.numpy(), indexes.numpy(), symbols.numpy(), heard[0].numpy(), picture)


@dataclass(frozen=True)
class Case:
    source: Source
    model: Any
    theirs: list[Theirs]


@pytest.fixture(scope="module", params=CASES, ids=lambda p: f"{p[0]}-{p[1][0]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    architecture, widths = request.param
    model = lively_variable(architecture, *widths)
    model.update(force=True)
    path = tmp_path_factory.mktemp(architecture) / "checkpoint.pth.tar"
    torch.save({"state_dict": model.state_dict()}, path)
    source = load(path)
    assert source.architecture == architecture and source.qualities == 8
    x = torch.from_numpy(photograph(64, 128)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return Case(source, model, [coded_by(model, x, level) for level in LEVELS])


@torch.no_grad()
def test_stages_in_double_precision_are_compressais(case: Case) -> None:
    rows: set[int] = set()
    for level, theirs in zip(LEVELS, case.theirs, strict=True):
        given, run = given_symbols(theirs.symbols), in_torch(case.source, torch.float64)
        index, symbols, y_hat = run_stages(case.source, run, theirs.z.astype(np.float64), given, level + 1)
        assert np.array_equal(np.clip(np.rint(index), 0, 63), theirs.indexes)
        assert np.array_equal(symbols, theirs.symbols)
        assert np.abs(y_hat / theirs.gain - theirs.y_hat).max() < 1e-4
        inverse = torch.from_numpy(case.source.inverse_gain[level]).float()[None, :, None, None]
        found = case.source.graphs["g_s"].module(torch.from_numpy(y_hat).float(), inverse)
        expected = torch.round(theirs.picture.clamp(0, 1) * 255).permute(0, 2, 3, 1)
        assert (found.double() - expected).abs().max() <= 1
        rows |= set(np.unique(theirs.indexes).tolist())
    assert len(rows) > 20 and np.abs(case.theirs[-1].symbols).max() > 3  # scales spread over the table
    restored = case.theirs[-1].y_hat * case.theirs[-1].gain
    assert np.abs(restored - np.rint(restored)).max() > 1e-3  # offsets and means count


@torch.no_grad()
def test_z_is_compressais_at_every_level(case: Case) -> None:
    """The symbols of `h_a`, and probabilities by which their bits are CompressAI's likelihoods."""
    y = torch.from_numpy(photograph(64, 128)).permute(2, 0, 1)[None].float() / 255
    y = case.model.g_a(y)
    for level, theirs in zip(LEVELS, case.theirs, strict=True):
        gain = torch.full((1, y.shape[1], 1, 1), theirs.gain)
        assert np.array_equal(np.rint(case.source.graphs["h_a"].module(y * gain, gain).numpy()), theirs.z)
        first, width = z_first(case.source, level + 1), case.source.hyper_channels
        p = case.source.z_probabilities[first : first + width]
        bits = -np.log2([p[c][v + p.shape[1] // 2] for c in range(width) for v in theirs.z[0, c].astype(int).ravel()])
        bottleneck, step = case.model.entropy_bottleneck, torch.ones(1)
        if case.model.vr_entbttlnck:
            step = case.model.lower_bound_zqstep(case.model.gayn2zqstep(1 / torch.tensor([theirs.gain])))
        z_hat = torch.from_numpy(theirs.z[0]).flatten(1)[:, None].float() * step + bottleneck._get_medians()
        if case.model.vr_entbttlnck:
            likelihood, _, _ = bottleneck._likelihood_variable(z_hat, qs=step)
        else:
            likelihood, _, _ = bottleneck._likelihood(z_hat)
        assert bits.sum() == pytest.approx(float(-torch.log2(likelihood).sum()), rel=1e-3)


def test_rows_of_z_are_those_of_the_quality(case: Case) -> None:
    width = case.source.hyper_channels
    arrays = factorised_tables(case.source.z_probabilities)
    tables = Tables.from_arrays(*(arrays[f"z_{c}"] for c in ("frequencies", "lengths", "offsets")))
    assert tables.rows in (width, 8 * width)
    first = z_first(case.source, 8)
    rows = z_rows((1, width, 2, 1), first)
    assert rows.max() == first + width - 1 < tables.rows and np.all(rows[0, 1] == first + 1)
    assert 0 < least_bits(tables, first, width) <= least_bits(tables, 0, tables.rows)


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """A small one whose `z` has a step, exported."""
    folder = tmp_path_factory.mktemp("variable")
    torch.save(lively_variable(*EXPORTED).state_dict(), folder / "model.pth.tar")
    assert export([str(folder / "model.pth.tar"), "-o", str(folder / "bundle")]) == 0
    return Codec.from_bundle(folder / "bundle", threads=1)


@pytest.mark.parametrize("size", [(1, 1), (70, 33), (513, 769)])
def test_any_size_comes_back_at_every_level(codec: Codec, size: tuple[int, int]) -> None:
    image = photograph(70, 33) if size == (70, 33) else np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    files = [codec.encode(image, level + 1) for level in LEVELS]
    assert len(files[0]) < len(files[1]) < len(files[2])
    for file in files:
        first = codec.decode(file)
        other = Codec(codec.bundle, OnnxRuntime(threads=2, level="disable")).decode(file)
        assert first.shape == image.shape and np.abs(other.astype(int) - first).max() <= 1


def test_targets_are_met_between_levels_and_effort_searches(codec: Codec) -> None:
    image = photograph(70, 33)
    between = codec.encode(image, 4.5)
    assert len(codec.encode(image, 4)) < len(between) < len(codec.encode(image, 5))
    near = codec.encode(image, target_bpp=8 * len(between) / (70 * 33))
    within = codec.encode(image, max_bytes=len(between))
    assert abs(len(near) - len(between)) <= 2 and len(between) - 2 <= len(within) <= len(between)
    for data in (near, within):
        assert data[13] > 8 and codec.decode(data).shape == image.shape
    level = psnr(image, codec.decode(between))
    assert psnr(image, codec.decode(codec.encode(image, target_psnr=level))) == pytest.approx(level, abs=0.03)
    plain, refined = codec.encode(image, 4.5), codec.encode(image, 4.5, effort=1)
    squares = [np.square(codec.decode(data).astype(float) - image).sum() for data in (plain, refined)]
    assert refined == plain or len(refined) < len(plain) or squares[1] < squares[0]


@torch.no_grad()
def test_files_are_as_long_as_compressais_and_pictures_within_a_level(codec: Codec) -> None:
    model, image = lively_variable(*EXPORTED), photograph(256, 256)
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    for level in (*LEVELS, 3.5):
        low, high = model.Gain[int(level)], model.Gain[min(int(level) + 1, 7)]
        gain = low ** (1 - level % 1) * high ** (level % 1)
        model.update(force=True, scale=gain)
        theirs = model.compress(x, inputscale=gain)
        data = codec.encode(image, level + 1)
        stream = bitstream.parse(data)
        assert len(stream.z) + len(stream.y[0]) <= 1.015 * sum(len(s[0]) for s in theirs["strings"]) + 8
        picture = torch.round(model(x, inputscale=gain)["x_hat"].clamp(0, 1)[0] * 255).permute(1, 2, 0).numpy()
        assert np.abs(picture - codec.decode(data)).max() <= 1


def test_every_graph_has_a_form_for_gpus_and_builds(codec: Codec, tmp_path: Path) -> None:
    assert device_graphs(codec.bundle, "fp32").keys() == codec.bundle.manifest.graphs.keys()
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 has wheels for Linux x86-64 and Windows only")
    sizes = ["--min", "128x192", "--opt", "128x192", "--max", "256x384"]
    assert to_tensorrt.main([str(codec.bundle.path), "--precision", "fp32", *sizes, "-o", str(tmp_path)]) == 0
