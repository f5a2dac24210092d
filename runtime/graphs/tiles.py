"""Large images in tiles: overlapping windows of a graph's input, so that memory is bounded and no seam shows.

A graph of convolutions reads a bounded neighbourhood: its *reach*. Near a cut a window's result is wrong, since zero
padding stands where the image goes on; what lies within the reach of a cut is therefore dropped, and the neighbour's
kept. At the image's own borders a window is padded as the whole image is. Lengths here are in *units*: the coarsest
grid of a graph's inputs and outputs, so that cuts fall on whole positions of all of them. A graph with attention within
windows is cut where these meet, every so many units; then a cut changes nothing beyond the reach either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

import numpy as np

from ugicm.runtime.backends.arenas import given_back
from ugicm.runtime.exact import ExactNetwork
from ugicm.runtime.graphs.area import Area, Grid

Run = Callable[[str, dict[str, np.ndarray]], np.ndarray]
"""A graph's name and its inputs to its single output."""
Sample = Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]
"""Random inputs of a graph, of a height and width in units."""
ROUNDING, STRAY, MOST_STRAY = 1e-5, 1e-3, 0.05
"""What sums in another order move: a part of a channel's largest value, or a share of the values of a picture's line,
which is larger where a picture is loud."""


@dataclass(frozen=True)
class Span:
    """A window on one axis and the part of it that is kept, in units; those kept make up the whole axis."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


class Tile(NamedTuple):
    """The rows and columns of a window."""

    rows: Span
    columns: Span


def window_size(length: int, count: int, halo: int) -> int:
    """Of `count` windows of one size, overlapping by at least 2·halo, that cover a length."""
    return -(-(length + (count - 1) * 2 * halo) // count)


def spans(length: int, count: int, halo: int) -> list[Span]:
    """`count` windows of `window_size`; cuts run through the middle of the overlaps."""
    if count == 1:
        return [Span(0, length, 0, length)]
    size = window_size(length, count, halo)
    starts = [i * (length - size) // (count - 1) for i in range(count)]
    cuts = [0, *((start + last + size) // 2 for last, start in zip(starts, starts[1:], strict=False)), length]
    return [Span(s, s + size, a, b) for s, a, b in zip(starts, cuts, cuts[1:], strict=False)]


def tiles(height: int, width: int, halo: int, area: float) -> list[Tile]:
    """The grid of windows of at most `area` square units that computes the least twice.

    Where the halo leaves no such window: small ones, of which no more than three quarters are halo on either axis.
    """
    most = [max(1, math.ceil((n - 2 * halo) / max(1, 2 * halo))) for n in (height, width)]
    best = (math.inf, math.inf, 1, 1)
    for rows in range(1, most[0] + 1):
        side = window_size(height, rows, halo)
        room = int(area / side) - 2 * halo
        columns = most[1] if room <= 0 else min(most[1], max(1, math.ceil((width - 2 * halo) / room)))
        window = side * window_size(width, columns, halo)
        best = min(best, (max(0, window - area), rows * columns * window, rows, columns))
    _, _, rows, columns = best
    return [Tile(r, c) for r in spans(height, rows, halo) for c in spans(width, columns, halo)]


def stepped(height: int, width: int, halo: int, area: float, step: int) -> list[Tile]:
    """`tiles` that begin and end at multiples of `step`, as height and width do."""
    coarse = tiles(height // step, width // step, -(-halo // step), area / step**2)
    return [Tile(*(Span(*(step * n for n in astuple(span))) for span in tile)) for tile in coarse]


def cut(array: np.ndarray, tile: Tile, per_unit: int, image: bool = False) -> np.ndarray:
    """The window of an (N, C, H, W) array, or of an image, (N, H, W, C)."""
    rows, columns = (slice(span.start * per_unit, span.stop * per_unit) for span in tile)
    return array[:, rows, columns] if image else array[:, :, rows, columns]


def exact_reach(network: ExactNetwork | None) -> int:
    """The reach of an integer hyper-synthesis in positions of `z`, from its kernels: never too small; 0 without one."""
    reach, scale = 0.0, 1
    for layer in network.layers if network else ():
        reach += (layer.weight.shape[2] // 2) / scale
        scale *= layer.upsample
    return math.ceil(reach)


def _moved(found: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Where outputs differ, floats by more than `ROUNDING`: bool of their shape."""
    if base.dtype == np.uint8:
        return found != base
    most = np.abs(base).max(tuple(i for i in range(base.ndim) if i != 1), keepdims=True)
    return np.asarray(np.abs(found - base) > ROUNDING * most)


