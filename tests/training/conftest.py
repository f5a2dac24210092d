"""What the tests of training share: pictures, and a tiny classifier in the format of the ImageNet encoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of 100×90 with a bright rectangle each: two `keep_…`, one `skip_…`."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        ramp = np.linspace(0, 120, 100)[:, None, None] * rng.random(3)
        pixels = np.broadcast_to(ramp, (100, 90, 3)).copy()
        pixels[20 + i : 60, 30:70] = (230, 40 + 60 * i, 20)
        pixels += rng.normal(0, 3, pixels.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{'skip' if i == 2 else 'keep'}_{i}.png")
    return folder


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A tiny classifier: convolution, depthwise convolution, addition, pooling, full connection."""
    rng = np.random.default_rng(1)
    ops = [
        {"op": "conv", "w": "w0", "b": "b0", "stride": 2, "same": True, "act": 3, "in": [0], "out": 1},
        {"op": "dw", "w": "w1", "b": "b1", "stride": 1, "same": True, "act": 1, "in": [1], "out": 2},
        {"op": "add", "act": 0, "in": [1, 2], "out": 3},
        {"op": "gap", "act": 0, "in": [3], "out": 4},
        {"op": "fc", "w": "w2", "b": "b2", "act": 0, "in": [4], "out": 5},
    ]
    graph = json.dumps({"input": 0, "in_mul": 2.0, "in_add": -1.0, "ops": ops}).encode()
    shapes = {"w0": (4, 3, 3, 3), "b0": (4,), "w1": (4, 1, 3, 3), "b1": (4,), "w2": (6, 4), "b2": (6,)}
    arrays = {name: rng.normal(size=shape).astype(np.float16) for name, shape in shapes.items()}
    path = tmp_path / "teacher.npz"
    np.savez(path, graph=np.frombuffer(graph, np.uint8), **arrays)
    return path
