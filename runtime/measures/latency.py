"""How long each stage of encoding and decoding takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ugicm.runtime.files.images import read_image, write_image

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

STAGES = {
    "read": "an image file to pixels",
    "g_a": "pixels to latents y",
    "h_a": "y to hyper-latents z",
    "exact": "z to scale indexes and means, in integers",
    "stages": "scale indexes and means of a codec with context, stage by stage",
    "context": "means refined from the symbols of the anchors",
    "entropy": "symbols to bytes or back, checksum included",
    "g_s": "latents to pixels",
    "write": "pixels to a PNG file on disk",
    "encode": "pixels to the bytes of a .ugic file, all stages",
    "decode": "the bytes of a .ugic file to pixels, one view",
    "both views": "the bytes to the human and the machine view",
}


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one stage over all images and repetitions."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latency:
        p50, p90, p99 = np.percentile(values, (50, 90, 99)).tolist()
        return cls(len(values), float(np.mean(values)), p50, p90, p99)


def milliseconds(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """How long some work took, and what it returned."""
    started = time.perf_counter()
    result = work(*arguments)
    return (time.perf_counter() - started) * 1e3, result


def stages(images: Sequence[np.ndarray], codec: Codec, quality: int, repeat: int) -> dict[str, Latency]:
    """Latencies by stage, over `repeat` rounds of each (H, W, 3) uint8 image."""
    times: dict[str, list[float]] = {name: [] for name in STAGES}
    conditions: list[str | None] = ["human", "machine"] if len(codec.conditions) > 1 else [None]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.png"
        for image in images:
            write_image(path, image)
            codec.decode_views(codec.encode(image, quality), conditions)  # sessions and tables are made once
            for _ in range(repeat):
                times["read"].append(milliseconds(read_image, path)[0])
                spent, data = milliseconds(codec.encode, image, quality)
                _collect(times, codec.timings, "encode", spent)
                spent, view = milliseconds(codec.decode, data)
                _collect(times, codec.timings, "decode", spent)
                if len(conditions) > 1:
                    spent, _ = milliseconds(codec.decode_views, data, conditions)
                    times["both views"].append(spent)
                times["write"].append(milliseconds(write_image, path, view)[0])
    return {name: Latency.of(values) for name, values in times.items() if values}


def _collect(times: dict[str, list[float]], timings: dict[str, float], verb: str, spent: float) -> None:
    times[verb].append(spent)
    for name, value in timings.items():
        times.setdefault(name if name in ("g_a", "h_a", "g_s") else f"{name} ({verb})", []).append(value)
