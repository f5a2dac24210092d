"""The common part of sources of codecs with context: scales as continuous indexes, stages run as a decoder does.

The graphs of a schedule read and write one environment of named arrays: outputs of `h_s`, "y_hat" (n, M, H, W), the
latents decoded so far and zeros elsewhere, "even" (1, 1, H, W), 1 where row + column is even, and the named outputs of
earlier graphs of the schedule; after a stage also its "mean". A stage gives "index" and "mean", a graph after it "lrp".
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ugicm.calibration.exact.ranges import prior_samples
from ugicm.export.double import FLOATS
from ugicm.export.source import GraphSource, Source
from ugicm.export.straying import Straying, Strays
from ugicm.runtime.backends import Graph
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.flow import drive
from ugicm.runtime.schedule import POSITIONS, WAVEFRONT, Stage
from ugicm.runtime.wavefront import At, walk

BAND_BITS = 12
BLOCK = 1024
LARGEST_SYMBOL = 2**15 - 1
LATENTS_MEASURED = 2e5
"""How many latents export measures deviations on, at least."""
_LARGE_Z = (4, 6)
_UNIFORM = 1e-4  # rows that a table may stray from a log-uniform one and still be taken for it

Run = Callable[[str, Mapping[str, np.ndarray]], list[np.ndarray]]
"""A graph's name and the environment to the graph's outputs."""


class ScaleIndex(nn.Module):
    """Scales to continuous indexes s: round(s), clipped, is the row of a table where row i serves (t[i-1], t[i]].

    s grows linearly with ln(scale) between neighbouring edges t[0]..t[rows-2], at which it is i + 1/2, and beyond the
    first and the last goes on as between the nearest two, down to one row below the first.

    Args:
        table: float64 (rows,) ascending positive scales, at least three.
    """

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        logs = np.log(np.asarray(table, np.float64))
        edges = logs[:-1]
        steps = np.diff(edges)
        self.first, self.step = float(edges[0]), float((logs[-1] - logs[0]) / (len(logs) - 1))
        grid = logs[0] + self.step * np.arange(len(logs))
        self.uniform = bool(np.abs(logs - grid).max() <= _UNIFORM * self.step)
        self.edges, self.steps = edges.tolist(), steps.tolist()
        self.least = float(np.exp(self.first - (self.step if self.uniform else self.steps[0])))

    def forward(self, scale: Tensor) -> Tensor:
        log = torch.log(scale.clamp(min=self.least))
        if self.uniform:
            return (log - self.first) / self.step + 0.5
        s = (log - self.first).clamp(max=0) / self.steps[0] + 0.5
        for edge, step in zip(self.edges, self.steps, strict=False):
            s = s + ((log - edge) / step).clamp(0, 1)
        return s + (log - self.edges[-1]).clamp(min=0) / self.steps[-1]


def even_mask(height: int, width: int) -> Tensor:
    """(1, 1, height, width) float32: 1 where row + column is even, else 0."""
    return ((torch.arange(height)[:, None] + torch.arange(width)[None, :] + 1) % 2).float()[None, None]


def positions_mask(positions: str, height: int, width: int) -> np.ndarray:
    """(height, width) bool: where a stage of these positions decodes."""
    parity = (np.arange(height)[:, None] + np.arange(width)[None, :]) % 2
    return np.isin(parity, POSITIONS[positions])


def run_stages(
    source: Source,
    run: Run,
    z: np.ndarray,
    symbols_of: Callable[[Stage, np.ndarray], np.ndarray],
    quality: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decodes `y` stage by stage.

    Args:
        source: a codec with a schedule.
        run: runs a graph of it.
        z: (n, Nz, h, w) centred integers, of the float type in which the graphs run.
        symbols_of: a stage and its "index", (n, b - a, H, W), to its symbols, of the same shape; those at positions of
            other stages are not looked at.
        quality: from 1, whose gain `y` has.

    Returns:
        (index, symbols, y_hat), each (n, M, H, W) in the type of `z`.
    """
    assert source.schedule is not None
    ratio = source.stride // source.latent_stride
    height, width = z.shape[2] * ratio, z.shape[3] * ratio
    y_hat = np.zeros((len(z), source.latent_channels, height, width), z.dtype)
    index, symbols = np.zeros_like(y_hat), np.zeros_like(y_hat)
    gain = source.gain[quality - 1].astype(z.dtype)[None, :, None, None]
    known = {"z": z, "y_hat": y_hat, "even": even_mask(height, width).numpy().astype(z.dtype), "gain": gain}
    known.update(zip(source.graphs["h_s"].outputs, run("h_s", known), strict=True))
    for stage in source.schedule.stages:
        if stage.positions == WAVEFRONT:
            _run_wavefront(source, stage, run, known, symbols_of, index, symbols, y_hat)
            continue
        (a, b), there = stage.channels, positions_mask(stage.positions, height, width)
        known.update(zip(source.graphs[stage.graph].outputs, run(stage.graph, known), strict=True))
        decoded = symbols_of(stage, known["index"])
        index[:, a:b][..., there] = known["index"][..., there]
        symbols[:, a:b][..., there] = decoded[..., there]
        y_hat[:, a:b][..., there] = (decoded + known["mean"])[..., there]
        if stage.after is not None:
            known.update(zip(source.graphs[stage.after].outputs, run(stage.after, known), strict=True))
            y_hat[:, a:b][..., there] += known["lrp"][..., there]
    return index, symbols, y_hat


