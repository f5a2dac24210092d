"""One file at several optimisation levels and thread counts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ugicm import Codec
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.bundle import Bundle


def check_levels(bundle: Path, codec: Codec, size: tuple[int, int]) -> None:
    """A noise picture of a size, (height, width), comes back within a level from sessions of other options."""
    image = np.random.default_rng(size[0]).integers(0, 256, (*size, 3), np.uint8)
    data = codec.encode(image)
    first = codec.decode(data)
    assert first.shape == image.shape
    opened = Bundle.open(bundle)
    for level, threads in ((LEVELS[-1], 1), (LEVELS[0], 2)):
        other = Codec(opened, OnnxRuntime(threads=threads, level=level))
        assert np.abs(other.decode(data).astype(int) - first).max() <= 1  # and its symbols are those of the checksum
