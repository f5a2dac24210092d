"""How an image is encoded, as a generator that asks; see `ugicm.runtime.flow`.

image → `g_a` → y → `h_a` → z → exact path → rows, means → context → symbols → range coder → bitstream
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ugicm.runtime import bitstream
from ugicm.runtime.bitstream import MAX_PIXELS, MAX_SIDE, Bitstream
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder import analysis
from ugicm.runtime.encoder.container import pack
from ugicm.runtime.encoder.request import Write
from ugicm.runtime.errors import ImageError
from ugicm.runtime.flow import Flow, asking
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.symbols import padded_size, z_first, z_rows

SYMBOLS_A_SUBSTREAM = 131072


def encoding(bundle: Bundle, image: np.ndarray, quality: int) -> Flow[bytes]:
    """An (H, W, 3) uint8 image to the bytes of a .ugic file of a legal quality.

    Raises:
        ImageError: not such an array.
    """
    height, width = check_image(image)
    size = padded_size(height, width, bundle.manifest.stride)
    y, z = yield asking(size, quality)(analysis.analysed, image, options=(quality,))
    return (yield from writing(bundle, y, z, quality, height, width))


def writing(bundle: Bundle, y: Any, z: np.ndarray, quality: int, height: int, width: int) -> Flow[bytes]:
    """Latents `y`, after the gain, and int32 `z` of an image of a size to the bytes of a .ugic file."""
    run = asking(padded_size(height, width, bundle.manifest.stride), quality)
    guard = None
    if bundle.manifest.schedule is not None:
        from ugicm.runtime import staged
        from ugicm.runtime.graphs import stages

        symbols, y_stream, guard = yield from staged.encode(bundle, np.asarray(y), z, quality, stages.asking(run))
        y_streams = [y_stream]
    else:
        rows, mean = yield run(Networks.scales_and_means, z)
        symbols = yield run(analysis.symbols_of, y, rows, mean)
        del y, mean  # large
        y_streams = yield Write("y", symbols, rows, max(1, math.ceil(symbols.size / SYMBOLS_A_SUBSTREAM)))
    first = z_first(bundle.z_tables, bundle.manifest.hyper_channels, quality)
    (z_stream,) = yield Write("z", z, z_rows(z.shape, first), 1)
    checksum = bitstream.symbol_checksum(z, symbols)
    return pack(Bitstream(bundle.codec_id, quality, width, height, z_stream, tuple(y_streams), checksum, guard))


def check_image(image: np.ndarray) -> tuple[int, int]:
    """The height and width of an image. Raises ImageError: not one that can be encoded."""
    if not isinstance(image, np.ndarray) or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        found = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
        raise ImageError(f"an image must be an (H, W, 3) uint8 array; this is {found}")
    height, width = image.shape[:2]
    if height * width > MAX_PIXELS:
        raise ImageError(f"an image may have {MAX_PIXELS} pixels; this has {width}×{height}")
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ImageError(f"an image's sides must be 1 to {MAX_SIDE} pixels; this has {width}×{height}")
    return height, width
