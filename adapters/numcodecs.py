"""A numcodecs codec, lossy, for chunks of zarr arrays that hold pictures; numcodecs finds it by its entry point.

zarr.create_array("pictures.zarr", shape=(1000, 512, 768, 3), chunks=(1, 512, 768, 3), dtype="u1", zarr_format=2,
                  compressors=numcodecs.get_codec({"id": "ugicm", "quality": 4}))
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_contiguous_ndarray, ndarray_copy

from ugicm.adapters import opened


class Ugicm(Codec):
    """One picture a chunk, uint8 of shape (…, H, W, 3) whose leading sides are 1; decoded by the shipped codec.

    Attributes:
        quality, condition: as for `ugicm.Codec`; None are its defaults.
    """

    codec_id = "ugicm"

    def __init__(self, quality: int | None = None, condition: str | float | None = None) -> None:
        self.quality = quality
        self.condition = condition

    def encode(self, buf: Any) -> bytes:
        """Raises ImageError: the chunk is no picture."""
        array = np.asarray(buf)
        return opened.open_bundle().encode(array[(0,) * (array.ndim - 3)] if array.ndim > 3 else array, self.quality)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Raises UgicError: the chunk is damaged."""
        return ndarray_copy(opened.decode(ensure_contiguous_ndarray(buf).tobytes(), self.condition), out)
