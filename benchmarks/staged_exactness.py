"""`python -m benchmarks.staged_exactness CHECKPOINT… --symbols 1e8`: staged files on all machines, symbol by symbol.

A *machine* runs the graphs of the stages: ONNX Runtime at each optimisation level, PyTorch in float32 and in float64,
each on one thread and on two. The `y` substream of each file is written by one of them, in turn, and read by all,
through the guarded rounding and the range coder of the runtime, and every symbol is compared. In PyTorch all that a
coder knows is of that float type, from `z` on; where stages are in double precision, float64 alone is tried. Three
files in four have random latents, drawn from the rows of their own scales; the fourth is a piece of a picture.
Wavefronts count each step as a stage. Codecs of several qualities are tried at their best. A bundle stands beside its
checkpoint, as `ugicm export` writes it.
Progress is saved, so that a long run can continue; `OMP_WAIT_POLICY=passive` keeps PyTorch from waiting busily.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ugicm import Codec
from ugicm.calibration.exact.ranges import prior_samples
from ugicm.export.checkpoint import load
from ugicm.export.double import FLOATS
from ugicm.export.source import Source
from ugicm.export.staged_source import positions_mask, run_stages, z_first
from ugicm.runtime.additions import Guard
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder import analysis
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.flow import drive
from ugicm.runtime.graphs.stage_answers import in_double
from ugicm.runtime.guard import CrowdedError, Rounding, halved
from ugicm.runtime.schedule import WAVEFRONT, Schedule, Stage
from ugicm.runtime.staged import Coded, Latents
from ugicm.runtime.staged_coder import StagedDecoder, StagedEncoder
from ugicm.runtime.wavefront import Front

SIZE = (512, 768)
"""Of the picture that each file stands for, in pixels."""
Walk = Callable[[np.ndarray, Coded], None]
"""Goes through the stages of a file from its `z`, (1, Nz, h, w) int32; a `Coded` gives the symbols of each."""


class Unguarded:
    """Plain rounding in the place of `Rounding`: each machine rounds its own indexes as they are."""

    def __init__(self, guard: Guard, skipped: np.ndarray) -> None:
        self._block, self._rows = guard.block, skipped.size

    def shifts(self, s: np.ndarray) -> np.ndarray:
        return np.zeros(-(-s.size // self._block), np.uint8)

    def rows(self, s: np.ndarray, shifts: np.ndarray, name: str = "") -> np.ndarray:
        return np.clip(np.floor(s + 0.5), 0, self._rows - 1).astype(np.uint8)


@dataclass
class File:
    """A file as it was written: its substream, and (n,) indexes, rows and symbols of each stage in scan order."""

    guard: Guard
    stream: bytes = b""
    indexes: list[np.ndarray] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    symbols: list[np.ndarray] = field(default_factory=list)


@dataclass
class Count:
    """Of the files that a machine read.

    Attributes:
        files, symbols: how many another machine wrote.
        dead: files refused, or with a symbol that is another.
        rows, different: rows and symbols that are others, up to where a dead file was refused.
        beyond: indexes farther from the writer's than the band; `apart` is the largest distance, in rows.
    """

    files: int = 0
    symbols: int = 0
    dead: int = 0
    rows: int = 0
    different: int = 0
    beyond: int = 0
    apart: float = 0.0


def positions(stage: Stage, height: int, width: int) -> Iterator[tuple[np.ndarray, ...]]:
    """What indexes (rows, columns) at each call of a `Coded` for a stage: its mask, or the positions of each step."""
    if stage.positions == WAVEFRONT:
        yield from Front({}, set(), (1, height, width), np.float32).steps()
    else:
        yield (positions_mask(stage.positions, height, width),)


class Placed:
    """The positions of the stages of one file, call by call."""

    def __init__(self, height: int, width: int) -> None:
        self._size, self._steps = (height, width), dict[str, Iterator[tuple[np.ndarray, ...]]]()

    def go_on(self, stage: Stage) -> tuple[Any, ...]:
        """What indexes (channels of a stage, rows, columns) at its next call."""
        if stage.graph not in self._steps:
            self._steps[stage.graph] = positions(stage, *self._size)
        return (slice(None), *next(self._steps[stage.graph]))


def in_runtime(bundle: Bundle, schedule: Schedule, backend: OnnxRuntime) -> Walk:
    """The runtime's own way through the stages."""
    graphs = {name: backend.load(bundle.graph(name)[1], name) for name in ("h_s", *schedule.graphs)}

    def walk(z: np.ndarray, coded: Coded) -> None:
        asking = Latents(bundle, z, bundle.manifest.qualities).decode(coded, lambda name, inputs: (name, inputs))
        drive(asking, lambda request: graphs[request[0]](request[1]))  # type: ignore[index]

    return walk


