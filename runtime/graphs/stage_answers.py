"""The answers that graphs of a codec with context have to give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ugicm.runtime.manifest import Manifest

READ = ("index", "mean", "lrp")
"""What the runtime itself reads: float32."""
_GIVEN = ("even", "gain", "inverse_gain")  # inputs that say nothing of how many files there are


def of_stage(
    manifest: Manifest, name: str, inputs: Mapping[str, Any], found: Sequence[str] = ()
) -> list[tuple[Any, ...]]:
    """Type and lengths of each output, None where any will do.

    All are float32 (n, C, H, W), or (n, C) of a wavefront; those of `READ` have the channels of the stage.
    Whoever reads them, compares H and W with those of the latents: a graph may pack the others. Others may be
    float64, where that was `found`: one graph hands them to another.
    """
    assert manifest.schedule is not None
    first = next((v for k, v in inputs.items() if k not in _GIVEN), next(iter(inputs.values())))
    n, _, *size = first.shape
    stage = next((s for s in manifest.schedule.stages if name in (s.graph, s.after)), None)
    kinds, names = [], manifest.graphs[name].outputs
    for output, kind in zip_longest(names, found[: len(names)]):
        decoded = stage is not None and output in READ
        channels = stage.channels[1] - stage.channels[0] if stage is not None and decoded else None
        kinds.append((kind if kind == "float64" and not decoded else "float32", n, channels, *(None for _ in size)))
    return kinds
