"""CompressAI's models with a raster-scan context: wavefronts give what its own code gives, one position at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.compressai_models import RASTER_WIDTHS, lively_raster, photograph
from ugicm.export.checkpoint import load
from ugicm.export.graphs import check_graph, export_graphs
from ugicm.export.source import Source
from ugicm.export.staged_source import given_symbols, in_onnxruntime, in_torch, run_stages, whole_graphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime

CASES = [(a, w) for a, widths in RASTER_WIDTHS.items() for w in widths]


@dataclass(frozen=True)
class Theirs:
    """All that CompressAI's `compress` computes of a picture, in float64: (1, M, H, W) each, `z` centred integers."""

    z: np.ndarray
    indexes: np.ndarray
    symbols: np.ndarray
    y_hat: np.ndarray
    picture: Tensor


def coded_by(model: Any, x: Tensor) -> Theirs:
    """Its loop over positions, overheard where it asks for indexes and symbols."""
    model = copy.deepcopy(model).double()
    conditional, heard = model.gaussian_conditional, {"indexes": [], "symbols": []}
    build, quantise = conditional.build_indexes, conditional.quantize

    def tell(name: str, value: Tensor) -> Tensor:
        heard[name].append(value.reshape(-1))
        return value

    conditional.build_indexes = lambda scales: tell("indexes", build(scales))
    conditional.quantize = lambda y, mode, means: tell("symbols", quantise(y, mode, means))
    y = model.g_a(x.double())
    medians = model.entropy_bottleneck._get_medians()
    z = torch.round(model.h_a(y) - medians)
    params, shape = model.h_s(z + medians), (1, y.shape[1], *y.shape[2:])
    padded = functional.pad(y, (2, 2, 2, 2))
    model._compress_ar(padded, params, *y.shape[2:], 5, 2)
    y_hat = padded[:, :, 2:-2, 2:-2]
    indexes, symbols = (torch.stack(heard[k], 1).reshape(shape).numpy() for k in ("indexes", "symbols"))
    return Theirs(z.numpy(), indexes, symbols, y_hat.numpy(), model.g_s(y_hat))


@dataclass(frozen=True)
class Case:
    source: Source
    theirs: Theirs


@pytest.fixture(scope="module", params=CASES, ids=lambda p: f"{p[0]}-{p[1][0]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    architecture, widths = request.param
    model = lively_raster(architecture, *widths)
    model.update(force=True)
    path = tmp_path_factory.mktemp(architecture) / "checkpoint.pth.tar"
    torch.save({"state_dict": model.state_dict()}, path)
    source = load(path)
    assert source.architecture == architecture
    x = torch.from_numpy(photograph(64, 128)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return Case(source, coded_by(model, x))


@torch.no_grad()
def test_wavefronts_in_double_precision_are_compressais(case: Case) -> None:
    theirs = case.theirs
    index, symbols, y_hat = run_stages(
        case.source, in_torch(case.source, torch.float64), theirs.z, given_symbols(theirs.symbols)
    )
    assert np.array_equal(np.clip(np.rint(index), 0, 63), theirs.indexes)
    assert len(np.unique(theirs.indexes)) > 20  # the weights spread scales over the table
    assert np.array_equal(symbols, theirs.symbols) and np.abs(symbols).max() > 3
    assert np.abs(y_hat - theirs.y_hat).max() < 1e-5  # biases are added to each other in single precision
    synthesis = case.source.graphs["g_s"].module
    found = synthesis(torch.from_numpy(y_hat).float(), torch.ones(1, y_hat.shape[1], 1, 1))
    expected = torch.round(theirs.picture.clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert (found.double() - expected).abs().max() <= 1


def test_the_graphs_are_what_torch_computes(case: Case) -> None:
    source, theirs = case.source, case.theirs
    if (source.architecture, source.hyper_channels) != ("cheng2020-anchor", 8):
        return
    models = dict(export_graphs(whole_graphs(source)))
    for name, model in models.items():
        assert check_graph(name, model, source.graphs[name]).passed, name
    run = in_onnxruntime(source, {k: m.SerializeToString() for k, m in models.items()}, OnnxRuntime(threads=1))
    index, _, y_hat = run_stages(source, run, theirs.z.astype(np.float32), given_symbols(theirs.symbols))
    expected = run_stages(source, in_torch(source, torch.float64), theirs.z, given_symbols(theirs.symbols))
    assert np.abs(index - expected[0]).max() < 1e-3
    assert np.abs(y_hat - theirs.y_hat).max() < 1e-3