def measured_reach(
    run: Callable[[dict[str, np.ndarray]], np.ndarray],
    sample: Sample,
    per_unit: Mapping[str, int],
    step: int = 1,
) -> int | None:
    """The reach of a float graph: how far from a change of its input its output changes, on random inputs.

    A change that random inputs do not show is below the output's rounding, and one within `ROUNDING` or in fewer than
    `STRAY` of a line's values is rounding itself: graphs with fewer products hand that on far beyond what they read. So
    is twice as much as moves farthest from the change, up to `MOST_STRAY`.
    All of this is too little for the exact path: it has `exact_reach`.

    Args:
        run: inputs to output: (N, C, H, W), or (N, H, W, C) of uint8.
        sample: generator, height and width in units, to inputs.
        per_unit: positions a unit of the inputs with rows and columns; the others are never changed.
        step: units between places where the graph may be cut.

    Returns:
        Units, or None for a graph that reads 32 of them or farther: it cannot be tiled.
    """
    rng = np.random.default_rng(0)
    narrow = max(4, step)
    for length in (16, 64):
        middle, found = length // 2, 0
        if middle % step:
            continue
        for axis, size in enumerate(((length, narrow), (narrow, length))):
            for _ in range(2):
                one, other = sample(rng, *size), sample(rng, *size)
                base = run(one)
                picture = base.dtype == np.uint8 and base.shape[3] == 3  # features may be bytes too
                out_axis = axis + (1 if picture else 2)
                for first, last in ((0, middle), (middle, length)):
                    mixed = dict(one)
                    for name, n in per_unit.items():
                        where = [slice(None)] * (axis + (1 if name == "image" else 2))
                        index = (*where, slice(first * n, last * n))
                        mixed[name] = one[name].copy()
                        mixed[name][index] = other[name][index]
                    moved = np.moveaxis(_moved(run(mixed), base), out_axis, 0).reshape(base.shape[out_axis], -1)
                    share = moved.mean(1)
                    far = np.split(share, 8)[0 if first else -1]  # whatever moves there, rounding moves
                    changed = share > (min(max(STRAY, 2 * far.max()), MOST_STRAY) if picture else 0)
                    units = np.flatnonzero(changed) * length // changed.size
                    if units.size:
                        found = max(found, first - int(units[0]), int(units[-1]) - (last - 1))
        if found < middle:
            return found
    return None