def _run_wavefront(
    source: Source,
    stage: Stage,
    run: Run,
    known: Mapping[str, np.ndarray],
    symbols_of: Callable[[Stage, np.ndarray], np.ndarray],
    *filled: np.ndarray,
) -> None:
    """Decodes a stage of one file step by step into the three arrays that `run_stages` returns."""
    if len(filled[0]) != 1:
        raise ValueError(f"a wavefront takes one file, not {len(filled[0])}")
    names = {name: source.graphs[name] for name in (stage.graph, stage.after) if name}
    index, symbols, y_hat = (array[0, slice(*stage.channels)] for array in filled)

    def code(at: At, found: np.ndarray, mean: np.ndarray) -> np.ndarray:
        whole = np.zeros((1, *index.shape), index.dtype)
        whole[0][:, at[0], at[1]] = found
        index[:, at[0], at[1]] = found
        decoded = symbols_of(stage, whole)[0][:, at[0], at[1]].astype(mean.dtype)
        symbols[:, at[0], at[1]] = decoded
        return decoded + mean

    inputs_outputs = {name: (graph.inputs, graph.outputs) for name, graph in names.items()}
    drive(
        walk(stage, inputs_outputs, known, y_hat, code, lambda name, inputs: (name, inputs)),
        lambda asked: run(*cast(Any, asked)),
    )


