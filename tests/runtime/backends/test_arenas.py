"""What a large picture needed does not stay with a codec that lives long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.backends.onnxruntime import RUN_OPTIONS


def waves(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.stack([128 + 100 * np.sin(rows / (7 + c) + columns / 11) for c in range(3)], 2).astype(np.uint8)


def test_the_last_tile_of_each_graph_gives_back(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = Codec(codec.bundle, codec.backend)
    tiled.networks.area.work, tiled.networks.area.smallest = 1.2e8, 0
    runs: dict[str, list[bool]] = {}
    whole = tiled.networks.whole

    def noted(graph: str, inputs: dict[str, Any]) -> Any:
        runs.setdefault(graph, []).append(RUN_OPTIONS.get() is not None)
        return whole(graph, inputs)

    monkeypatch.setattr(tiled.networks, "whole", noted)
    picture = waves(500, 490)
    data = tiled.encode(picture, 4)
    np.testing.assert_array_equal(tiled.decode(data), codec.decode(data))
    for graph in ("g_a", "g_s_trunk", "g_s"):
        assert len(runs[graph]) > 2 and runs[graph][-1] and sum(runs[graph]) == 1, (graph, runs[graph])
    assert RUN_OPTIONS.get() is None
