"""Checkpoints of MLIC++ and of UG-ICM's authors as sources: recognised, refused in one line, exported by stages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.engines import build_all
from tests.mlic_models import KINDS, picture, published_numbers, small_mlic
from tests.models.test_mlic import published_weights
from ugicm.export import to_onnx
from ugicm.export.checkpoint import CheckpointError, load, recognise
from ugicm.export.graphs import check_graph, export_graphs
from ugicm.export.source import Source
from ugicm.export.staged_source import in_onnxruntime, in_torch, measure_deviation, run_stages, whole_graphs
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.schedule import Stage


def saved(kind: str, slices: int = 2) -> dict[str, Tensor]:
    """A state dict as authors save it: with tables, and with the index buffers of attention."""
    state = dict(small_mlic(kind, slices).state_dict())
    state["gaussian_conditional._quantized_cdf"] = torch.zeros(64, 3000, dtype=torch.int32)
    state["gaussian_conditional.scale_table"] = torch.exp(torch.linspace(np.log(0.11), np.log(256), 64))
    for i in range(slices):
        state[f"local_context.{i}.relative_position_index"] = torch.zeros(25, 25, dtype=torch.int64)
    return state


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_is_recognised_and_its_schedule_takes_a_slice_in_two_stages(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth.tar"
    torch.save({"epoch": 1, "state_dict": {f"module.{k}": v for k, v in saved(kind).items()}}, path)
    source = load(path)
    assert source.architecture == ("ugicm-mlicpp" if kind == "ugicm" else "mlicpp")
    assert source.conditions.keys() == ({"human", "machine"} if kind == "ugicm" else set())
    assert ("condition" in source.graphs) == (kind == "ugicm")
    assert source.hyper_synthesis is None and source.schedule is not None and len(source.context_digest) == 64
    after = (lambda name: None) if kind == "plain" else (lambda name: name)
    assert source.schedule.stages == (
        Stage("stage00_anchor", (0, 32), "odd", after("lrp00_anchor")),
        Stage("stage00_nonanchor", (0, 32), "even", after("lrp00_nonanchor")),
        Stage("stage01_anchor", (32, 64), "odd", after("lrp01_anchor")),
        Stage("stage01_nonanchor", (32, 64), "even", after("lrp01_nonanchor")),
    )
    assert set(source.graphs) >= {"g_a", "h_a", "h_s", "g_s", *source.schedule.graphs}
    assert source.scales.shape == (64,) and source.z_probabilities.shape[0] == source.hyper_channels == 8
    assert np.all(source.z_probabilities.sum(1) > 1 - 1e-5)


def test_a_scale_table_of_another_kind_is_taken() -> None:
    state = saved("plain")
    state["gaussian_conditional.scale_table"] = torch.tensor([0.1, 0.5, 3.0, 20.0])
    assert recognise(state, Path("x")).scales == pytest.approx([0.1, 0.5, 3.0, 20.0])


def test_weights_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(name: str, value: Tensor | None) -> dict[str, Tensor]:
        state = saved("ugicm")
        state.pop(name)
        return state if value is None else {**state, name: value}

    bias = "entropy_parameters_anchor.1.fusion.0.bias"
    for state, words in (
        (change(bias, None), f"{bias} is missing"),
        (change(bias, torch.zeros(3)), f"{bias} has shape (3,), not (24,)"),
        ({**saved("plain"), "more": torch.zeros(1)}, "more is none of them"),
        (change("g_a.analysis_transform.6.weight", torch.zeros(3)), "its weights are not those of MLIC++"),
        (change("local_context.0.mlp.fc1.weight", torch.tensor(1.0)), "its weights are not those of MLIC++"),
        (change(bias, torch.full((24,), torch.nan)), "are not finite"),
    ):
        path = tmp_path / "x.pth"
        torch.save(state, path)
        assert to_onnx.main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {path}: ") and words in error and error.count("\n") == 1
    with pytest.raises(CheckpointError, match="holds ugicm-mlicpp, not mbt2018-mean"):
        recognise(saved("ugicm"), Path("x"), "mbt2018-mean")


def encoder_of(y: np.ndarray, source: Source, run: object) -> tuple[object, object]:
    """A runner that remembers means, and the symbols of `y` around them."""
    mean: dict[str, np.ndarray] = {}

    def remembering(name: str, known: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(name, known)  # type: ignore[operator]
        mean.update({k: v for k, v in zip(source.graphs[name].outputs, outputs, strict=True) if k == "mean"})
        return outputs

    def symbols_of(stage: Stage, index: np.ndarray) -> np.ndarray:
        return np.rint(y[:, slice(*stage.channels)] - mean["mean"])

    return remembering, symbols_of


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_stages_of_a_source_code_what_the_network_codes(kind: str) -> None:
    model = small_mlic(kind).double()
    expected, y = model.encode(picture().double()), model.g_a(picture().double()).numpy()
    source = recognise(saved(kind), Path("x"))
    remembering, symbols_of = encoder_of(y, source, in_torch(source, torch.float64))
    index, symbols, y_hat = run_stages(source, remembering, expected.z.numpy(), symbols_of)  # type: ignore[arg-type]
    assert np.array_equal(symbols, expected.symbols.numpy())
    assert np.allclose(y_hat, expected.y_hat.numpy(), atol=1e-6)  # weights of the source were in single precision
    rows = np.searchsorted(source.scales[:-1], expected.scales.numpy())
    assert np.mean(np.clip(np.rint(index), 0, 63) != rows) < 1e-3


def test_slices_share_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages and predictions of the third slice come from those of the second, and do what PyTorch does."""
    source = recognise(saved("ugicm", 3), Path("x"))
    some = ("stage01_nonanchor", "stage02_nonanchor", "lrp00_anchor", "lrp02_nonanchor")
    graphs = {name: graph for name, graph in source.graphs.items() if name.startswith(some)}
    traced, export = [], torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *a, **k: (traced.append(a[0]), export(*a, **k))[1])
    models = {}
    for name, model in export_graphs(graphs):
        assert check_graph(name, model, graphs[name]).passed, name
        models[name] = model.SerializeToString()
    assert len(traced) == 2
    build_all(models)