def in_torch(source: Source, dtype: torch.dtype) -> Run:
    """Runs graphs as torch modules in a float type; one at a time is copied, so a large codec needs no second copy."""

    @lru_cache(1)
    def converted(name: str) -> nn.Module:
        return copy.deepcopy(source.graphs[name].module).to(dtype).eval()

    def run(name: str, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        graph = source.graphs[name]
        with torch.no_grad():
            outputs = converted(name)(*(torch.from_numpy(known[i].copy()).to(dtype) for i in graph.inputs))
        return [o.numpy() for o in ((outputs,) if isinstance(outputs, Tensor) else outputs)]

    return run


def in_torch_as_doubles(source: Source) -> Run:
    """Runs graphs as torch modules, in float64 but for what the runtime makes or reads: see `ugicm.export.double`."""
    whole = in_torch(source, torch.float64)

    def run(name: str, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        names = source.graphs[name].outputs
        return [o.astype(np.float32) if n in FLOATS else o for n, o in zip(names, whole(name, known), strict=True)]

    return run


def in_onnxruntime(source: Source, models: Mapping[str, bytes], backend: OnnxRuntime) -> Run:
    """Runs graphs, given as ONNX bytes by name, in ONNX Runtime; a session lasts until another graph runs."""

    @lru_cache(1)
    def loaded(name: str) -> Graph:
        return backend.load(models[name], name)

    def run(name: str, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        return loaded(name)({i: known[i] for i in source.graphs[name].inputs})

    return run


def given_symbols(symbols: np.ndarray) -> Callable[[Stage, np.ndarray], np.ndarray]:
    """The symbols of a stage out of those of all, (n, M, H, W)."""
    return lambda stage, index: symbols[:, slice(*stage.channels)]


def _plausible(source: Source, rng: np.random.Generator) -> Callable[[Stage, np.ndarray], np.ndarray]:
    """Symbols as a codec meets them: drawn from the row that each index rounds to."""

    def symbols_of(stage: Stage, index: np.ndarray) -> np.ndarray:
        rows = np.clip(np.rint(index), 0, len(source.scales) - 1).astype(np.int64)
        drawn = np.rint(rng.standard_normal(index.shape) * source.scales[rows])
        return np.clip(drawn, -LARGEST_SYMBOL, LARGEST_SYMBOL)

    return symbols_of


def z_first(source: Source, quality: int) -> int:
    """The row of `z_probabilities` of the first channel at a quality, from 1."""
    return (quality - 1) * source.hyper_channels if len(source.z_probabilities) > source.hyper_channels else 0


def _quality(source: Source, i: int) -> int:
    """Of random latents number i: in turn the best and the first."""
    return 1 if i % 2 else source.qualities


def golden_stages(
    source: Source,
    sizes: Sequence[tuple[int, int]],
    samples: Sequence[tuple[np.ndarray, np.ndarray | None]] = (),
    seed: int = 20240229,
    double: bool = False,
) -> dict[str, np.ndarray]:
    """Golden vectors of the stages: what the torch modules say in float64, given the symbols.

    Args:
        source: a codec with a schedule.
        sizes: (height, width) of each random `z`.
        samples: latents of pictures, as `measure_deviation` takes them, which come after the random ones.
        seed: of the latents.
        double: the graphs run in double precision, between latents in single precision.

    Returns:
        For each size or sample i: `z{i}` int16 (1, Nz, h, w); `symbols{i}` int16 (1, M, H, W), the symbols of all
        stages; `index{i}` float64 (1, M, H, W), the index of each latent from the stage that decodes it. Of a codec
        with several qualities `quality{i}`, of random ones in turn the best and the first.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    given = [(z, None, _quality(source, i)) for i, z in enumerate(_random_z(source, sizes, seed))]
    for i, (z, y, quality) in enumerate([*given, *((z, y, source.qualities) for z, y in samples)]):
        index, symbols = _expected(source, z, y, rng, quality, double)
        arrays |= {f"z{i}": z.astype(np.int16), f"symbols{i}": symbols.astype(np.int16), f"index{i}": index}
        if source.qualities > 1:
            arrays[f"quality{i}"] = np.array(quality, np.int16)
    return arrays


def measure_deviation(
    source: Source,
    models: Mapping[str, bytes],
    sizes: Sequence[tuple[int, int]] = ((2, 3),),
    samples: Sequence[tuple[np.ndarray, np.ndarray | None]] = (),
    latents: float = LATENTS_MEASURED,
    double: bool = False,
) -> Straying:
    """How far s strays from s64 on random latents, each decoder going on from its own means.

    Measured over PyTorch, where single precision is meant, and ONNX Runtime's optimisation levels on one thread and
    two at the sizes given; then, as large distances are rare, over two of these on `samples` and more random `z`.

    Args:
        source: a codec with a schedule.
        models: ONNX bytes of `h_s` and of the graphs of all stages, by name.
        sizes: (height, width) of each `z` tried everywhere.
        samples: of pictures, at the highest quality: `z`, centred integers (1, Nz, h, w), and real `y`, (1, M, H, W),
            or None to draw symbols.
        latents: how many the more random `z` stand for, at least.
        double: the models are in double precision, in which PyTorch is what they are compared with.
    """
    everywhere, strays = list(_runs(source, models, double)), Strays(source.scales, source.latent_channels)
    for i, z in enumerate(_random_z(source, sizes, 7)):
        _compare(source, everywhere, strays, z, 7 + i, _quality(source, i), double=double)
    a_z = source.latent_channels * math.prod(_LARGE_Z) * (source.stride // source.latent_stride) ** 2
    count = math.ceil(latents / a_z)
    more: list[tuple[np.ndarray, int, np.ndarray | None]] = [
        (z, _quality(source, i), None) for i, z in enumerate(_random_z(source, [_LARGE_Z] * count, 107))
    ]
    more += [(z, source.qualities, y) for z, y in samples]
    for i, (z, quality, y) in enumerate(more):
        _compare(source, everywhere[:2], strays, z, 107 + i, quality, y, double)
    return strays.straying()


def _compare(
    source: Source,
    runs: Sequence[Run],
    strays: Strays,
    z: np.ndarray,
    seed: int,
    quality: int,
    y: np.ndarray | None = None,
    double: bool = False,
) -> None:
    """Adds what some runs make of one `z`, with the symbols of `y` or random ones."""
    expected, symbols = _expected(source, z, y, np.random.default_rng(seed), quality, double)
    for run in runs:
        index, _, _ = run_stages(source, run, z.astype(np.float32), given_symbols(symbols.astype(np.float32)), quality)
        strays.add(expected, index)


def _expected(
    source: Source, z: np.ndarray, y: np.ndarray | None, rng: np.random.Generator, quality: int, double: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Indexes in float64 and symbols, those of `y` or random ones without; all of it in double precision, or as graphs
    in double precision have it."""
    run = in_torch_as_doubles(source) if double else in_torch(source, torch.float64)
    run, symbols_of = (run, _plausible(source, rng)) if y is None else _quantising(source, run, y)
    z = z.astype(np.float32 if double else np.float64)
    index, symbols, _ = run_stages(source, run, z, symbols_of, quality)
    return index.astype(np.float64), symbols


def _quantising(source: Source, run: Run, y: np.ndarray) -> tuple[Run, Callable[[Stage, np.ndarray], np.ndarray]]:
    """A runner that remembers means, and the symbols of `y` around them; of no wavefront."""
    mean: dict[str, np.ndarray] = {}

    def remembering(name: str, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        outputs = run(name, known)
        mean.update((k, v) for k, v in zip(source.graphs[name].outputs, outputs, strict=True) if k == "mean")
        return outputs

    def symbols_of(stage: Stage, index: np.ndarray) -> np.ndarray:
        rounded = np.rint(y[:, slice(*stage.channels)] - mean["mean"])
        return np.clip(rounded, -LARGEST_SYMBOL, LARGEST_SYMBOL)

    return remembering, symbols_of


@torch.no_grad()
def latents_of(source: Source, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """`z` and `y` of (height, width, 3) uint8 pixels, multiples of the stride, as `measure_deviation` takes them."""
    assert source.schedule is not None
    image = torch.from_numpy(pixels.copy())
    z = source.analyse(image.permute(2, 0, 1).float() / 255, source.qualities - 1)
    if any(stage.positions == WAVEFRONT for stage in source.schedule.stages):
        return z, None
    gain = torch.from_numpy(source.gain[-1:].astype(np.float32))[:, :, None, None]
    return z, source.graphs["g_a"].module(image[None], gain).numpy().astype(np.float64)


def _random_z(source: Source, sizes: Sequence[tuple[int, int]], seed: int) -> Iterator[np.ndarray]:
    """(1, Nz, h, w) int16 of the learned prior for each size, number i at `_quality` of i."""
    limit = min(source.z_probabilities.shape[1] // 2, LARGEST_SYMBOL)
    for i, size in enumerate(sizes):
        first = z_first(source, _quality(source, i))
        probabilities = source.z_probabilities[first : first + source.hyper_channels]
        yield prior_samples(probabilities, 1, size, limit, seed + i).astype(np.int16)


def _runs(source: Source, models: Mapping[str, bytes], double: bool) -> Iterator[Run]:
    if not double:
        yield in_torch(source, torch.float32)
    for level, threads in itertools.product(LEVELS, (1, 2)):
        yield in_onnxruntime(source, models, OnnxRuntime(threads=threads, level=level))


def whole_graphs(source: Source) -> dict[str, GraphSource]:
    """The graphs that decide symbols: `h_s` and those of all stages, in the order in which a decoder runs them."""
    assert source.schedule is not None
    return {name: source.graphs[name] for name in ("h_s", *source.schedule.graphs)}
