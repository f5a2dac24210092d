"""The networks of a bundle on a backend: one object that knows graphs, views, tiles and sessions.

Methods that flows ask for take a list of files' arguments, of one size and quality, and give a list of results: where a
backend gains by it, files go through a network together.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ugicm.runtime.admission import Exact, admitted_runner
from ugicm.runtime.backends import Backend, Graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError
from ugicm.runtime.graphs.tiles import TILED, Tiler, exact_reach
from ugicm.runtime.symbols import channels, checkerboard, padded_size, quantise, round_z

LARGEST_BATCH = 8e6  # pixels
LARGEST_FLOAT = 2**24  # integers up to it are float32
VIEWS_KEPT = 4  # sessions of the conditioned graph, each for one condition
STAGES = {"g_s_trunk": "g_s", "condition": "g_s", "h_s_mean": "context"}  # graphs whose time counts as another's


@dataclass
class Sessions:
    """What one process has loaded.

    Attributes:
        graphs: name → graph.
        views: condition → `g_s` with it folded in; the last used stand last.
        exact: the admitted exact path.
        admitted: whether the graphs of stages gave the golden scale indexes.
        lock: taken while something is loaded.
        process: whose they are.
    """

    graphs: dict[str, Graph] = field(default_factory=dict)
    views: dict[bytes, Graph] = field(default_factory=dict)
    exact: Exact | None = None
    admitted: bool = False
    lock: threading.RLock = field(default_factory=threading.RLock)
    process: int = field(default_factory=os.getpid)


_INHERITED: list[Sessions] = []
"""Sessions of a parent, in its fork: their threads are not there, so that running or destroying one would hang."""


class Networks:
    """Runs the graphs of a bundle: whole where the image is small, else in tiles; a condition in the weights.

    On a GPU arrays stay on the device, images are run whole, and conditions are inputs.

    Attributes:
        bundle, backend: as given.
        tiler: cuts large images.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        on_device = hasattr(backend, "device")
        self._folds = bundle.folds and not on_device
        self.tiler = Tiler(bundle.manifest, self.whole)
        if on_device:
            self.tiler.work = self.tiler.largest = math.inf
        self._opened = Sessions()
        self._local = threading.local()

    @property
    def timings(self) -> dict[str, float]:
        """Milliseconds by stage, added up, of the thread that asks; clear it before a call."""
        times: dict[str, float] = self._local.__dict__.setdefault("timings", {})
        return times

    # ---- what flows ask for

    def analysed(self, images: Sequence[np.ndarray], quality: int) -> list[tuple[Any, np.ndarray]]:
        """(y, int32 `z`) of (H, W, 3) uint8 images that are of one size once padded."""
        y = self.run("g_a", image=self.padded(images), gain=self.bundle.gain[quality - 1 : quality])
        z = self.hyper_latents(y)
        return [(y[part], z[part]) for part in _each(images)]

    def scaled(self, files: Sequence[np.ndarray]) -> list[tuple[np.ndarray, Any]]:
        """(rows, mean or None) of `y`, from `z` by the exact path."""
        rows, mean = self.scales_and_means(_joined(files))
        return [(rows[part], None if mean is None else mean[part]) for part in _each(files)]

    def staged(self, files: Sequence[dict[str, np.ndarray]], graph: str) -> list[list[np.ndarray]]:
        """The outputs of a graph of a stage, for the inputs of each file."""
        self._admit_stages()
        started = time.perf_counter()
        loaded = self.graph(graph)
        if len(files) == 1:
            outputs = [list(loaded(files[0]))]
        else:
            alike = {name: array for name, array in files[0].items() if name == "even"}
            joined = {name: np.concatenate([file[name] for file in files]) for name in files[0] if name not in alike}
            found = loaded({**joined, **alike})
            outputs = [[output[part] for output in found] for part in _each(files)]
        self._count("stages", started)
        return outputs

    def quantised(self, files: Sequence[tuple[Any, np.ndarray, Any]]) -> list[np.ndarray]:
        """int32 symbols from (y, rows, mean or None)."""
        y, rows, means = zip(*files, strict=True)
        symbols = self.symbols(_joined(y), _joined(rows), _joined(means))
        return [symbols[part] for part in _each(files)]

    def reconstructed(self, files: Sequence[tuple[np.ndarray, Any]]) -> list[Any]:
        """`y_hat` from (symbols, mean or None)."""
        symbols, means = zip(*files, strict=True)
        y_hat = self.latents(_joined(symbols), _joined(means))
        return [y_hat[part] for part in _each(files)]

    def synthesised(
        self,
        files: Sequence[tuple[Any, int, int]],
        quality: int,
        vectors: Sequence[np.ndarray | None],
        device: str | None,
    ) -> list[list[Any]]:
        """Images, one for each condition's vectors, from (y_hat, height, width), cropped to that size."""
        found: list[list[Any]] = [[] for _ in files]
        for pictures in self.pictures(_joined([y_hat for y_hat, _, _ in files]), quality, vectors):
            for i, (_, height, width) in enumerate(files):
                cropped = pictures[i, :height, :width]
                if tuple(cropped.shape) != (height, width, 3):
                    raise BackendError("g_s gave a picture of another size; the bundle is broken: export it again")
                # What a GPU's graph returns is overwritten by its next run.
                found[i].append(np.asarray(cropped) if device is None else cropped.keep())
        return found

    # ---- the steps

    def padded(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """(n, H, W, 3): each repeats its last row and column up to multiples of the stride."""
        height, width = images[0].shape[:2]
        size = padded_size(height, width, self.bundle.manifest.stride)
        if len(images) == 1 and images[0].shape[:2] == size:
            return np.ascontiguousarray(images[0])[None]
        padded = np.empty((len(images), *size, 3), np.uint8)
        for image, whole in zip(images, padded, strict=True):
            height, width = image.shape[:2]
            whole[:height, :width] = image
            whole[:height, width:] = image[:, -1:]
            whole[height:] = whole[height - 1]
        return padded

    def hyper_latents(self, y: np.ndarray) -> np.ndarray:
        """int32 (n, Nz, H/64, W/64) `z`; of no channels, at the resolution of `y`, without a hyperprior."""
        if not self.bundle.manifest.hyper_channels:
            return np.zeros((y.shape[0], 0, *y.shape[2:]), np.int32)
        return round_z(self.run("h_a", y=y), self.bundle.exact.input_limit if self.bundle.exact else LARGEST_FLOAT)

    def scales_and_means(self, z: np.ndarray) -> tuple[np.ndarray, Any]:
        """(uint8 or uint16 rows, float32 means or None), each (n, M, H/16, W/16), of int32 `z`."""
        sessions = self._sessions()
        if sessions.exact is None:
            with sessions.lock:
                sessions.exact = sessions.exact or admitted_runner(self.bundle, self.backend)
        started = time.perf_counter()
        rows, mean = self.tiler.exact(z, sessions.exact, exact_reach(self.bundle.exact))
        self._count("exact", started)
        if mean is None and "h_s_mean" in self.bundle.manifest.graphs:
            mean = self.run("h_s_mean", z=z.astype(np.float32))
        return rows, mean

    def symbols(self, y: Any, rows: np.ndarray, mean: Any) -> np.ndarray:
        """int32 symbols of `y` by their table rows and means, all (n, M, H/16, W/16)."""
        arrays = {"y": y, "rows": rows} | ({} if mean is None else {"mean": mean})
        context = self.bundle.manifest.context is not None
        if context:
            arrays["anchor"] = checkerboard(*y.shape[2:])
        return self.tiler.latents(arrays, self._quantised, context)

    def latents(self, symbols: np.ndarray, mean: Any) -> Any:
        """float32 (n, M, H/16, W/16) `y_hat`."""
        if mean is None:
            return symbols.astype(np.float32)
        if not self.bundle.manifest.context:
            return symbols.astype(np.float32) + mean
        return self.run("context", symbols=symbols, mean=mean, anchor=checkerboard(*symbols.shape[2:]))

    def pictures(self, y_hat: Any, quality: int, vectors: Sequence[np.ndarray | None]) -> Any:
        """Yields (n, H, W, 3) uint8, padded, for each condition's vectors; what none touches runs once."""
        inputs = {"y_hat": y_hat, "inverse_gain": self.bundle.inverse_gain[quality - 1 : quality]}
        trunk = "g_s_trunk" in self.bundle.manifest.graphs
        conditions = [{} if vector is None else {"condition": vector} for vector in vectors]
        if not self.tiler.whole("g_s", *y_hat.shape[2:]):
            yield from (
                picture[None] for picture in self.tiler.synthesise(**inputs, conditions=conditions, trunk=trunk)
            )
            return
        shared = {"features": self.run("g_s_trunk", **inputs)} if trunk else inputs
        for condition in conditions:
            if not self._folds:
                condition = {name: np.repeat(vector, y_hat.shape[0], 0) for name, vector in condition.items()}
            yield self.run("g_s", **shared, **condition)

    def condition(self, beta: float) -> np.ndarray:
        """(1, D) float32 vectors of a beta that has no name."""
        return np.asarray(self.run("condition", beta=np.asarray([beta], np.float32)))

    def images_at_once(self, height: int, width: int) -> int:
        """How many images of a size, in pixels, take no more memory together than one large one does."""
        return max(1, int(min(self.tiler.pixels, LARGEST_BATCH) // (height * width)))

    # ---- graphs

    def run(self, graph: str, **inputs: Any) -> Any:
        """The first output of a graph, of those that it fits in tiles where the image is large."""
        return self.tiler.run(graph, inputs) if graph in TILED else self.whole(graph, inputs)

    def whole(self, graph: str, inputs: dict[str, Any]) -> Any:
        """The first output of a graph on inputs in one piece."""
        loaded = self.graph(graph, inputs.get("condition"))
        if self._folds:
            # In the weights a condition costs nothing; as an input it costs nearly half of `g_s` on a CPU.
            inputs = {name: array for name, array in inputs.items() if name != "condition"}
        started = time.perf_counter()
        output = loaded(inputs)[0]
        self._count(STAGES.get(graph, graph), started)
        return output

    def graph(self, name: str, condition: np.ndarray | None = None) -> Graph:
        """A graph of the bundle, loaded once; where conditions are folded, one for each of those last used."""
        sessions = self._sessions()
        with sessions.lock:
            if condition is not None and self._folds:  # of `g_s`
                key = condition.tobytes()
                view = sessions.views.pop(key, None)
                if view is None:
                    while len(sessions.views) >= VIEWS_KEPT:
                        sessions.views.pop(next(iter(sessions.views)))
                    model, weights = self.bundle.view(condition)
                    view = self.backend.load(model, name, weights)
                sessions.views[key] = view
                return view
            if name not in sessions.graphs:
                sessions.graphs[name] = self.backend.load(self.bundle.graph(name)[1], name)
            return sessions.graphs[name]

    def _quantised(self, y: Any, rows: np.ndarray, mean: Any = None, anchor: np.ndarray | None = None) -> np.ndarray:
        """int32 symbols of a part of `y`, from arrays of the same size; `anchor` with a context."""
        tables = self.bundle.y_tables
        symbols = np.empty(y.shape, np.int32)
        for part in channels(y.shape):
            residual = np.array(y[:, part]) if mean is None else y[:, part] - mean[:, part]
            symbols[:, part] = quantise(residual, tables.coded(rows[:, part]))
            if anchor is not None:
                symbols[:, part] *= anchor.astype(np.int32)
        if anchor is None or mean is None:
            return symbols
        # With the symbols of the others at 0, what comes out at the others is their refined mean.
        refined = self.run("context", symbols=symbols, mean=mean, anchor=anchor)
        for part in channels(y.shape):
            found = quantise(y[:, part] - refined[:, part], tables.coded(rows[:, part]))
            np.copyto(symbols[:, part], found, where=anchor == 0)
        return symbols

    def _admit_stages(self) -> None:
        """Raises BackendError: the backend's scale indexes are too far from the golden ones."""
        sessions = self._sessions()
        if not sessions.admitted:
            with sessions.lock:
                if not sessions.admitted:
                    from ugicm.runtime.stage_admission import admit

                    admit(self.bundle, self.backend.name, lambda name: self.graph(name))
                    sessions.admitted = True

    def _sessions(self) -> Sessions:
        if self._opened.process != os.getpid():
            _INHERITED.append(self._opened)
            self._opened = Sessions()
        return self._opened

    def _count(self, stage: str, started: float) -> None:
        times = self.timings
        times[stage] = times.get(stage, 0.0) + (time.perf_counter() - started) * 1e3


def _each(files: Sequence[Any]) -> list[slice]:
    return [slice(i, i + 1) for i in range(len(files))]


def _joined(arrays: Sequence[Any]) -> Any:
    """(n, …) of n arrays (1, …), or None of None."""
    first = arrays[0]
    if len(arrays) == 1 or first is None:
        return first
    return np.concatenate(arrays) if isinstance(first, np.ndarray) else type(first).concatenated(arrays)
