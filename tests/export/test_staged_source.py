"""What sources of codecs with context share: continuous indexes, stages run in order, graphs with several outputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import Tensor, nn

from ugicm.export import guarding
from ugicm.export.graphs import check_graph, export_graphs
from ugicm.export.source import GraphSource, Source
from ugicm.export.staged_source import (
    ScaleIndex,
    even_mask,
    given_symbols,
    golden_stages,
    in_torch,
    measure_deviation,
    positions_mask,
    run_stages,
    whole_graphs,
)
from ugicm.export.straying import Straying
from ugicm.models.entropy import LOG_STEP, SCALE_MIN, SCALE_ROWS
from ugicm.runtime.schedule import Schedule, Stage

CHANNELS, HYPER = 4, 3
TABLE = SCALE_MIN * np.exp(LOG_STEP * np.arange(SCALE_ROWS))
TABLES = {"standard": TABLE, "float32": TABLE.astype(np.float32), "uneven": np.array([0.11, 0.2, 0.9, 1.0, 40.0])}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_an_index_rounds_to_the_row_that_serves_the_scale(table: np.ndarray, scales: list[float]) -> None:
    """Row i serves scales in (t[i-1], t[i]]; at a distance from the edges that single precision can tell."""
    table = table.astype(np.float64)
    x = np.array(scales)
    x = x[np.abs(np.log(x[:, None] / table)).min(1) > 1e-5]
    index = ScaleIndex(table)(torch.from_numpy(x)).numpy()
    rows = np.clip(np.rint(index), 0, len(table) - 1)
    assert np.array_equal(rows, np.searchsorted(table[:-1], x))


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_an_index_grows_with_the_scale_and_ends_a_row_below_the_table(table: np.ndarray) -> None:
    index = ScaleIndex(table)
    s = index(torch.logspace(-3, 4, 2000, dtype=torch.float64))
    assert (s.diff() >= 0).all() and torch.isfinite(index(torch.tensor([-1.0, 0.0, 1e30]))).all()
    assert index(torch.tensor([-5.0])).item() == pytest.approx(-0.5, abs=1e-3)


class Hyper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(HYPER, 2 * CHANNELS, 4, 4)

    def forward(self, z: Tensor) -> Tensor:
        return self.up(z)


class Toy(nn.Module):
    """A stage that reads everything there is to read."""

    channels: Tensor

    def __init__(self, first: int, end: int) -> None:
        super().__init__()
        inputs = 2 * CHANNELS + end
        self.each = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs)
        self.net = nn.Conv2d(inputs, 2 * (end - first), 3, padding=1)
        self.index = ScaleIndex(TABLE)
        self.register_buffer("channels", torch.arange(end))

    def forward(self, hyper: Tensor, y_hat: Tensor, even: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.cat([hyper, y_hat.index_select(1, self.channels) * even], 1)
        scale, mean = self.net(self.each(seen)).chunk(2, 1)
        return self.index(0.5 + torch.abs(scale)), mean


class After(nn.Module):
    def forward(self, y_hat: Tensor, mean: Tensor) -> Tensor:
        return 0.1 * torch.tanh(y_hat[:, 2:] + mean)


STAGES = (
    Stage("first_even", (0, 2), "even"),
    Stage("second", (2, 4), "all", "second_after"),
    Stage("first_odd", (0, 2), "odd"),
)


@pytest.fixture(scope="module")
def source() -> Source:
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    channels = {"z": HYPER, "hyper": 2 * CHANNELS, "y_hat": CHANNELS, "mean": 2}

    def graph(module: nn.Module, inputs: tuple[str, ...], outputs: tuple[str, ...], like: str | None) -> GraphSource:
        def example(h: int, w: int, n: int) -> tuple[Tensor, ...]:
            made = {k: torch.randn(n, c, 4 * h, 4 * w, generator=generator) for k, c in channels.items()}
            made |= {"even": even_mask(4 * h, 4 * w), "z": torch.randn(n, HYPER, h, w, generator=generator)}
            return tuple(made[name] for name in inputs)

        axes = {"z": {0: "n", 2: "h", 3: "w"}, "even": {2: "4h", 3: "4w"}}
        dynamic = tuple(axes.get(name, {0: "n", 2: "4h", 3: "4w"}) for name in inputs)
        return GraphSource(module, inputs, outputs, example, dynamic, 1e-3, like)

    reads = ("hyper", "y_hat", "even")
    graphs = {
        "h_s": graph(Hyper(), ("z",), ("hyper",), None),
        "first_even": graph(Toy(0, 2), reads, ("index", "mean"), None),
        "second": graph(Toy(2, 4), reads, ("index", "mean"), "first_even"),
        "second_after": graph(After(), ("y_hat", "mean"), ("lrp",), None),
        "first_odd": graph(Toy(0, 2), reads, ("index", "mean"), "first_even"),
    }
    return Source(
        architecture="toy",
        stride=64,
        latent_stride=16,
        latent_channels=CHANNELS,
        hyper_channels=HYPER,
        qualities=1,
        graphs=graphs,
        hyper_synthesis=None,
        scales=TABLE,
        z_probabilities=np.tile([0.1, 0.2, 0.4, 0.2, 0.1], (HYPER, 1)),
        gain=np.ones((1, CHANNELS)),
        inverse_gain=np.ones((1, CHANNELS)),
        conditions={},
        context=None,
        context_digest="",
        analyse=lambda image, quality: np.zeros((1, HYPER, 1, 1), np.int32),
        schedule=Schedule(12, 1024, STAGES),
    )


def test_stages_run_in_order_on_what_was_decoded(source: Source) -> None:
    """Against the same stages written out by hand."""
    rng = np.random.default_rng(0)
    z = rng.integers(-2, 3, (1, HYPER, 2, 1)).astype(np.float64)
    symbols = rng.integers(-5, 6, (1, CHANNELS, 8, 4)).astype(np.float64)
    index, decoded, y_hat = run_stages(source, in_torch(source, torch.float64), z, given_symbols(symbols))
    g = {name: graph.module.double() for name, graph in source.graphs.items()}
    even, symbol = even_mask(8, 4).double(), torch.from_numpy(symbols)
    with torch.no_grad():
        hyper, y = g["h_s"](torch.from_numpy(z)), torch.zeros(1, CHANNELS, 8, 4, dtype=torch.float64)
        s_even, mean = g["first_even"](hyper, y, even)
        y[:, :2] += (symbol[:, :2] + mean) * even
        s_second, mean = g["second"](hyper, y, even)
        y[:, 2:] += symbol[:, 2:] + mean
        y[:, 2:] += g["second_after"](y, mean)
        s_odd, mean = g["first_odd"](hyper, y, even)
        y[:, :2] += (symbol[:, :2] + mean) * (1 - even)
    for module in g.values():
        module.float()
    assert np.allclose(y_hat, y.numpy(), atol=1e-12) and np.array_equal(decoded, symbols)
    assert np.allclose(index, torch.cat([s_even * even + s_odd * (1 - even), s_second], 1).numpy(), atol=1e-12)


def test_positions_are_those_of_the_mask() -> None:
    even = even_mask(3, 4).numpy()[0, 0] == 1
    assert even[0, 0] and not even[0, 1] and even[1, 1]
    assert np.array_equal(positions_mask("even", 3, 4), even) and np.array_equal(positions_mask("odd", 3, 4), ~even)
    assert positions_mask("all", 3, 4).all()


def test_golden_vectors_are_the_stages_in_double_precision(source: Source) -> None:
    golden = golden_stages(source, [(1, 1), (2, 3)])
    again = golden_stages(source, [(1, 1), (2, 3)])
    assert set(golden) == {f"{name}{i}" for name in ("z", "symbols", "index") for i in range(2)}
    assert all(np.array_equal(golden[k], again[k]) for k in golden)
    for i, (h, w) in enumerate([(1, 1), (2, 3)]):
        assert golden[f"z{i}"].shape == (1, HYPER, h, w) and golden[f"z{i}"].dtype == np.int16
        assert golden[f"symbols{i}"].shape == golden[f"index{i}"].shape == (1, CHANNELS, 4 * h, 4 * w)
        assert golden[f"symbols{i}"].dtype == np.int16 and golden[f"index{i}"].dtype == np.float64
        z, symbols = golden[f"z{i}"].astype(np.float64), golden[f"symbols{i}"].astype(np.float64)
        index, _, _ = run_stages(source, in_torch(source, torch.float64), z, given_symbols(symbols))
        assert np.array_equal(index, golden[f"index{i}"])
    assert np.abs(golden["symbols1"]).max() > 0
    pictures = [(np.ones((1, HYPER, 1, 2), np.int32), y := np.full((1, CHANNELS, 4, 8), 7.0)), (golden["z0"], None)]
    more = golden_stages(source, [(1, 1)], pictures)
    assert np.array_equal(more["index0"], golden["index0"]) and np.array_equal(more["z1"], pictures[0][0])
    z, symbols = more["z1"].astype(np.float64), more["symbols1"].astype(np.float64)
    index, _, y_hat = run_stages(source, in_torch(source, torch.float64), z, given_symbols(symbols))
    assert np.array_equal(index, more["index1"]) and np.abs(y_hat - y)[:, :2].max() <= 0.5, (
        "symbols of the latents given"
    )
    assert more["z1"].dtype == np.int16 and more["z2"].shape == golden["z0"].shape
    assert next(source.graphs["second"].module.parameters()).dtype == torch.float32


@pytest.fixture(scope="module")
def exported(source: Source) -> tuple[dict[str, onnx.ModelProto], int]:
    """Graphs by name, and how many were traced."""
    traced, export = [], torch.onnx.export
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.onnx, "export", lambda *a, **k: (traced.append(a[0]), export(*a, **k))[1])
        return dict(export_graphs(whole_graphs(source))), len(traced)


def test_like_graphs_are_traced_once(source: Source, exported: tuple[dict[str, onnx.ModelProto], int]) -> None:
    models, traced = exported
    assert traced == 3, "second and first_odd are like first_even"
    for name, model in models.items():
        check = check_graph(name, model, source.graphs[name])
        assert check.passed, (name, check)
        assert {o.name for o in model.graph.output} == set(source.graphs[name].outputs)
        assert {i.name for i in model.graph.input} == set(source.graphs[name].inputs)


def test_every_output_is_compared(source: Source, exported: tuple[dict[str, onnx.ModelProto], int]) -> None:
    graph, other = source.graphs["first_even"], Toy(0, 2)
    other.load_state_dict(graph.module.state_dict())
    with torch.no_grad():
        assert other.net.bias is not None
        other.net.bias[2:] += 0.1
    check = check_graph("first_even", exported[0]["first_even"], replace(graph, module=other))
    assert check.difference == pytest.approx(0.1, abs=1e-3)


def test_the_deviation_is_that_of_single_precision(
    source: Source, exported: tuple[dict[str, onnx.ModelProto], int]
) -> None:
    models = {name: model.SerializeToString() for name, model in exported[0].items()}
    few, possible = measure_deviation(source, models, [(1, 2)], latents=0)[:2]
    assert 0 < few < 1e-4 and few <= 1.01 * possible < 1
    other = models | {"second": models["first_even"]}
    assert measure_deviation(source, other, [(1, 2)], latents=0).largest > 0.01
    # Large ones are rare: more latents find them, and so do pictures that are given.
    assert measure_deviation(source, models, [(1, 2)], latents=20000).largest > few
    loud = np.full((1, HYPER, 2, 2), 2000, np.int16)
    assert measure_deviation(source, models, [(1, 2)], [(loud, None)], latents=0).largest > 10 * few
    quiet, far = np.zeros((1, HYPER, 1, 2), np.int16), np.full((1, CHANNELS, 4, 8), 2000.0)
    assert measure_deviation(source, models, [(1, 2)], [(quiet, far)], latents=0).largest > 10 * few


@pytest.mark.parametrize(
    ("found", "possible", "bits"),
    [
        (1e-6, 1e-5, 12),
        (1e-4, 1e-4, 10),
        (1e-6, 2**-9.5, 9),
        (1e-6, 1.0, 8),
        (2**-11.5, 0, 8),
        (2**-10.5, 0, 8),
        (2**-9.9, 0, None),
    ],
)
def test_the_band_leaves_room_for_farther_indexes(
    found: float, possible: float, bits: int | None, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight times the largest distance found; at the widest band that there is, four. And what is possible."""
    z, seen = np.zeros((1, HYPER, 2, 3), np.int32), []

    def measure(source: Source, models: object, samples: list[tuple[np.ndarray, None]], double: bool) -> Straying:
        seen.extend(samples)
        return Straying(found, possible, 3, 0.12, 5e-5)

    monkeypatch.setattr(guarding, "latents_of", lambda source, picture: (z, None))
    monkeypatch.setattr(guarding, "measure_deviation", measure)
    if bits is None:
        with pytest.raises(guarding.StrayingError, match="differ by up to .* 0.12 in latent channel 3 wrong by 5e-05"):
            guarding.guarded(source, {}, [], Console(quiet=True))
        return
    schedule, golden = guarding.guarded(source, {}, [], Console(quiet=True))
    assert schedule.band_bits == bits and len(seen) == 3
    assert np.array_equal(golden["z2"], z), "a picture's latents are among the golden vectors"
