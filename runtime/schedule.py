"""The schedule of a codec with context: which latents are decoded when, from which graph.

A stage decodes some channels of `y` at some positions. Stages stand in decoding order, and each latent belongs to
exactly one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVEN, ODD, ALL, WAVEFRONT = "even", "odd", "all", "wavefront"
POSITIONS: dict[str, tuple[int, ...]] = {EVEN: (0,), ODD: (1,), ALL: (0, 1), WAVEFRONT: (0, 1)}
"""Name → the parities of row + column that it stands for; the last is all in the steps of `ugicm.runtime.wavefront`."""

BAND_BITS = range(6, 21)
BLOCKS = range(64, 65537)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_TAKEN = frozenset({"g_a", "h_a", "h_s", "h_s_mean", "context", "g_s", "g_s_trunk", "condition"})
GIVEN = frozenset({"z", "y_hat", "even", "gain", "inverse_gain"})
"""What graphs of stages may read before any has run."""
_KEYS = {"band_bits", "block", "stages"}
_STAGE_KEYS = {"graph", "channels", "positions", "after"}


@dataclass(frozen=True)
class Stage:
    """One step of decoding.

    Attributes:
        graph: gives "index" and "mean", (n, b - a, H, W) float32, from what is known.
        channels: (a, b): the stage decodes channels a..b - 1 of `y`.
        positions: "even" where row + column is even, "odd", "all", or "wavefront", which is all in many steps.
        after: the graph whose output "lrp", (n, b - a, H, W), is added to the decoded latents (latent residual
            prediction), or None.
    """

    graph: str
    channels: tuple[int, int]
    positions: str
    after: str | None = None


@dataclass(frozen=True)
class Schedule:
    """The stages of a codec and the band of its guarded rounding.

    Attributes:
        band_bits: scale indexes of two machines differ by at most 2^-band_bits rows.
        block: positions that share a shift.
        stages: in decoding order.
    """

    band_bits: int
    block: int
    stages: tuple[Stage, ...]

    @property
    def band(self) -> float:
        """In rows of the scale table."""
        return 2.0**-self.band_bits

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of all graphs of the stages, in the order in which a decoder runs them."""
        return tuple(name for s in self.stages for name in (s.graph, s.after) if name is not None)

    def check(self, latent_channels: int) -> None:
        """Raises ValueError with a short reason unless every latent is decoded exactly once, within all limits."""
        _whole(latent_channels, range(1, 4097), "latent_channels")
        _whole(self.band_bits, BAND_BITS, "band_bits")
        _whole(self.block, BLOCKS, "block")
        if not 1 <= len(self.stages) <= 2 * latent_channels:
            raise ValueError("a schedule has 1 to 2 stages a channel")
        seen = set[str]()
        for name in self.graphs:
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
                raise ValueError(f"{str(name)[:64]!r} is no name of a stage's graph")
            if name in seen:
                raise ValueError(f"graph {name} stands in the schedule twice")
            seen.add(name)
        decoded = [[False] * latent_channels for _ in range(2)]
        for stage in self.stages:
            if len(stage.channels) != 2:
                raise ValueError(f"stage {stage.graph}: channels are a first and an end")
            first, end = (
                _whole(c, range(latent_channels + 1), f"stage {stage.graph}: channel") for c in stage.channels
            )
            if first >= end:
                raise ValueError(f"stage {stage.graph} decodes no channel")
            if not isinstance(stage.positions, str) or stage.positions not in POSITIONS:
                raise ValueError(f"stage {stage.graph}: positions are {', '.join(POSITIONS)}")
            for parity in POSITIONS[stage.positions]:
                if any(decoded[parity][first:end]):
                    raise ValueError(f"stage {stage.graph} decodes latents that were decoded before")
                decoded[parity][first:end] = [True] * (end - first)
        if not all(map(all, decoded)):
            raise ValueError("some latents are never decoded")

    def check_graphs(self, graphs: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        """Raises ValueError unless each graph, by its inputs and outputs, reads known arrays and gives a stage's."""
        known = GIVEN | set(graphs["h_s"][1])
        steps = [("h_s", set[str](), set[str]())]
        for stage in self.stages:
            more = {"neighbours"} if stage.positions == WAVEFRONT else set()
            steps.append((stage.graph, {"index", "mean"}, more))
            if stage.after is not None:
                steps.append((stage.after, {"lrp"}, more))
        for name, needed, more in steps:
            inputs, outputs = graphs[name]
            known |= more
            if not set(inputs) <= known:
                raise ValueError(f"graph {name} reads what no graph before it gives")
            if len(set(outputs)) < len(outputs) or not needed <= set(outputs) or GIVEN & set(outputs):
                raise ValueError(f"graph {name} gives other outputs than a stage's")
            known |= set(outputs)

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the manifest holds them."""
        stages = [
            {"graph": s.graph, "channels": list(s.channels), "positions": s.positions, "after": s.after}
            for s in self.stages
        ]
        return {"band_bits": self.band_bits, "block": self.block, "stages": stages}

    @classmethod
    def from_json(cls, values: Any, latent_channels: int) -> Schedule:
        """The inverse of `to_json`, of values that anybody may have written.

        Raises:
            ValueError: not a schedule of a codec with so many latent channels; the message is a short reason.
        """
        if not isinstance(values, Mapping) or set(values) != _KEYS or not isinstance(values["stages"], list):
            raise ValueError("a schedule is an object of band_bits, block and stages")
        if len(values["stages"]) > 2 * latent_channels:
            raise ValueError("a schedule has 1 to 2 stages a channel")
        stages = []
        for stage in values["stages"]:
            if not isinstance(stage, Mapping) or set(stage) != _STAGE_KEYS or not isinstance(stage["channels"], list):
                raise ValueError("a stage is an object of graph, channels, positions and after")
            if not isinstance(stage["graph"], str):
                raise ValueError("a stage's graph is a name")
            stages.append(Stage(stage["graph"], tuple(stage["channels"]), stage["positions"], stage["after"]))
        schedule = cls(values["band_bits"], values["block"], tuple(stages))
        schedule.check(latent_channels)
        return schedule


def _whole(value: Any, allowed: range, name: str) -> int:
    if type(value) is not int or value not in allowed:
        raise ValueError(f"{name} must be a whole number of {allowed[0]} to {allowed[-1]}")
    return value
