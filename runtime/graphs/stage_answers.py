"""The answers that graphs of a codec with context have to give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ugicm.runtime.manifest import Manifest

_GIVEN = ("even", "gain", "inverse_gain")  # inputs that say nothing of how many files there are


def of_stage(manifest: Manifest, name: str, inputs: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Type and lengths of each output, None where any will do.

    All are float32 (n, C, H, W), or (n, C) of a wavefront; "index", "mean" and "lrp" have the channels of the stage.
    Whoever reads these three, compares H and W with those of the latents: a graph may pack the others.
    """
    assert manifest.schedule is not None
    first = next((v for k, v in inputs.items() if k not in _GIVEN), next(iter(inputs.values())))
    n, _, *size = first.shape
    stage = next((s for s in manifest.schedule.stages if name in (s.graph, s.after)), None)
    kinds = []
    for output in manifest.graphs[name].outputs:
        decoded = stage is not None and output in ("index", "mean", "lrp")
        channels = stage.channels[1] - stage.channels[0] if stage is not None and decoded else None
        kinds.append(("float32", n, channels, *(None for _ in size)))
    return kinds
