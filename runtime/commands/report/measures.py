"""What `ugicm report` shows of an image, measured: bits by latent position, rate-distortion points, milliseconds."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, features

from ugicm.runtime.measures.held import held
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.tables import TOTAL, Tables

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

JPEG_QUALITIES = (3, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90)
WEBP_QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90)
LARGEST_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels, what the formats' libraries hold


@dataclass(frozen=True)
class LatentBits:
    """The bits of a file's symbols, by the frequencies of the tables that coded them.

    Attributes:
        y: float64 (H', W'), bits of all channels at each position of `y`, a square of `stride` pixels.
        z: float64 (H", W"), the same of `z`; of no size where there is no hyperprior.
        channels: float64 (M,), bits of each channel of `y`.
        stride: pixels a side of a position of `y`.
        guards: bits of the shifts of guarded rounding; 0 for codecs without.
        rest: bits of the file that nothing of these accounts for: header, checksums, and what ends each substream.
    """

    y: np.ndarray
    z: np.ndarray
    channels: np.ndarray
    stride: int
    guards: float
    rest: float

    def per_pixel(self) -> np.ndarray:
        """float64 (H', W'): bits a pixel at each position of `y`, those of `z` spread evenly over their squares."""
        total = self.y.copy()
        if self.z.size:
            factor = self.y.shape[0] // self.z.shape[0]
            total += np.kron(self.z, np.full((factor, factor), factor**-2.0))
        return total / self.stride**2


@dataclass(frozen=True)
class Point:
    """One setting of a codec: `bpp`, `psnr` in dB (infinite where nothing was lost)."""

    setting: int
    bpp: float
    psnr: float


@dataclass(frozen=True)
class Times:
    """Medians of milliseconds by stage over `runs` runs: encode, decode of one view, decode of all views."""

    encode: dict[str, float]
    decode: dict[str, float]
    decode_all: dict[str, float]
    runs: int


def latent_bits(codec: Codec, data: bytes, name: str = "<bytes>") -> LatentBits:
    """Where the bits of a .ugic file of this codec went.

    A coded symbol costs -log2(frequency / 2^24) bits, an escaped one those of the escape entry and the bytes of its
    varint (docs/bitstream.md); a symbol of a skipped row costs nothing.

    Raises:
        What `Codec.decode` raises for damaged data.
    """
    found, bundle = held(codec, data, name), codec.bundle
    z_bits = np.zeros(found.z.shape[2:] if found.z.shape[1] else (0, 0))
    for channel in range(found.z.shape[1]):
        z_bits += symbol_bits(found.z[0, channel], found.z_rows[0, channel], bundle.z_tables)
    y_bits, channels = np.zeros(found.y.shape[2:]), np.zeros(found.y.shape[1])
    for channel in range(found.y.shape[1]):  # a channel at a time bounds the memory
        bits = symbol_bits(found.y[0, channel], found.y_rows[0, channel], bundle.y_tables)
        y_bits += bits
        channels[channel] = bits.sum()
    rest = 8 * len(data) - float(y_bits.sum()) - float(z_bits.sum()) - found.guards
    return LatentBits(y_bits, z_bits, channels, bundle.manifest.latent_stride, found.guards, rest)


def symbol_bits(symbols: np.ndarray, rows: np.ndarray, tables: Tables) -> np.ndarray:
    """Bits of each symbol (int32 of any shape) in its table row (integers of that shape): float64 of that shape."""
    lengths = tables.lengths.astype(np.int64)
    starts, escape = (np.cumsum(lengths) - lengths)[rows], lengths[rows] - 1
    index = symbols.astype(np.int64) - tables.offsets[rows]
    outside = (index < 0) | (index >= escape)
    entry = np.clip(starts + np.where(outside, escape, index), 0, max(0, tables.frequencies.size - 1))
    bits = math.log2(TOTAL) - np.log2(tables.frequencies[entry])
    if outside.any():
        wide = symbols.astype(np.int64)
        zigzag = np.where(wide < 0, -2 * wide - 1, 2 * wide)
        septets = 1 + sum((zigzag >= 1 << 7 * i).astype(np.int64) for i in range(1, 5))
        bits = bits + np.where(outside, 8 * septets, 0)
    return np.where(lengths[rows] > 0, bits, 0.0)


def codec_points(codec: Codec, pixels: np.ndarray) -> dict[str, list[Point]]:
    """A point for each quality, by view ("" for the only one), from whole files of uint8 (H, W, 3) `pixels`."""
    conditions = codec.conditions or (None,)
    points: dict[str, list[Point]] = {condition or "": [] for condition in conditions}
    for quality in range(1, codec.qualities + 1):
        data = codec.encode(pixels, quality)
        for condition, view in zip(conditions, codec.decode_views(data, conditions), strict=True):
            points[condition or ""].append(Point(quality, _bpp(len(data), pixels), psnr(pixels, view)))
    return points


def pillow_points(pixels: np.ndarray, form: str, most_bpp: float) -> list[Point]:
    """JPEG (4:2:0, optimised Huffman tables) or WebP (method 6) by Pillow, up to the first point above `most_bpp`.

    Empty where this Pillow lacks the format or the format cannot hold the image.
    """
    if max(pixels.shape) > LARGEST_SIDE[form] or not features.check({"JPEG": "jpg", "WEBP": "webp"}[form]):
        return []
    options = {"optimize": True, "subsampling": "4:2:0"} if form == "JPEG" else {"method": 6}
    image, points = Image.fromarray(pixels), []
    for quality in JPEG_QUALITIES if form == "JPEG" else WEBP_QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, form, quality=quality, **options)
        decoded = np.asarray(Image.open(buffer).convert("RGB"))
        points.append(Point(quality, _bpp(buffer.tell(), pixels), psnr(pixels, decoded)))
        if points[-1].bpp > most_bpp:
            break
    return points


def times_of(codec: Codec, pixels: np.ndarray, quality: int, runs: int) -> Times:
    """Times `runs` encodes and decodes of uint8 (H, W, 3) `pixels`, by a codec that has run at this size before."""
    conditions = codec.conditions or (None,)
    encode: list[dict[str, float]] = []
    one: list[dict[str, float]] = []
    every: list[dict[str, float]] = []
    for _ in range(runs):
        data = codec.encode(pixels, quality)
        encode.append(dict(codec.timings))
        for views, times in ((conditions[:1], one), (conditions, every)):
            codec.decode_views(data, views)
            times.append(dict(codec.timings))
    return Times(_medians(encode), _medians(one), _medians(every), runs)


def _medians(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {stage: median(run.get(stage, 0.0) for run in runs) for stage in runs[0]}


def _bpp(size: int, pixels: np.ndarray) -> float:
    return 8 * size / (pixels.shape[0] * pixels.shape[1])
