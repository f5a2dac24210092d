"""The guard of a codec with context: how wide its band must be, and whether its stages run in single precision.

Where machines that compute in single precision stray too far apart, the stages are written in double precision, which
CPUs alone run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from rich.console import Console

from ugicm.export.double import DoubleError, for_runtime, in_double
from ugicm.export.graphs import Check, check_graph, export_graphs
from ugicm.export.source import Source
from ugicm.export.staged_source import golden_stages, latents_of, measure_deviation
from ugicm.runtime.additions import MIN_BAND_BITS
from ugicm.runtime.errors import BackendError
from ugicm.runtime.measures.pictures import generated_image, squares_image
from ugicm.runtime.schedule import Schedule

MARGIN, LEAST_MARGIN = 8.0, 4.0
"""The band is at least so many times the largest deviation measured; where no band is as wide, the second will do. It
is also as wide as a deviation that is possible, where there is such a band."""
GOLDEN_SIZES, GOLDEN_PICTURE = ((1, 1), (2, 3)), (2, 3)
"""Sizes in strides of the golden vectors: of random latents, and of a picture half of which is squares."""
PICTURE = 256
"""Side in pixels of the generated pictures on which deviations are measured."""

Graphs = dict[str, tuple[bytes, tuple[str, ...], tuple[str, ...]]]
"""Name → ONNX bytes, inputs, outputs."""


class StrayingError(Exception):
    """Scales that machines compute too differently for any band; the message says how far and where."""


def guarded(
    source: Source, models: Mapping[str, bytes], pictures: Sequence[np.ndarray], console: Console, double: bool = False
) -> tuple[Schedule, dict[str, np.ndarray]]:
    """The schedule with the narrowest band that is allowed, and golden vectors of the stages.

    Deviations are measured on random latents, on those of generated pictures, which golden vectors hold too, and on
    those of `pictures`.

    Args:
        source: a codec with a schedule.
        models: ONNX bytes of `h_s` and of the graphs of all stages, by name.
        pictures: (height, width, 3) uint8, multiples of the stride.
        console: is told what was measured.
        double: the models are in double precision.

    Raises:
        StrayingError: what runs here is farther from float64 than any band allows.
    """
    assert source.schedule is not None
    height, width = (n * source.stride for n in GOLDEN_PICTURE)
    halves = generated_image(height, width)
    halves[:, width // 2 :] = squares_image(height, width)[:, width // 2 :]
    generated = (halves, generated_image(PICTURE, PICTURE), squares_image(PICTURE, PICTURE))
    samples = [latents_of(source, picture) for picture in (*generated, *pictures)]
    straying = measure_deviation(source, models, samples=samples, double=double)
    # What doubles get wrong is the last digit of an index that is handed on as float32, whatever its scale.
    found, possible = straying.largest, straying.largest if double else straying.possible
    farthest = (LEAST_MARGIN * found, MARGIN * found, possible)
    most, *wanted = (math.floor(-math.log2(max(distance, 2.0**-40))) for distance in farthest)
    bits = min(source.schedule.band_bits, max(min(wanted), MIN_BAND_BITS))
    machines, way = ("ONNX Runtime", " in double precision") if double else ("PyTorch and ONNX Runtime", "")
    console.print(
        f"stages: {len(source.schedule.stages)}{way}; scale indexes of {machines} are up to {found:.2g} rows "
        f"from float64, {possible:.2g} are possible; band 2^-{bits} = {2.0**-bits:.2g} rows"
    )
    if most < bits:
        raise StrayingError(
            f"scale indexes differ by up to {found:.2g} rows between runtimes, more than a band of 2^-{MIN_BAND_BITS} "
            f"allows: {straying.where}, as happens where it is a small difference of large numbers; files of this "
            "codec would not be safe on other machines"
        )
    golden = golden_stages(source, GOLDEN_SIZES, samples[:1], double=double)
    return replace(source.schedule, band_bits=bits), golden


class Guarded(NamedTuple):
    """What the stages of a codec with context become.

    Attributes:
        schedule: with its band.
        golden: vectors.
        graphs: those in double precision, where single precision does not do; no others.
        checks: of these against PyTorch.
    """

    schedule: Schedule
    golden: dict[str, np.ndarray]
    graphs: Graphs
    checks: dict[str, Check]


def guarded_graphs(
    source: Source, graphs: Graphs, pictures: Sequence[np.ndarray], console: Console, double: bool = False
) -> Guarded:
    """The guard of a codec with context and, where single precision does not do, its stages in double precision.

    Args:
        source: a codec with a schedule.
        graphs: `h_s` and those of all stages in single precision.
        pictures, console: as of `guarded`.
        double: asks for double precision.

    Raises:
        StrayingError: neither does.
    """
    assert source.schedule is not None
    if not double:
        models = {name: graph[0] for name, graph in graphs.items()}
        try:
            return Guarded(*guarded(source, models, pictures, console), {}, {})
        except StrayingError as error:
            console.print(f"note: h_s and the stages run in double precision, on CPUs alone: {error}", soft_wrap=True)
    wanted = {name: in_double(source.graphs[name]) for name in ("h_s", *source.schedule.graphs)}
    doubled: Graphs = {}
    checks = {}
    try:
        for name, model in export_graphs(wanted):
            runnable = for_runtime(model)
            doubled[name] = (runnable.SerializeToString(), *graphs[name][1:])
            checks[name] = check_graph(name, runnable, wanted[name])
        models = {name: graph[0] for name, graph in doubled.items()}
        return Guarded(*guarded(source, models, pictures, console, double=True), doubled, checks)
    except (DoubleError, BackendError) as error:
        raise StrayingError(f"the stages have no form in double precision: {error}") from error
