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


def test_after_a_large_picture_each_graph_gives_back(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    tiled = Codec(codec.bundle, codec.backend)
    tiled.networks.area.work, tiled.networks.area.smallest = 1.2e8, 0
    runs: dict[str, list[tuple[bool, int]]] = {}
    whole = tiled.networks.whole

    def noted(graph: str, inputs: dict[str, Any]) -> Any:
        values = sum(array.size for array in inputs.values())
        runs.setdefault(graph, []).append((RUN_OPTIONS.get() is not None, values))
        return whole(graph, inputs)

    monkeypatch.setattr(tiled.networks, "whole", noted)
    picture = waves(500, 490)
    data = tiled.encode(picture, 4)
    np.testing.assert_array_equal(tiled.decode(data), codec.decode(data))
    assert len(runs["g_a"]) > 2 and len(runs["g_s"]) > 2
    # In the last run, and in one so small that its answer, which stays until it is read, holds little.
    for graph, times in (("g_a", 1), ("h_a", 1), ("context", 2), ("g_s_trunk", 1), ("g_s", 1)):
        given, values = zip(*runs[graph], strict=True)
        assert given[-1] and sum(given) == times and values[-1] == min(values), (graph, runs[graph])
    assert RUN_OPTIONS.get() is None
