"""How alike two images are: PSNR and MS-SSIM of 8-bit RGB, in numpy alone."""

from __future__ import annotations

import math

import numpy as np

# Wang, Simoncelli and Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003.
SCALE_WEIGHTS = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
WINDOW = 11
_SIGMA = 1.5
C1 = (0.01 * 255) ** 2
C2 = (0.03 * 255) ** 2
CENTRE = 127.5
_STRIP = 32


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio over all pixels and channels, 10 log10(255^2 / MSE), in dB.

    Args:
        first, second: uint8 (H, W, 3), of one shape.

    Returns:
        dB; infinity for equal images.

    Raises:
        ValueError: other types or shapes.
    """
    _check(first, second)
    difference = first.astype(np.int32) - second
    error = float(np.mean(np.square(difference), dtype=np.float64))
    return 10 * math.log10(255**2 / error) if error else math.inf


def ms_ssim(first: np.ndarray, second: np.ndarray) -> float:
    """Multi-scale structural similarity (Wang et al. 2003), the mean of the three channels.

    Gaussian window of 11x11 pixels, sigma 1.5, where it fits entirely; means of 2x2 pixels between scales, an
    odd last row or column left out; negative structure terms count as 0. Five scales where the shorter side
    has at least 176 pixels; a smaller image uses as many as hold the window, their weights brought to the sum
    of all, and one below 11 pixels a smaller window. Figures of fewer scales do not compare with those of five.

    Args:
        first, second: uint8 (H, W, 3), of one shape.

    Returns:
        0 to 1; 1 for equal images.

    Raises:
        ValueError: other types or shapes.
    """
    _check(first, second)
    side = min(first.shape[:2])
    scales = max(1, min(len(SCALE_WEIGHTS), (side // WINDOW).bit_length()))
    weights = SCALE_WEIGHTS[:scales] * (SCALE_WEIGHTS.sum() / SCALE_WEIGHTS[:scales].sum())
    window = gaussian(min(WINDOW, side - 1 + side % 2))
    # A channel at a time keeps the memory of a large image at a third.
    return float(np.mean([_one_channel(first[..., c], second[..., c], weights, window) for c in range(3)]))


def _one_channel(first: np.ndarray, second: np.ndarray, weights: np.ndarray, window: list[float]) -> float:
    # Centred, so that single precision loses nothing that shows; of all terms only the luminance minds.
    a, b = first.astype(np.float32) - CENTRE, second.astype(np.float32) - CENTRE
    result = 1.0
    for scale, weight in enumerate(weights):
        last = scale == len(weights) - 1
        result *= max(_mean_term(a, b, window, luminance=last), 0.0) ** weight
        if not last:
            a, b = _halve(a), _halve(b)
    return result


def _mean_term(a: np.ndarray, b: np.ndarray, window: list[float], luminance: bool) -> float:
    """Mean over the plane of the structure term, times the luminance term where asked."""
    height, width = (length - len(window) + 1 for length in a.shape)
    total = 0.0
    for top in range(0, height, _STRIP):  # strips stay in the cache
        rows = slice(top, min(top + _STRIP, height) + len(window) - 1)
        x, y = a[rows], b[rows]
        mean_x, mean_y, squares, products = _filter(np.stack([x, y, x * x + y * y, x * y]), window)
        variances = squares - (mean_x**2 + mean_y**2)
        covariance = products - mean_x * mean_y
        term = (2 * covariance + C2) / (variances + C2)
        if luminance:
            mean_x, mean_y = mean_x + CENTRE, mean_y + CENTRE
            term *= (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
        total += float(term.sum(dtype=np.float64))
    return total / (height * width)


def gaussian(size: int) -> list[float]:
    """Weights of a window of so many pixels, their sum 1."""
    window = np.exp(-((np.arange(size) - size // 2) ** 2) / (2 * _SIGMA**2))
    return (window / window.sum()).tolist()


def _filter(planes: np.ndarray, window: list[float]) -> np.ndarray:
    """Separable filter of float32 (..., H, W), without padding: (..., H - n + 1, W - n + 1)."""
    for axis in (-2, -1):
        planes = np.moveaxis(planes, axis, 0)
        length = len(planes) - len(window) + 1
        result = planes[:length] * window[0]
        for i, weight in enumerate(window[1:], 1):
            result += planes[i : i + length] * weight
        planes = np.moveaxis(result, 0, axis)
    return planes


def _halve(plane: np.ndarray) -> np.ndarray:
    even = plane[: plane.shape[0] // 2 * 2, : plane.shape[1] // 2 * 2]
    return (even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2]) / 4


def _check(first: np.ndarray, second: np.ndarray) -> None:
    for image in (first, second):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(f"a uint8 (H, W, 3) image is needed, not {image.dtype} {image.shape}")
    if first.shape != second.shape:
        raise ValueError(f"images of different sizes: {first.shape} and {second.shape}")
