"""The answers that graphs of a codec with context have to give."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ugicm.runtime.manifest import Manifest

READ = ("index", "mean", "lrp")
"""What the runtime itself reads: float32."""
_GIVEN = ("even", "gain", "inverse_gain")  # inputs that say nothing of how many files there are


def in_double(manifest: Manifest) -> bool:
    """Whether `h_s` and the stages of a codec with context compute in double precision."""
    return manifest.model.get("stages") == "fp64"


def of_stage(manifest: Manifest, name: str, inputs: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Type and lengths of each output, None where any will do.

    All are (n, C, H, W), or (n, C) of a wavefront; those of `READ` are float32 and have the channels of the stage.
    Whoever reads them, compares H and W with those of the latents: a graph may pack the others, which it hands to
    another graph, in double precision where both compute so.
    """
    assert manifest.schedule is not None
    first = next((v for k, v in inputs.items() if k not in _GIVEN), next(iter(inputs.values())))
    n, _, *size = first.shape
    stage = next((s for s in manifest.schedule.stages if name in (s.graph, s.after)), None)
    handed = "float64" if in_double(manifest) else "float32"
    kinds = []
    for output in manifest.graphs[name].outputs:
        channels = stage.channels[1] - stage.channels[0] if stage is not None and output in READ else None
        kinds.append(("float32" if output in READ else handed, n, channels, *(None for _ in size)))
    return kinds
