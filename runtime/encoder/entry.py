"""What `Codec.encode` does: plain encoding, or a search where an effort or a target asks for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ugicm.runtime.encoder.flow import encoding
from ugicm.runtime.encoder.quality import quality_byte
from ugicm.runtime.flow import Flow
from ugicm.runtime.graphs.run import Networks


def encode(
    networks: Networks,
    answer: Callable[[Flow[bytes]], bytes],
    image: np.ndarray,
    quality: float | None,
    effort: int,
    *,
    target_bpp: float | None = None,
    target_psnr: float | None = None,
    max_bytes: float | None = None,
    tune: str = "psnr",
    watch: Callable[[int, int], None] | None = None,
) -> bytes:
    """The .ugic file of an image; see `ugicm.runtime.codec.Codec.encode` for the arguments and errors."""
    if effort or not (target_bpp is target_psnr is max_bytes is None):
        from ugicm.runtime.effort import search
        from ugicm.runtime.effort.targets import Target

        target = Target.of(quality, target_bpp=target_bpp, target_psnr=target_psnr, max_bytes=max_bytes)
        return search.encode(networks, answer, image, quality, effort, target, tune, watch)
    return answer(encoding(networks.bundle, image, quality_byte(quality, networks.bundle)))
