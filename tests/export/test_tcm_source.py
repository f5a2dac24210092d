"""Checkpoints of TCM as sources: recognised, refused in one line, coded by stages, exported, cut where windows meet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tcm_models import NARROW, WIDE, lively_tcm, picture
from ugicm.export import to_onnx
from ugicm.export.checkpoint import CheckpointError, load, recognise
from ugicm.export.graphs import check_graph, export_graphs
from ugicm.export.source import GraphSource, Source
from ugicm.export.staged_source import in_torch, run_stages
from ugicm.models.tcm import TCM, TCMConfig
from ugicm.models.tcm_blocks import Transformer
from ugicm.runtime.graphs.tiles import cut, measured_reach, stepped
from ugicm.runtime.schedule import ALL, Stage


@pytest.fixture(scope="module")
def model() -> TCM:
    torch.set_num_threads(1)
    return lively_tcm()


@pytest.fixture(scope="module")
def source(model: TCM) -> Source:
    return recognise(saved(model), Path("x"))


def saved(model: TCM) -> dict[str, Tensor]:
    """A state dict as the authors save it: with tables."""
    state = {k: v.clone() for k, v in model.state_dict().items()}
    state["gaussian_conditional._quantized_cdf"] = torch.zeros(64, 3000, dtype=torch.int32)
    state["gaussian_conditional.scale_table"] = torch.exp(torch.linspace(np.log(0.11), np.log(256), 64))
    return state


def test_a_checkpoint_is_recognised_and_takes_a_slice_a_stage(model: TCM, tmp_path: Path) -> None:
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in saved(model).items()}}, tmp_path / "x.pth.tar")
    source = load(tmp_path / "x.pth.tar")
    assert source.architecture == "tcm" and (source.stride, source.latent_stride) == (128, 16)
    assert source.schedule is not None
    assert source.schedule.stages == tuple(
        Stage(f"stage{i:02}", (2 * i, 2 * i + 2), ALL, f"lrp{i:02}") for i in range(3)
    )
    assert source.model["window"] == 128 and source.hyper_channels == 4 * NARROW.hyper
    for channel in range(NARROW.hyper):  # the four positions of a square have one table
        assert np.ptp(source.z_probabilities[4 * channel : 4 * channel + 4], 0).max() == 0
    assert not np.array_equal(source.z_probabilities[0], source.z_probabilities[4])


def test_weights_that_do_not_fit_are_refused_in_one_line(
    model: TCM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bias = "cc_mean_transforms.1.0.bias"
    without = {k: v for k, v in saved(model).items() if k != bias}
    for state, words in (
        (without, f"its weights are not those of TCM ({bias} is missing)"),
        ({**without, bias: torch.zeros(3)}, f"{bias} has shape (3,), not (10,)"),
        ({**without, bias: torch.full((10,), torch.nan)}, "are not finite"),
        ({**saved(model), "more": torch.zeros(1)}, "more is none of them"),
        ({k: torch.zeros(1) for k in saved(model)}, "its weights are not those of TCM"),
    ):
        torch.save(state, tmp_path / "x.pth")
        assert to_onnx.main([str(tmp_path / "x.pth")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / 'x.pth'}: ") and words in error and error.count("\n") == 1
    with pytest.raises(CheckpointError, match="holds tcm, not mbt2018-mean"):
        recognise(saved(model), Path("x"), "mbt2018-mean")


def test_windows_that_are_whole_too_seldom_are_refused() -> None:
    state = TCM(replace(NARROW, hyper_window=14, hyper_blocks=(1, 1), hyper_heads=(1, 1))).state_dict()
    with pytest.raises(CheckpointError, match="windows that are whole on multiples of 896 pixels alone"):
        recognise(dict(state), Path("x"))


@pytest.mark.parametrize("config", [NARROW, WIDE], ids=["narrow", "wide"])
@torch.no_grad()
def test_the_stages_code_what_the_network_codes(config: TCMConfig) -> None:
    """In double precision: the same symbols, rows and picture as one pass, whose blocks give the authors' numbers."""
    single = lively_tcm(config)
    source, x = recognise(saved(single), Path("x")), picture(128, 256)
    model = single.double()
    expected, y = model.encode(x.double()), model.g_a(x.double()).numpy()
    folded = torch.pixel_unshuffle(expected.z, 2).numpy()
    assert np.abs(source.analyse(x[0], 0) - folded).max() == 0
    mean: dict[str, np.ndarray] = {}
    run = in_torch(source, torch.float64)

    def remembering(name: str, known: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(name, known)
        mean.update((k, v) for k, v in zip(source.graphs[name].outputs, outputs, strict=True) if k == "mean")
        return outputs

    index, symbols, y_hat = run_stages(
        source,
        remembering,  # type: ignore[arg-type]
        folded,
        lambda stage, index: np.rint(y[:, slice(*stage.channels)] - mean["mean"]),
    )
    assert np.array_equal(symbols, expected.symbols.numpy()) and np.abs(symbols).max() > 3
    assert np.abs(y_hat - expected.y_hat.numpy()).max() < 1e-4  # weights of the source were in single precision
    rows = np.searchsorted(source.scales[:-1], expected.scales.numpy())
    assert len(np.unique(rows)) > 20 and np.mean(np.clip(np.rint(index), 0, 63) != rows) < 1e-3
    found = source.graphs["g_s"].module(torch.from_numpy(y_hat).float(), torch.ones(1, y_hat.shape[1], 1, 1))
    picture_ = torch.round(model.g_s(expected.y_hat).clamp(0, 1) * 255).permute(0, 2, 3, 1)
    assert (found.double() - picture_).abs().max() <= 1


def test_predictions_share_a_trace_and_attention_exports_at_any_size(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block of shifted windows is traced for 2×3 of them and checked at others; whole stages take too long here."""
    block, generator = Transformer(4, 2, 4, shifted=True), torch.Generator().manual_seed(1)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)

    def windows(h: int, w: int, n: int) -> tuple[Tensor, ...]:
        return (torch.randn(n, 4 * h, 4 * w, 4, generator=generator),)

    graphs = {name: source.graphs[name] for name in ("lrp00", "lrp01")}
    graphs["block"] = GraphSource(block, ("x",), ("y",), windows, ({0: "n", 1: "4h", 2: "4w"},), 1e-5)
    traced, export = [], torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: (traced.append(a[0]), export(*a, **k))[1])
    for name, model in export_graphs(graphs):
        assert check_graph(name, model, graphs[name]).passed, name
    assert len(traced) == 2


@torch.no_grad()
def test_large_pictures_are_cut_where_windows_meet(source: Source) -> None:
    """The synthesis in tiles is the synthesis whole; its reach is measured at a cut between windows."""
    g_s, ones = source.graphs["g_s"].module, torch.ones(1, NARROW.latent, 1, 1)

    def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(g_s(torch.from_numpy(inputs["y_hat"]), ones).numpy())

    def sample(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        return {"y_hat": np.rint(rng.normal(0, 4, (1, NARROW.latent, height, width))).astype(np.float32)}

    reach = measured_reach(run, sample, {"y_hat": 1}, 8)
    assert reach is not None and reach > 4
    y_hat = sample(np.random.default_rng(3), 8, 80)["y_hat"]
    whole, found = run({"y_hat": y_hat}), np.zeros((1, 128, 1280, 3), np.uint8)
    windows = stepped(8, 80, reach, 400, 8)
    assert len(windows) > 1
    for tile in windows:
        rows, columns = tile
        assert columns.start % 8 == columns.stop % 8 == columns.keep_start % 8 == 0 and rows.stop == 8
        part = run({"y_hat": cut(y_hat, tile, 1)})
        kept = slice(16 * (columns.keep_start - columns.start), 16 * (columns.keep_stop - columns.start))
        found[:, :, 16 * columns.keep_start : 16 * columns.keep_stop] = part[:, :, kept]
    assert np.abs(found.astype(int) - whole).max() <= 1 and np.mean(found != whole) < 1e-3
