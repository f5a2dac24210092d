"""The networks of a bundle on a backend: one object that knows graphs, views, tiles and sessions.

What flows ask for are methods, those of encoding functions of `encoder.analysis`. Arrays may be several files', (n, …).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ugicm.runtime.admission import Exact, admitted_runner
from ugicm.runtime.backends import Backend, Graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.graphs.answers import Answers
from ugicm.runtime.graphs.area import TILED, Area
from ugicm.runtime.symbols import checkerboard, gains_of

if TYPE_CHECKING:
    from ugicm.runtime.graphs.tiles import Tiler

VIEWS_KEPT = 4  # sessions of the conditioned graph, each for one condition
Vectors = Sequence[np.ndarray | None]  # of each view
STAGES = {"g_s_trunk": "g_s", "condition": "g_s", "h_s_mean": "context"}  # graphs whose time counts as another's


@dataclass
class Sessions:
    """The graphs that one process has loaded, under a lock."""

    graphs: dict[str, Graph] = field(default_factory=dict)  # by name
    views: dict[bytes, Graph] = field(default_factory=dict)  # condition → `g_s` with it folded in; the last used last
    exact: Exact | None = None  # the admitted exact path
    admitted: bool = False  # whether the graphs of stages gave the golden scale indexes
    lock: threading.RLock = field(default_factory=threading.RLock)
    process: int = field(default_factory=os.getpid)


class Networks:
    """Runs the graphs of a bundle: whole where the image is small, else in tiles; a condition in the weights.

    On a GPU arrays stay on the device, images are run whole, and conditions are inputs.

    Attributes:
        bundle, backend: as given.
        area: how large the pieces are that graphs run on.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle, self.backend = bundle, backend
        on_device = hasattr(backend, "device")
        self._folds = bundle.folds and not on_device
        self.area = Area(bundle.manifest, *((math.inf, math.inf) if on_device else ()))
        self._answers, self._opened, self._local = Answers(bundle), Sessions(), threading.local()

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by stage, added up, of the thread that asks; clear it before a call."""
        times: dict[str, float] = self._local.__dict__.setdefault("timings", {})
        return times

    def scales_and_means(self, z: np.ndarray) -> tuple[np.ndarray, Any]:
        """(uint8 or uint16 rows, float32 means or None), each (n, M, H/16, W/16), of int32 `z`."""
        sessions = self.sessions()
        with sessions.lock:
            run = sessions.exact = sessions.exact or admitted_runner(self.bundle, self.backend)
        started = time.perf_counter()
        if self.area.whole("h_s", *z.shape[2:]):
            rows, mean = run(z)
        else:
            from ugicm.runtime.graphs.tiles import exact_reach

            rows, mean = self.tiler.exact(z, run, exact_reach(self.bundle.exact))
        self.count("exact", started)
        if mean is None and "h_s_mean" in self.bundle.manifest.graphs:
            mean = self.run("h_s_mean", z=z.astype(np.float32))
        return rows, mean

    def latents(self, symbols: np.ndarray, mean: Any) -> Any:
        """float32 (n, M, H/16, W/16) `y_hat`."""
        if mean is None:
            return symbols.astype(np.float32)
        if not self.bundle.manifest.context:
            return symbols.astype(np.float32) + mean
        return self.run("context", symbols=symbols, mean=mean, anchor=checkerboard(*symbols.shape[2:]))

    def images(
        self, y_hat: Any, size: tuple[int, int], quality: int, vectors: Vectors, device: str | None
    ) -> list[Any]:
        """(H, W, 3) uint8 images of a size, one for each condition's vectors, of one file's `y_hat`."""
        height, width = size
        cropped = (pictures[0, :height, :width] for pictures in self.pictures(y_hat, quality, vectors))
        return [kept(picture, device) for picture in cropped]

    def pictures(self, y_hat: Any, quality: int, vectors: Vectors) -> Any:
        """Yields (n, H, W, 3) uint8, padded, for each condition's vectors; what none touches runs once."""
        inputs = {"y_hat": y_hat, "inverse_gain": gains_of(self.bundle.inverse_gain, quality)}
        trunk = "g_s_trunk" in self.bundle.manifest.graphs
        conditions = [{} if vector is None else {"condition": vector} for vector in vectors]
        if not self.area.whole("g_s", *y_hat.shape[2:]):
            pictures = self.tiler.synthesise(**inputs, conditions=conditions, trunk=trunk)
            yield from (picture[None] for picture in pictures)
            return
        shared = {"features": self.run("g_s_trunk", **inputs)} if trunk else inputs
        for condition in conditions:
            if not self._folds:
                condition = {name: np.repeat(vector, y_hat.shape[0], 0) for name, vector in condition.items()}
            yield self.run("g_s", **shared, **condition)

    def condition(self, asked: str | float | None) -> np.ndarray | None:
        """(1, D) float32 vectors of a name, a beta in [0, 1], or None: the first, if any. Raises ConditionError."""
        known = self.bundle.condition_vectors
        if asked is None:
            return next(iter(known.values()), None)
        if isinstance(asked, str) and asked in known:
            return known[asked]
        from ugicm.runtime.betas import vectors_of_beta

        return vectors_of_beta(self.bundle, asked, self.run)

    @cached_property
    def tiler(self) -> Tiler:
        """Runs graphs on what is too large for one piece."""
        from ugicm.runtime.graphs.tiles import Tiler

        return Tiler(self.area, self.whole, self.bundle.manifest.model.get("window"))

    def run(self, graph: str, **inputs: Any) -> Any:
        """The first output of a graph, in tiles where the image is large and the graph allows it."""
        if graph in TILED and not self.area.whole(graph, *self.area.size(graph, inputs)):
            return self.tiler.run(graph, inputs)
        return self.whole(graph, inputs)

    def whole(self, graph: str, inputs: dict[str, Any]) -> Any:
        """The first output of a graph on inputs in one piece."""
        loaded = self.graph(graph, inputs.get("condition"))
        if self._folds:
            # In the weights a condition costs nothing; as an input it costs nearly half of `g_s` on a CPU.
            inputs = {name: array for name, array in inputs.items() if name != "condition"}
        started = time.perf_counter()
        output = loaded(inputs)[0]
        self.count(STAGES.get(graph, graph), started)
        return output

    def graph(self, name: str, condition: np.ndarray | None = None) -> Graph:
        """A graph of the bundle, loaded once; where conditions are folded, one for each of those last used."""
        sessions = self.sessions()
        with sessions.lock:
            if condition is not None and self._folds:  # of `g_s`
                key = condition.tobytes()
                view = sessions.views.pop(key, None)
                if view is None:
                    while len(sessions.views) >= VIEWS_KEPT:
                        sessions.views.pop(next(iter(sessions.views)))
                    view = self._answers.load(self.backend, name, self.bundle.view(condition))
                sessions.views[key] = view
                return view
            if name not in sessions.graphs:
                sessions.graphs[name] = self._answers.load(self.backend, name)
            return sessions.graphs[name]

    def sessions(self) -> Sessions:
        """This process's: a fork has no threads of its parent's sessions, which `forks.keep` keeps."""
        if self._opened.process != os.getpid():
            self._opened = Sessions()
        return self._opened

    def count(self, stage: str, started: float) -> None:
        """Adds the time since `started` to a stage of this thread\'s timings."""
        times = self.timings
        times[stage] = times.get(stage, 0.0) + (time.perf_counter() - started) * 1e3


def kept(picture: Any, device: str | None) -> Any:
    """Numpy's, or on a device one that outlives the next run of its graph, which overwrites its output."""
    return np.asarray(picture) if device is None else picture.keep()