def in_torch(source: Source, dtype: torch.dtype, threads: int, doubled: bool = False) -> Walk:
    """The checkpoint's modules in a float type, and everything between them; `doubled` leaves what the runtime makes or
    reads in single precision, as bundles whose stages are in double precision do."""
    modules = {name: copy.deepcopy(graph.module).to(dtype).eval() for name, graph in source.graphs.items()}
    known_mean: dict[str, np.ndarray] = {}

    def run(name: str, known: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        graph = source.graphs[name]
        with torch.no_grad():
            outputs = modules[name](*(torch.from_numpy(known[i]).to(dtype) for i in graph.inputs))
        arrays = [o.numpy() for o in ((outputs,) if isinstance(outputs, torch.Tensor) else outputs)]
        if doubled:
            arrays = [a.astype(np.float32) if n in FLOATS else a for n, a in zip(graph.outputs, arrays, strict=True)]
        known_mean.update(zip(graph.outputs, arrays, strict=True))
        return arrays

    def walk(z: np.ndarray, coded: Coded) -> None:
        ratio = source.stride // source.latent_stride
        placed = Placed(z.shape[2] * ratio, z.shape[3] * ratio)

        def symbols_of(stage: Stage, index: np.ndarray) -> np.ndarray:
            there, mean = placed.go_on(stage), known_mean["mean"]
            mean = mean.T if stage.positions == WAVEFRONT else mean[0][there]
            found = coded(stage, index[0][there].ravel(), mean.ravel())
            out = np.zeros(index.shape, index.dtype)
            out[0][there] = found.reshape(index.shape[1], -1)
            return out

        torch.set_num_threads(threads)
        given = z.astype(np.float64 if dtype == torch.float64 and not doubled else np.float32)
        run_stages(source, run, given, symbols_of, source.qualities)

    return walk


class Small:
    """One codec, its machines and endless latents.

    Args:
        checkpoint: of the codec.
        bundle: its folder.
        pictures: cut for real latents.
        guarded: False rounds plainly.
    """

    def __init__(self, checkpoint: Path, bundle: Path, pictures: list[np.ndarray], guarded: bool) -> None:
        self.source = load(checkpoint)
        self.codec = Codec.from_bundle(bundle, threads=1)
        self.bundle, self.pictures = self.codec.bundle, pictures
        schedule = self.bundle.manifest.schedule
        if schedule is None:
            raise SystemExit(f"error: {bundle}: not a codec with context, whose symbols are decoded in stages")
        self.guard = Guard(schedule.band_bits, schedule.block)
        self.rounding: Callable[..., Any] = Rounding if guarded else Unguarded
        self.skipped = self.bundle.y_tables.lengths == 0
        self.machines: dict[str, Walk] = {}
        for level, threads in itertools.product(LEVELS, (1, 2)):
            backend = OnnxRuntime(threads=threads, level=level)
            self.machines[f"ONNX Runtime, {level}, {threads}"] = in_runtime(self.bundle, schedule, backend)
        doubled = in_double(self.bundle.manifest)
        for dtype, threads in itertools.product(
            (torch.float64,) if doubled else (torch.float32, torch.float64), (1, 2)
        ):
            name = f"PyTorch {str(dtype).removeprefix('torch.')}, {threads}"
            self.machines[name] = in_torch(self.source, dtype, threads, doubled)

    def latents(self, step: int) -> tuple[np.ndarray | None, np.ndarray]:
        """`y`, None to draw symbols from the tables, and `z`, (1, Nz, h, w) int32."""
        rng = np.random.default_rng((31, step))
        m = self.bundle.manifest
        if step % 4 == 3 and self.pictures:
            picture = self.pictures[int(rng.integers(len(self.pictures)))]
            top, left = (int(rng.integers(0, max(n - s, 0) + 1)) for n, s in zip(picture.shape, SIZE, strict=False))
            piece = picture[top : top + SIZE[0], left : left + SIZE[1]]
            moved = np.roll(piece, rng.integers(0, 512, 2), (0, 1))
            y, z = analysis.analysed(self.codec.networks, moved, m.qualities)
            return np.asarray(y), z
        limit, first = self.source.z_probabilities.shape[1] // 2, z_first(self.source, m.qualities)
        size = (SIZE[0] // m.stride, SIZE[1] // m.stride)
        of_z = self.source.z_probabilities[first : first + m.hyper_channels]
        return None, prior_samples(of_z, 1, size, limit, step)

    def written(self, walk: Walk, y: np.ndarray | None, z: np.ndarray, step: int) -> File:
        """A file by a machine; a crowded one again, with smaller blocks."""
        guard = self.guard
        while True:
            file, encoder = File(guard), StagedEncoder(self.bundle.y_tables)
            rounding, rng = self.rounding(guard, self.skipped), np.random.default_rng((32, step))
            placed = Placed(*z.shape[2:]) if y is None else Placed(*y.shape[2:])

            def coded(
                stage: Stage,
                index: np.ndarray,
                mean: np.ndarray,
                file: File = file,
                encoder: StagedEncoder = encoder,
                rounding: Any = rounding,
                rng: np.random.Generator = rng,
                placed: Placed = placed,
            ) -> np.ndarray:
                shifts = rounding.shifts(index)
                rows = rounding.rows(index, shifts)
                if y is None:
                    values = rng.standard_normal(index.size) * self.source.scales[rows]
                else:
                    values = y[0, slice(*stage.channels)][placed.go_on(stage)].ravel() - mean
                symbols = np.rint(values).astype(np.int32)
                encoder.shifts(shifts)
                encoder.symbols(symbols, rows)
                file.indexes.append(index)
                file.rows.append(rows)
                file.symbols.append(symbols)
                return symbols

            try:
                walk(z, coded)
            except CrowdedError:
                guard = halved(guard)
                continue
            file.stream = encoder.finish()
            return file

    def read(self, walk: Walk, file: File, z: np.ndarray, count: Count) -> None:
        """A file by a machine; what differs from the writer's goes into `count`."""
        rounding = self.rounding(file.guard, self.skipped)
        decoder, stages, different = StagedDecoder(file.stream, self.bundle.y_tables), itertools.count(), 0
        sized = sum(s.size for s in file.symbols)

        def coded(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
            nonlocal different
            i = next(stages)
            if not different:  # a file that went astray before tells nothing of distances
                apart = np.abs(index.astype(np.float64) - file.indexes[i])
                count.apart = max(count.apart, float(apart.max()))
                count.beyond += int(np.count_nonzero(apart > 2.0**-file.guard.band_bits))
            rows = rounding.rows(index, decoder.shifts(-(-index.size // file.guard.block)))
            if not different:
                count.rows += int(np.count_nonzero(rows != file.rows[i]))
            symbols = decoder.symbols(rows)
            different += int(np.count_nonzero(symbols != file.symbols[i]))
            return symbols

        count.files += 1
        count.symbols += sized
        try:
            walk(z, coded)
            decoder.finish()
        except UgicError:
            count.dead += 1
        else:
            count.dead += different > 0
        count.different += different


def total(counts: Iterable[Count]) -> Count:
    """The sum of several; the largest distance."""
    out = Count()
    for c in counts:
        for name in ("files", "symbols", "dead", "rows", "different", "beyond"):
            setattr(out, name, getattr(out, name) + getattr(c, name))
        out.apart = max(out.apart, c.apart)
    return out


@dataclass
class Progress:
    """What a run saves: whose it is, and of each codec the time it took, files, symbols and counts by machine."""

    ids: dict[str, str]
    guards: bool
    seconds: dict[str, float]
    files: dict[str, int]
    symbols: dict[str, int]
    counts: dict[str, dict[str, Count]]

    @classmethod
    def of(cls, codecs: Mapping[str, Small], guards: bool) -> Progress:
        """That of a run that begins."""
        counts = {name: {machine: Count() for machine in c.machines} for name, c in codecs.items()}
        ids = {name: c.bundle.manifest.codec_id for name, c in codecs.items()}
        return cls(ids, guards, dict.fromkeys(ids, 0.0), dict.fromkeys(ids, 0), dict.fromkeys(ids, 0), counts)

    def load(self, path: Path) -> None:
        """Goes on from a file. Raises ValueError for one of other codecs or options."""
        saved = json.loads(path.read_text())
        if (saved["ids"], saved["guards"]) != (self.ids, self.guards):
            raise ValueError(f"{path}: of other codecs or options; give another file with --state")
        self.seconds, self.files, self.symbols = saved["seconds"], saved["files"], saved["symbols"]
        self.counts = {k: {m: Count(**v) for m, v in of.items()} for k, of in saved["counts"].items()}

    def save(self, path: Path) -> None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(asdict(self), indent=1))
        part.replace(path)

    def print(self, console: Console) -> None:
        rows = {f"{name}: {self.symbols[name]:,} symbols": list(of.values()) for name, of in self.counts.items()}
        machines = next(iter(self.counts.values()))
        rows |= {machine: [of[machine] for of in self.counts.values()] for machine in machines}
        for title, counts in rows.items():
            c = total(counts)
            read = f"{c.files:,} files of others with {c.symbols:,} symbols read"
            differences = f"{c.dead:,} dead, {c.rows:,} other rows, {c.different:,} other symbols"
            apart = f"indexes up to {c.apart:.2g} rows apart, {c.beyond:,} beyond the band"
            console.print(f"{title}: {read}; {differences}; {apart}", highlight=False, soft_wrap=True)
        c = total(count for of in self.counts.values() for count in of.values())
        console.print(
            f"guards {'on' if self.guards else 'off'}: {sum(self.files.values()):,} files, "
            f"{sum(self.symbols.values()):,} symbols; {c.symbols:,} symbols read by a machine that had not written "
            f"them, {c.different:,} others, {c.dead:,} of {c.files:,} readings dead",
            soft_wrap=True,
        )


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.staged_exactness", description=__doc__)
    p.add_argument("checkpoints", type=Path, nargs="+", help="of codecs with context, their bundles beside them")
    p.add_argument("--images", type=Path, help="folder of PNG images for real latents")
    p.add_argument("--symbols", type=float, default=1e6, help="symbols that every machine reads (default: 1e6)")
    p.add_argument("--no-guards", action="store_true", help="round plainly, and count the files that die of it")
    p.add_argument("--state", type=Path, help="JSON file to save progress in and continue from")
    args = p.parse_args(arguments)
    pictures = [read_image(f) for f in sorted(args.images.glob("*.png"))] if args.images else []
    folders = {c: c.with_name(c.name.removesuffix(".tar")).with_suffix("") for c in args.checkpoints}
    codecs = {c.name: Small(c, folder, pictures, not args.no_guards) for c, folder in folders.items()}
    progress = Progress.of(codecs, not args.no_guards)
    if args.state and args.state.exists():
        try:
            progress.load(args.state)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
    saved_at = time.monotonic()
    while sum(progress.symbols.values()) < args.symbols:
        name = min(codecs, key=lambda name: progress.seconds[name])  # all get the same time
        codec, step, started = codecs[name], progress.files[name], time.process_time()
        y, z = codec.latents(step)
        writer = list(codec.machines)[(step // 4 + step) % len(codec.machines)]  # meets every kind of latents
        file = codec.written(codec.machines[writer], y, z, step)
        for machine, walk in codec.machines.items():
            codec.read(walk, file, z, progress.counts[name][machine] if machine != writer else Count())
        progress.files[name] += 1
        progress.symbols[name] += sum(s.size for s in file.symbols)
        progress.seconds[name] += time.process_time() - started
        if args.state and time.monotonic() - saved_at > 20:
            progress.save(args.state)
            saved_at = time.monotonic()
    if args.state:
        progress.save(args.state)
    progress.print(Console())
    counts = total(count for of in progress.counts.values() for count in of.values())
    return 1 if counts.dead and progress.guards else 0


if __name__ == "__main__":
    sys.exit(main())
