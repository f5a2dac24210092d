"""Time a megapixel and memory, from small pictures to large ones."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ugicm.runtime.measures.latency import milliseconds
from ugicm.runtime.measures.pictures import generated_image
from ugicm.runtime.processes.memory import keep_freed
from ugicm.runtime.processes.pool import alone

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SIZES = (0.1, 0.4, 1.0, 2.0, 6.0, 12.0, 24.0)  # megapixels


def scaling(bundle: Path | None, quality: int, threads: int | None, repeat: int) -> Iterator[dict[str, float]]:
    """`one_size` of each of `SIZES`, in a process of its own: peaks never go down. Raises as that; DiedError."""
    for megapixels in SIZES:
        yield alone(one_size, bundle, megapixels, quality, threads, repeat)


def peak_megabytes() -> float:
    """The most memory that this process has had so far; NaN where the system does not say."""
    if resource is None:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def one_size(
    bundle: Path | None, megapixels: float, quality: int, threads: int | None, repeat: int
) -> dict[str, float]:
    """Milliseconds a megapixel and memory at one size, of this process.

    The first run, which takes its memory from the system, stands apart from the median of the others. CPU milliseconds,
    of all threads, tell on a busy machine what a calm one would take.
    """
    from ugicm.runtime.codec import Codec

    keep_freed()  # as encode and decode do
    codec = Codec.from_bundle(bundle, threads=threads)
    # Multiples of the stride: else what is added to reach one would be measured, a fifth of 0.4 megapixels.
    stride = codec.bundle.manifest.stride
    width = max(1, round((megapixels * 1.5e6) ** 0.5 / stride)) * stride
    image = generated_image(max(1, round(megapixels * 1e6 / width / stride)) * stride, width)
    codec.decode(codec.encode(generated_image(64, 64), quality))
    base = peak_megabytes()
    exactly = image.shape[0] * image.shape[1] / 1e6
    spent = []
    for _ in range(1 + max(3, min(repeat, int(8 / megapixels)))):
        clock = [time.process_time()]
        encode, data = milliseconds(codec.encode, image, quality)
        clock.append(time.process_time())
        decode, _ = milliseconds(codec.decode, data)
        clock.append(time.process_time())
        spent.append((encode, decode, *(1e3 * np.diff(clock))))
    each = np.array(spent) / exactly
    later = np.median(each[1:], 0)
    return {
        "megapixels": exactly,
        "encode ms/MP": float(later[0]),
        "decode ms/MP": float(later[1]),
        "encode CPU ms/MP": float(later[2]),
        "decode CPU ms/MP": float(later[3]),
        "first encode ms/MP": float(each[0, 0]),
        "first decode ms/MP": float(each[0, 1]),
        "peak MB": peak_megabytes(),
        "before MB": base,
    }
