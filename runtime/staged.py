"""How a codec with context is coded: stage after stage, each from what is decoded so far.

A stage's graph gives a continuous scale index and a mean for some channels of `y` at some positions. The index is
rounded under guard (`guard`), the symbols are coded, and the latents they make are context for the next stage. The
encoder goes the same way with the symbols that it chooses, so that both sides know the same at every step.

Graphs read and write one environment of named arrays: the outputs of `h_s`, "y_hat" (1, M, H, W), the latents known so
far and zeros elsewhere, "even" (1, 1, H, W), 1 where row + column is even, "gain" (1, M, 1, 1) of the quality, and what
earlier graphs gave.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from ugicm.runtime.additions import Guard
from ugicm.runtime.bitstream import Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder.rounding import quantise
from ugicm.runtime.errors import BundleError
from ugicm.runtime.guard import CrowdedError, Rounding, halved
from ugicm.runtime.schedule import POSITIONS, WAVEFRONT, Stage
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder
from ugicm.runtime.symbols import checkerboard, gains_of

Asks = Generator[Any, Any, Any]
Run = Callable[[str, dict[str, np.ndarray]], Any]
"""Makes of a graph's name and its inputs what a flow asks; the answer are the graph's outputs in order."""
Coded = Callable[[Stage, np.ndarray, np.ndarray], np.ndarray]
"""A stage, the indexes (n,) float32 and the means (n,) at its positions in scan order, to its symbols, int32 (n,)."""


class Latents:
    """The environment of one file of a quality while its stages run.

    Attributes:
        symbols: int32 (1, M, H, W), those known so far.
        y_hat: float32 (1, M, H, W), the latents known so far.
    """

    def __init__(self, bundle: Bundle, z: np.ndarray, quality: int) -> None:
        m = bundle.manifest
        ratio = m.stride // m.latent_stride
        height, width = z.shape[2] * ratio, z.shape[3] * ratio
        self._bundle = bundle
        self.y_hat = np.zeros((1, m.latent_channels, height, width), np.float32)
        self.symbols = np.zeros(self.y_hat.shape, np.int32)
        parity = np.add.outer(np.arange(height), np.arange(width)) % 2
        # For each name what indexes (rows, columns); of a wavefront, those of the step that runs.
        self._at: dict[str, tuple[np.ndarray, ...]] = {k: (np.isin(parity, v),) for k, v in POSITIONS.items()}
        self._known = {
            "z": z.astype(np.float32),
            "y_hat": self.y_hat,
            "even": checkerboard(height, width),
            "gain": gains_of(bundle.gain, quality),
        }

    def of(self, stage: Stage, latents: np.ndarray) -> np.ndarray:
        """(n,) of (1, M, H, W): what a stage decodes, in scan order."""
        index: tuple[Any, ...] = (slice(None), *self._at[stage.positions])
        return latents[0, slice(*stage.channels)][index].ravel()

    def decode(self, coded: Coded, run: Run) -> Asks:
        """Runs `h_s` and all stages in order; `coded` gives the symbols of each."""
        yield from self._run("h_s", run)
        schedule = self._bundle.manifest.schedule
        for stage in schedule.stages if schedule else ():
            if stage.positions == WAVEFRONT:
                yield from self._walk(stage, coded, run)
                continue
            yield from self._run(stage.graph, run)
            index, mean = (self._part(stage, name) for name in ("index", "mean"))
            symbols = coded(stage, index.ravel(), mean.ravel())
            symbols = symbols.reshape(index.shape)
            part, at = slice(*stage.channels), self._at[stage.positions][0]
            self.symbols[0, part][:, at] = symbols
            self.y_hat[0, part][:, at] = symbols + mean
            if stage.after is not None:
                yield from self._run(stage.after, run)
                self.y_hat[0, part][:, at] += self._part(stage, "lrp")

    def _walk(self, stage: Stage, coded: Coded, run: Run) -> Asks:
        """A stage in wavefronts, each step of which is coded as a stage is."""
        from ugicm.runtime.wavefront import At, walk

        names = {}
        for name in (stage.graph, *([stage.after] if stage.after else [])):
            entry = self._bundle.graph(name)[0]
            names[name] = (entry.inputs, entry.outputs)
        known = self.symbols[0, slice(*stage.channels)]

        def code(at: At, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
            self._at[stage.positions] = at
            symbols = coded(stage, index.ravel(), mean.ravel()).reshape(index.shape)
            known[:, at[0], at[1]] = symbols
            return symbols.astype(np.float32) + mean

        yield from walk(stage, names, self._known, self.y_hat[0, slice(*stage.channels)], code, run)

    def _run(self, graph: str, run: Run) -> Asks:
        entry = self._bundle.graph(graph)[0]
        if missing := set(entry.inputs) - set(self._known):
            raise BundleError(f"{self._bundle.path}: graph {graph} reads {min(missing)!r}, which nothing gives here")
        outputs = yield run(graph, {name: self._known[name] for name in entry.inputs})
        self._known.update(zip(entry.outputs, outputs, strict=True))

    def _part(self, stage: Stage, name: str) -> np.ndarray:
        """(channels, positions) float32 of an output of a stage's graph."""
        first, end = stage.channels
        found = np.asarray(self._known[name])
        if found.shape != (1, end - first, *self.y_hat.shape[2:]) or found.dtype != np.float32:
            raise BundleError(
                f"{self._bundle.path}: graph {stage.graph} gives {name} as {found.dtype} {found.shape}; "
                "export the bundle again"
            )
        return found[0][:, self._at[stage.positions][0]]


def decode(bundle: Bundle, z: np.ndarray, stream: Bitstream, name: str, run: Run) -> Asks:
    """The `Latents` of a file with a guard.

    Raises:
        CorruptFileError, BundleError, BackendError: see those types.
    """
    guard, latents = stream.guard, Latents(bundle, z, stream.quality)
    assert guard is not None
    rounding = Rounding(guard, bundle.y_tables.lengths == 0)
    decoder = StagedDecoder(stream.y[0], bundle.y_tables, name)

    def coded(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
        shifts = decoder.shifts(-(-index.size // guard.block))
        return decoder.symbols(rounding.rows(index, shifts, name))

    yield from latents.decode(coded, run)
    decoder.finish()
    return latents


def encode(bundle: Bundle, y: np.ndarray, z: np.ndarray, quality: int, run: Run) -> Asks:
    """(symbols, the `y` substream, the guard) of real `y`, (1, M, H, W) float32."""
    schedule = bundle.manifest.schedule
    assert schedule is not None
    guard = Guard(schedule.band_bits, schedule.block)
    skipped = bundle.y_tables.lengths == 0
    while True:
        latents = Latents(bundle, z, quality)
        rounding, encoder = Rounding(guard, skipped), StagedEncoder(bundle.y_tables)

        def coded(
            stage: Stage,
            index: np.ndarray,
            mean: np.ndarray,
            latents: Latents = latents,
            rounding: Rounding = rounding,
            encoder: StagedEncoder = encoder,
        ) -> np.ndarray:
            shifts = rounding.shifts(index)
            rows = rounding.rows(index, shifts)
            symbols = quantise(latents.of(stage, y) - mean, bundle.y_tables.coded(rows))
            encoder.shifts(shifts)
            encoder.symbols(symbols, rows)
            return symbols

        try:
            yield from latents.decode(coded, run)
        except CrowdedError:
            guard = halved(guard)
            continue
        return latents.symbols, encoder.finish(), guard