@torch.no_grad()
def test_the_exported_network_codes_the_symbols_of_the_authors_code() -> None:
    """Single precision in ONNX Runtime: every symbol, pictures within a grey level, the deviation within the band."""
    folder = published_numbers()
    weights, expected = published_weights(folder), np.load(folder / "expected.npz")
    state = {k: torch.from_numpy(np.ascontiguousarray(v)).float() for k, v in weights.weights().items()}
    source = recognise(state, Path("x"))
    models = {}
    for name, model in export_graphs(source.graphs):
        check = check_graph(name, model, source.graphs[name])
        assert check.passed, (name, check)
        models[name] = model.SerializeToString()
    build_all(models, ("g_s",))
    backend = OnnxRuntime(threads=1)

    def run(name: str, **inputs: np.ndarray) -> np.ndarray:
        return backend.load(models[name], name)(inputs)[0]

    y = expected["y"].astype(np.float32)
    z = np.rint(run("h_a", y=y))
    assert np.array_equal(z, expected["z_symbols"])
    remembering, symbols_of = encoder_of(y, source, in_onnxruntime(source, models, backend))
    _, symbols, y_hat = run_stages(source, remembering, z, symbols_of)  # type: ignore[arg-type]
    for i in range(symbols.shape[1] // 32):
        wanted = expected[f"symbols_{i}_anchor"] + expected[f"symbols_{i}_nonanchor"]
        assert np.array_equal(symbols[:, 32 * i : 32 * i + 32], wanted)
    ones = np.ones((1, y.shape[1], 1, 1), np.float32)
    for beta in (0.0, 0.3, 1.0):
        vector = run("condition", beta=np.array([beta], np.float32))
        image = run("g_s", y_hat=y_hat, inverse_gain=ones, condition=vector)
        wanted = np.rint(expected[f"x_hat_beta_{beta}"].clip(0, 1) * 255).transpose(0, 2, 3, 1)
        assert np.abs(image.astype(int) - wanted).max() <= 1
    assert set(whole_graphs(source)) == {"h_s", *source.schedule.graphs}  # type: ignore[union-attr]
    deviation = measure_deviation(source, models).largest
    assert source.schedule is not None and deviation < source.schedule.band / 2
    print("deviation", deviation)
