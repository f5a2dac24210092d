"""A folder of checkpoints to a folder of bundles, and a table of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ugicm.export.checkpoint import load
from ugicm.export.source import Source
from ugicm.runtime.codec import Codec
from ugicm.runtime.errors import UgicError
from ugicm.runtime.graphs.stage_answers import in_double
from ugicm.runtime.manifest import Manifest
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.schedule import WAVEFRONT

SUFFIXES = (".pth", ".pt", ".pth.tar", ".tar", ".ckpt", ".bin", ".safetensors")
REPEATS = 3
HEAD = ("checkpoint", "model", "z, y channels", "kMAC/pixel to encode, decode", "exact path", "qualities", "MB", "s")
MEASURED = ("bytes", "PSNR", "ms to encode", "ms to decode")

Export = Callable[[Source, Path], Manifest]
"""Writes the bundle of a source; raises what cannot be exported."""


@dataclass(frozen=True)
class Row:
    """What became of a checkpoint: the cells of the table, or the reason why there is no bundle."""

    checkpoint: str
    cells: tuple[str, ...] = ()
    refused: str = ""


def checkpoints(folder: Path) -> list[Path]:
    """The files of a folder that are checkpoints by their names, sorted."""
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name.lower().endswith(SUFFIXES))


def bundle_of(checkpoint: Path, folder: Path) -> Path:
    """Where its bundle goes: a folder of its name without the suffix."""
    return folder / checkpoint.with_name(checkpoint.name.removesuffix(".tar")).with_suffix("").name


def export_folder(
    files: list[Path],
    output: Path,
    export: Export,
    refusals: tuple[type[Exception], ...],
    picture: np.ndarray | None = None,
) -> Iterator[Row]:
    """Exports one checkpoint after the other.

    Args:
        files: the checkpoints.
        output: the folder that the bundles go into.
        export: makes a bundle.
        refusals: what is raised for a checkpoint that cannot be served; the others are exported all the same.
        picture: (H, W, 3) uint8, which each codec then codes on the threads that it takes, for bytes and times; None
            measures nothing.
    """
    taken: dict[Path, str] = {}
    caught: tuple[type[Exception], ...] = (*refusals, UgicError)
    for file in files:
        bundle, started = bundle_of(file, output), time.perf_counter()
        if bundle in taken:
            yield Row(file.name, refused=f"{file}: {taken[bundle]} has the bundle {bundle}; rename one of them")
            continue
        taken[bundle] = file.name
        try:
            source = load(file)
            manifest = export(source, bundle)
            cells = described(source, manifest, time.perf_counter() - started)
            yield Row(file.name, (file.name, *cells, *(() if picture is None else measured(bundle, picture))))
        except caught as error:
            yield Row(file.name, refused=str(error))


def described(source: Source, manifest: Manifest, seconds: float) -> tuple[str, ...]:
    """The cells of `HEAD` after the first."""
    kmac = source.model.get("kmac_per_pixel", {})
    return (
        source.architecture,
        f"{source.hyper_channels}, {source.latent_channels}",
        f"{kmac.get('encode', 0):.0f}, {kmac.get('decode', 0):.0f}",
        exact_path(source) + (", double" if in_double(manifest) else ""),
        str(source.qualities),
        f"{sum(entry.bytes for entry in manifest.files.values()) / 1e6:.1f}",
        f"{seconds:.0f}",
    )


def exact_path(source: Source) -> str:
    """How the table row of a symbol is made the same on every machine, in a few words."""
    if source.schedule is None:
        return "none needed" if source.hyper_synthesis is None else "integers"
    stages = source.schedule.stages
    if any(stage.positions == WAVEFRONT for stage in stages):
        return "guarded, wavefronts"
    return f"guarded, {len(stages)} stage{'s' if len(stages) > 1 else ''}"


def measured(bundle: Path, picture: np.ndarray) -> tuple[str, ...]:
    """The cells of `MEASURED`: a file of the default quality, its PSNR, the least of some times."""
    codec = Codec.from_bundle(bundle)

    def least(work: Callable[[], object]) -> str:
        work()
        times = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            work()
            times.append(time.perf_counter() - started)
        return f"{1e3 * min(times):.0f}"

    data = codec.encode(picture)
    found = psnr(picture, codec.decode(data))
    return (
        f"{len(data):,}",
        f"{found:.2f}",
        least(lambda: codec.encode(picture)),
        least(lambda: codec.decode(data)),
    )


def print_rows(rows: Iterator[Row], measuring: bool) -> int:
    """The table in Markdown, row by row as they come, refusals on standard error; the exit status."""
    head = HEAD + (MEASURED if measuring else ())
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    refused = 0
    for row in rows:
        if row.refused:
            refused += 1
            print(f"error: {row.refused}", file=sys.stderr, flush=True)
        else:
            print(f"| {' | '.join(row.cells)} |", flush=True)
    if refused:
        print(f"error: {refused} checkpoint{'s' if refused > 1 else ''} not exported, see above", file=sys.stderr)
    return 2 if refused else 0
