"""Raster-scan context, decoded in wavefronts: every position whose neighbourhood is known, at once.

A model of this kind reads, for the latents at a position, those of a 5×5 neighbourhood that come before it in raster
order: two rows of five above, two positions to the left. So (row, column) waits only for positions with a smaller
column + 3·row, and all with the same sum are one step: of H×W positions there are W + 3·(H - 1) steps, not H·W.

The graph of such a stage works on positions, not pictures: "neighbours" (n, 12·C) float32, the known latents around
each, offset by offset in raster order, zeros beyond the border; of any other input the values at the positions, (n, K).
It gives "index" and "mean", (n, C).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

import numpy as np

from ugicm.runtime.errors import BundleError
from ugicm.runtime.schedule import Stage

NEIGHBOURS = "neighbours"
FOR_ALL = ("gain",)
"""Inputs that hold no positions: they are given as they are."""
LAG = 3
"""Columns by which a row is decoded behind the one above."""
OFFSETS = tuple((i, j) for i in (-2, -1, 0) for j in range(-2, 3) if i < 0 or j < 0)
"""(rows, columns) from a position to those that it reads."""

Names = tuple[tuple[str, ...], tuple[str, ...]]
"""A graph's inputs and outputs."""
At = tuple[np.ndarray, np.ndarray]
"""The rows and the columns of positions."""
Code = Callable[[At, np.ndarray, np.ndarray], np.ndarray]
"""Positions of a step, its indexes and its means, both (C, n), to the latents there, (C, n)."""

Run = Callable[[str, dict[str, np.ndarray]], Any]


class Front:
    """What is known while the steps of one stage run. All arrays are position-major, so that a gather copies rows.

    Args:
        known: (1, K, H, W) arrays by name, and those of `FOR_ALL`.
        names: the inputs that the graphs of the stage read.
        shape: (C, H, W) of the latents.
        dtype: the float type in which the graphs run.
    """

    def __init__(self, known: Mapping[str, Any], names: set[str], shape: tuple[int, ...], dtype: Any) -> None:
        channels, self._height, self._width = shape
        self._pitch = self._width + 4
        self._latents = np.zeros(((self._height + 2) * self._pitch, channels), dtype)
        self._maps = {k: _rows(known[k], shape) for k in names & known.keys() - {"y_hat", *FOR_ALL}}
        self.here: dict[str, np.ndarray] = {k: known[k] for k in names.intersection(FOR_ALL)}
        steps = np.array([(2 + i) * self._pitch + 2 + j for i, j in OFFSETS], np.intp)
        # The position of a step in row i lies at t - 3i, so t is all that is added for a step.
        self._starts = np.arange(self._height)[:, None] * (self._pitch - LAG) + steps
        most = min(self._height, -(-self._width // LAG))
        self._neighbours = np.empty((most, len(OFFSETS), channels), dtype)

    def steps(self) -> Iterator[At]:
        """The positions of each step, rows ascending; what the graphs read there is in `here`."""
        for t in range(self._width + LAG * (self._height - 1)):
            rows = np.arange(max(0, -((self._width - 1 - t) // LAG)), min(self._height - 1, t // LAG) + 1)
            if not rows.size:  # of fewer than three columns
                continue
            columns = t - LAG * rows
            taps = self._starts[rows[0] : rows[-1] + 1] + t
            gathered = self._neighbours[: rows.size]
            np.take(self._latents, taps, axis=0, out=gathered, mode="clip")  # "raise" would buffer the output
            self.here[NEIGHBOURS] = gathered.reshape(rows.size, -1)
            flat = rows * self._width + columns
            for name, rows_of in self._maps.items():
                self.here[name] = rows_of[flat]
            yield rows, columns

    def put(self, at: At, latents: np.ndarray) -> None:
        """Makes (C, n) latents known."""
        self._latents[(at[0] + 2) * self._pitch + at[1] + 2] = latents.T


def walk(
    stage: Stage,
    names: Mapping[str, Names],
    known: Mapping[str, Any],
    y_hat: np.ndarray,
    code: Code,
    run: Run,
) -> Generator[Any, Any, None]:
    """Decodes a stage step by step; yields what `run` makes of a graph's name and inputs, and is sent its outputs.

    Args:
        stage: whose positions are "wavefront". A graph after it may read "y_hat", the decoded latents (n, C), and what
            the stage's graph gave; its "lrp" is (n, C).
        names: of the stage's graphs.
        known: by name, (1, K, H, W) each.
        y_hat: (C, H, W) of the stage, float; filled in.
        code: decodes or encodes a step.
        run: makes of a graph's name and its inputs what is asked.

    Raises:
        BundleError: a graph gives arrays of other shapes.
    """
    front = Front(known, {i for inputs, _ in names.values() for i in inputs}, y_hat.shape, y_hat.dtype)
    here = front.here

    def part(graph: str, name: str, count: int) -> np.ndarray:
        found = here[name]
        if found.shape != (count, len(y_hat)) or found.dtype != y_hat.dtype:
            raise BundleError(f"graph {graph} gives {name} as {found.dtype} {found.shape}; export the bundle again")
        return found.T

    for at in front.steps():
        count = at[0].size
        inputs, outputs = names[stage.graph]
        found = yield run(stage.graph, {name: here[name] for name in inputs})
        here.update(zip(outputs, found, strict=True))
        latents = code(at, part(stage.graph, "index", count), part(stage.graph, "mean", count))
        if stage.after is not None:
            here["y_hat"] = np.ascontiguousarray(latents.T)
            inputs, outputs = names[stage.after]
            found = yield run(stage.after, {name: here[name] for name in inputs})
            here.update(zip(outputs, found, strict=True))
            latents = latents + part(stage.after, "lrp", count)
        y_hat[:, at[0], at[1]] = latents
        front.put(at, latents)


def _rows(array: Any, shape: tuple[int, ...]) -> np.ndarray:
    """(H·W, K) of (1, K, H, W)."""
    array = np.asarray(array)
    if array.ndim != 4 or array.shape[0] != 1 or array.shape[2:] != shape[1:]:
        raise BundleError(f"a graph gives {array.shape} for latents of {shape}; export the bundle again")
    return np.ascontiguousarray(array[0].reshape(array.shape[1], shape[1] * shape[2]).T)