class Tiler:
    """Runs the transforms of a codec on arrays that are too large for one piece.

    Args:
        area: how large a piece may be.
        run: runs a graph whole.
        window: pixels, a side, that windows of attention fill, as a manifest tells it; None without attention.
    """

    def __init__(self, area: Area, run: Run, window: Any = None) -> None:
        self._area = area
        self._run = run
        self._window = window if isinstance(window, int) and window > 0 else 1
        self._reaches: dict[tuple[str, int], int | None] = {}

    def run(self, graph: str, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The output of `g_a`, `h_a`, `h_s_mean` or `context`."""
        grid = self._area.grids[graph]
        height, width = self._area.size(graph, inputs)

        def compute(tile: Tile) -> list[np.ndarray]:
            cuts = {name: cut(inputs[name], tile, n, name == "image") for name, n in grid.inputs.items()}
            return [self._run(graph, {**inputs, **cuts})]

        reach = self._reach(graph, _sampler(grid, inputs), grid.inputs)
        return self._assemble(graph, height, width, reach, compute)[0]

    def latents(self, arrays: dict[str, np.ndarray], compute: Callable[..., np.ndarray], context: bool) -> np.ndarray:
        """What `compute` makes of arrays as fine as `y`, given by name; with `context` it runs that graph on them."""
        grid = self._area.grids["context"]
        first = next(iter(arrays.values()))
        height, width = first.shape[2:]
        reach: int | None = 0
        if context:
            inputs = {"symbols": first, "mean": first, "anchor": first[:, :1]}
            reach = self._reach("context", _sampler(grid, inputs), grid.inputs)

        def part(tile: Tile) -> list[np.ndarray]:
            return [compute(**{name: cut(array, tile, 1) for name, array in arrays.items()})]

        return self._assemble("context", height, width, reach, part)[0]

    def exact(
        self, z: np.ndarray, run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]], reach: int
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Scale indexes and means of `z`, (1, Nz, h, w), by an exact path: the same integers, whatever the tiles."""
        height, width = z.shape[2:]

        def compute(tile: Tile) -> list[np.ndarray]:
            scale_index, mean = run(cut(z, tile, 1))
            return [scale_index] if mean is None else [scale_index, mean]

        scale_index, *means = self._assemble("h_s", height, width, reach, compute)
        return scale_index, means[0] if means else None

    def synthesise(
        self, y_hat: np.ndarray, inverse_gain: np.ndarray, conditions: list[dict[str, np.ndarray]], trunk: bool
    ) -> list[np.ndarray]:
        """The images, (H, W, 3) uint8, of a large `y_hat` under conditions; what no condition touches runs once.

        Args:
            y_hat: (1, M, H/16, W/16) float32.
            inverse_gain: (1, M, 1, 1) float32.
            conditions: for each image the inputs of `g_s` that make it.
            trunk: whether `g_s` reads what `g_s_trunk` makes of the latents.
        """
        grid = self._area.grids["g_s"]
        height, width = y_hat.shape[2:]
        name = "features" if trunk else "y_hat"

        def shared(part: np.ndarray) -> dict[str, np.ndarray]:
            inputs = {"y_hat": part, "inverse_gain": inverse_gain}
            return {"features": self._run("g_s_trunk", inputs)} if trunk else inputs

        def heads(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [self._run("g_s", {**inputs, **condition})[0] for condition in conditions]

        latents = _sampler(grid, {"y_hat": y_hat, "inverse_gain": inverse_gain})

        def sample(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
            return {**shared(latents(rng, height, width)["y_hat"]), **conditions[0]}

        fineness = sample(np.random.default_rng(0), 1, 1)[name].shape[2]
        # Both parts run on the same window: to cut features between them would cost more than what is computed twice.
        loud = _loudness(y_hat)
        reaches = [self._reach("g_s", sample, {name: fineness}, loud)]
        if trunk:
            reaches.append(self._reach("g_s_trunk", latents, {"y_hat": 1}, loud))
        known = [reach for reach in reaches if reach is not None]
        reach = sum(known) if len(known) == len(reaches) else None

        def compute(tile: Tile) -> list[np.ndarray]:
            return heads(shared(cut(y_hat, tile, 1)))

        # Each condition may have a session of its own, with activations of its own.
        return self._assemble("g_s", height, width, reach, compute, len(conditions))

    def _reach(self, graph: str, sample: Sample, per_unit: Mapping[str, int], loud: int = 0) -> int | None:
        """Measured once for each loudness: quiet inputs do not show how far loud ones reach."""
        if (graph, loud) not in self._reaches:
            step = self._step(graph)
            self._reaches[graph, loud] = measured_reach(lambda inputs: self._run(graph, inputs), sample, per_unit, step)
        return self._reaches[graph, loud]

    def _step(self, graph: str) -> int:
        """Units between places where a graph may be cut."""
        return max(1, self._window // self._area.grids[graph if graph in self._area.grids else "g_s"].unit)

    def _assemble(
        self,
        graph: str,
        height: int,
        width: int,
        reach: int | None,
        compute: Callable[[Tile], list[np.ndarray]],
        sessions: int = 1,
    ) -> list[np.ndarray]:
        """What `compute` makes of each window, joined: (N, C, H, W) arrays, (H, W, C) images. No reach: one window.

        At last sessions give back memory that only large images need.
        """
        if reach is None:
            with given_back():
                return compute(Tile(Span(0, height, 0, height), Span(0, width, 0, width)))
        outs: list[np.ndarray] = []
        n, step = self._area.grids[graph].output, self._step(graph)
        if height % step or width % step:
            step = 1
        windows = stepped(height, width, reach, self._area.units(graph) / sessions, step)
        for tile in windows:
            parts = compute(tile)
            if not outs:
                outs = [np.empty(_resized(part, height * n, width * n), part.dtype) for part in parts]
            for out, part in zip(outs, parts, strict=True):
                lead = (slice(None),) * (2 if part.ndim == 4 else 0)
                to = (slice(s.keep_start * n, s.keep_stop * n) for s in tile)
                source = (slice((s.keep_start - s.start) * n, (s.keep_stop - s.start) * n) for s in tile)
                out[(*lead, *to)] = part[(*lead, *source)]
        with given_back():  # after a small run: what holds the answer of a run stays
            compute(Tile(Span(0, step, 0, step), Span(0, step, 0, step)))
        return outs


def _sampler(grid: Grid, inputs: dict[str, np.ndarray]) -> Sample:
    """Random values for the inputs with rows and columns, of the types and channels of these; the others as given."""

    def sample(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        drawn = {k: _random(k, inputs[k], rng, height * n, width * n) for k, n in grid.inputs.items()}
        return {**inputs, **drawn}

    return sample


def _random(name: str, array: np.ndarray, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Values for an input of the array's type and channels: any bytes, zeros and ones, integers as far apart in each
    channel as the array's, or by a few units."""
    if name == "image":
        return rng.integers(0, 256, (1, height, width, array.shape[3]), np.uint8)
    shape = (*array.shape[:2], height, width)
    if name == "anchor":
        return rng.integers(0, 2, shape).astype(array.dtype)
    values: np.ndarray = np.rint(rng.normal(0, 1, shape) * _spread(array)[:, None, None]).astype(array.dtype)
    return values


def _spread(array: np.ndarray) -> np.ndarray:
    """(C,) the standard deviation of each channel of an (N, C, H, W) array, at least 4."""
    spread: np.ndarray = np.maximum(4.0, array.std((0, 2, 3), dtype=np.float64))
    return spread


def _loudness(array: np.ndarray) -> int:
    """The spread of the loudest channel on a scale of factors of 2."""
    return int(np.ceil(np.log2(_spread(array).max())))


def _resized(array: np.ndarray, height: int, width: int) -> tuple[int, ...]:
    """The shape of an (N, C, H, W) array or an (H, W, C) image at another height and width."""
    return (*array.shape[:2], height, width) if array.ndim == 4 else (height, width, array.shape[2])
