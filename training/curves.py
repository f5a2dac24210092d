"""Rate-distortion curves: JPEG and WebP files by Pillow, means over images, rate differences."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

JPEG_QUALITIES = (3, 5, 7, 9, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90, 95)
WEBP_QUALITIES = (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95)
LADDERS = {"JPEG": JPEG_QUALITIES, "WebP": WEBP_QUALITIES}

Curve = list[dict[str, float]]


def pillow_file(image: np.ndarray, kind: str, quality: int) -> bytes:
    """A "JPEG" (optimised Huffman tables) or "WebP" (method 6) file of an (H, W, 3) uint8 array."""
    out = io.BytesIO()
    options = {"optimize": True} if kind == "JPEG" else {"method": 6}
    Image.fromarray(image).save(out, kind, quality=quality, **options)
    return out.getvalue()


def pillow_picture(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8 of an image file's bytes."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def bits_per_pixel(data: bytes, image: np.ndarray) -> float:
    """Of a whole file."""
    return len(data) * 8 / (image.shape[0] * image.shape[1])


def matched_setting(images: Sequence[np.ndarray], kind: str, bpp: float) -> int:
    """The lowest setting, 1 to 95, whose mean rate over the images is at least `bpp`: the other codec never has less.

    Setting 1 where even that takes more; 95 where nothing reaches the rate.
    """
    low, high = 1, 95
    while low < high:
        middle = (low + high) // 2
        mean = np.mean([bits_per_pixel(pillow_file(image, kind, middle), image) for image in images])
        low, high = (low, middle) if mean >= bpp else (middle + 1, high)
    return low


def mean_curve(points: dict[int, list[tuple[float, float, float]]]) -> Curve:
    """Means over the images of (bpp, PSNR in dB, MS-SSIM) at each setting, by rate."""
    curve = []
    for setting, values in points.items():
        bpp, db, similarity = np.mean(values, axis=0)
        curve.append({"setting": setting, "bpp": float(bpp), "psnr": float(db), "ms_ssim": float(similarity)})
    return sorted(curve, key=lambda p: p["bpp"])


def at_rate(curve: Curve, bpp: float, key: str = "psnr") -> float | None:
    """A curve's value at a rate, linear in the logarithm of the rate; None outside the curve."""
    rates = [p["bpp"] for p in curve]
    if not rates[0] <= bpp <= rates[-1]:
        return None
    return float(np.interp(np.log(bpp), np.log(rates), [p[key] for p in curve]))


def bd_rate(anchor: Curve, other: Curve) -> float | None:
    """Bjøntegaard's average rate difference in per cent of `other` against `anchor`, at equal PSNR.

    G. Bjøntegaard, VCEG-M33 (2001), with piecewise cubic (PCHIP) interpolation as in JCTVC-B055. None where the curves
    have fewer than two points or no PSNR in common.
    """
    from scipy.interpolate import PchipInterpolator

    curves = []
    for curve in (anchor, other):
        if len(curve) < 2:
            return None
        db, rate = zip(*sorted((p["psnr"], np.log(p["bpp"])) for p in curve), strict=True)
        curves.append((np.array(db), np.array(rate)))
    low = max(c[0][0] for c in curves)
    high = min(c[0][-1] for c in curves)
    if low >= high:
        return None
    areas = [PchipInterpolator(*c).integrate(low, high) for c in curves]
    return float((np.exp((areas[1] - areas[0]) / (high - low)) - 1) * 100)
