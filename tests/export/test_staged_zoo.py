"""CompressAI's checkerboard models: stages give what its own code gives, in torch and as ONNX graphs."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.compressai_models import STAGED_WIDTHS, lively_staged, photograph
from tests.engines import build_all
from ugicm import Codec
from ugicm.export.checkpoint import load
from ugicm.export.graphs import check_graph, export_graphs
from ugicm.export.source import Source
from ugicm.export.staged_source import ScaleIndex, given_symbols, in_onnxruntime, in_torch, run_stages, whole_graphs
from ugicm.models.entropy import compressai_module
from ugicm.runtime.backends.onnxruntime import OnnxRuntime

EXPORTED = {("cheng2020-anchor-checkerboard", 8), ("elic2022-chandelier", 8)}
"""Architectures and widths that are traced too, which takes seconds a graph."""
CASES = [(a, w) for a, widths in STAGED_WIDTHS.items() for w in widths]


@dataclass(frozen=True)
class Theirs:
    """All that CompressAI computes of a picture, in float64: (1, M, H, W) each, `z` centred integers."""

    z: np.ndarray
    indexes: np.ndarray
    means: np.ndarray
    symbols: np.ndarray
    y_hat: np.ndarray
    picture: Tensor


def coded_by(model: Any, x: Tensor) -> Theirs:
    """What `model.forward` codes; its parameters of each slice are heard where they enter the Gaussians."""
    model = copy.deepcopy(model).double()
    heard: list[tuple[Tensor, Tensor]] = []
    codec = model.latent_codec.y
    parts = [codec] if not hasattr(codec, "groups") else list(codec.latent_codec.values())
    for part in parts:
        part.y.register_forward_pre_hook(lambda module, inputs: heard.append(inputs))
    y = model.g_a(x.double())
    hyper = model.latent_codec.hyper
    z = torch.round(hyper.h_a(y) - hyper.entropy_bottleneck._get_medians())
    y_hat = model.latent_codec(y)["y_hat"]
    indexes, means, symbols = [], [], []
    for part, (latents, parameters) in zip(parts, heard, strict=True):
        scales, mean = part.y._chunk(parameters)
        indexes.append(part.y.gaussian_conditional.build_indexes(scales))
        means.append(mean)
        symbols.append(torch.round(latents - mean))
    joined = (torch.cat(t, 1).numpy() for t in (indexes, means, symbols))
    return Theirs(z.numpy(), *joined, y_hat.numpy(), model.g_s(y_hat))


@dataclass(frozen=True)
class Case:
    model: Any
    source: Source
    theirs: Theirs


@pytest.fixture(scope="module", params=CASES, ids=lambda p: f"{p[0]}-{p[1][0]}")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.set_num_threads(1)
    architecture, widths = request.param
    model = lively_staged(architecture, *widths)
    model.update(force=True)
    path = tmp_path_factory.mktemp(architecture) / "checkpoint.pth.tar"
    torch.save({"state_dict": model.state_dict()}, path)
    source = load(path)
    assert source.architecture == architecture
    x = torch.from_numpy(photograph(128, 192)).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        return Case(model, source, coded_by(model, x))


def test_stages_in_double_precision_are_compressais(case: Case) -> None:
    theirs = case.theirs
    index, symbols, y_hat = run_stages(
        case.source, in_torch(case.source, torch.float64), theirs.z, given_symbols(theirs.symbols)
    )
    assert np.array_equal(np.clip(np.rint(index), 0, 63), theirs.indexes)
    assert len(np.unique(theirs.indexes)) > 20  # the weights spread scales over the table
    assert np.array_equal(symbols, theirs.symbols)
    assert np.abs(y_hat - theirs.y_hat).max() < 1e-9
    assert np.abs(y_hat - symbols - theirs.means).max() < 1e-9


def test_the_graphs_are_what_torch_computes(case: Case, staged: Codec) -> None:
    """Graphs of the bundle, where there is one of this network, which are checked against torch when it is written."""
    source, theirs = case.source, case.theirs
    if (source.architecture, source.hyper_channels) not in EXPORTED:
        return
    names = whole_graphs(source)
    if source.architecture == staged.bundle.manifest.architecture:
        models = {name: staged.bundle.graph(name)[1] for name in names}
    else:
        models = {name: model.SerializeToString() for name, model in export_graphs(names)}
    for name, model in models.items():
        assert check_graph(name, onnx.load_model_from_string(model), source.graphs[name]).passed, name
    build_all(models)
    run = in_onnxruntime(source, models, OnnxRuntime())
    index, _, y_hat = run_stages(source, run, theirs.z.astype(np.float32), given_symbols(theirs.symbols))
    expected = run_stages(source, in_torch(source, torch.float64), theirs.z, given_symbols(theirs.symbols))
    assert np.abs(index - expected[0]).max() < 1e-3
    assert np.abs(y_hat - theirs.y_hat).max() < 1e-3


@torch.no_grad()
def test_the_picture_is_compressais(case: Case) -> None:
    y_hat = torch.from_numpy(case.theirs.y_hat).float()
    found = case.source.graphs["g_s"].module(y_hat, torch.ones(1, y_hat.shape[1], 1, 1))
    expected = torch.round(case.theirs.picture.clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert (found.double() - expected).abs().max() <= 1


def test_group_orders_of_the_two_kinds_differ() -> None:
    """The chandelier reads the first slice and the one before; the official one all earlier ones."""
    from ugicm.export.checkerboard_source import slices_of

    groups = [2, 1, 3, 2]
    kinds = {n: compressai_module("models.sensetime").__dict__[n] for n in ("Elic2022Official", "Elic2022Chandelier")}
    official, chandelier = (slices_of(kind(4, 8, groups)) for kind in kinds.values())
    assert [s.seen for s in official] == [(), (0, 1), (0, 1, 2), (0, 1, 2, 3, 4, 5)]
    assert [s.seen for s in chandelier] == [(), (0, 1), (0, 1, 2), (0, 1, 3, 4, 5)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 600), min_size=1, max_size=8), st.sampled_from(["standard", "own"]))
def test_a_rounded_index_is_compressais(scales: list[float], table: str) -> None:
    conditional = compressai_module("entropy_models").GaussianConditional(None)
    standard = compressai_module("models").get_scale_table()
    conditional.update_scale_table(standard if table == "standard" else [0.11, 0.3, 0.5, 2.0, 8.0])
    own = conditional.scale_table.double()
    # Just beside the edges too, as far as floats tell them apart.
    near = torch.cat([own * (1 - 1e-6), own * (1 + 1e-6), torch.tensor(scales, dtype=torch.float64)])
    rows = torch.round(ScaleIndex(own.numpy())(near)).clamp(0, len(own) - 1)
    assert torch.equal(rows.int(), conditional.double().build_indexes(near))


def test_the_tables_of_all_slices_must_agree(tmp_path: Path) -> None:
    from ugicm.export.checkpoint import CheckpointError

    model = lively_staged("elic2022-official", *STAGED_WIDTHS["elic2022-official"][0])
    model.update(force=True)
    state = model.state_dict()
    state["latent_codec.y.latent_codec.y1.y.gaussian_conditional.scale_table"] *= 2
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="scale tables that differ"):
        load(tmp_path / "x.pth")
