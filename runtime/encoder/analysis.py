"""Images to latents and symbols, on the networks of a bundle: what an encoding flow asks for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from ugicm.runtime.encoder.rounding import channels, quantise, round_z
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.symbols import checkerboard, gains_of, padded_size

LARGEST_FLOAT = 2**24  # integers up to it are float32


def analysed(networks: Networks, image: np.ndarray, quality: int) -> tuple[Any, np.ndarray]:
    """(y, int32 `z`) of an (H, W, 3) uint8 image."""
    return analysed_together(networks, [image], quality)


def analysed_together(networks: Networks, images: Sequence[np.ndarray], quality: int) -> tuple[Any, np.ndarray]:
    """(y, int32 `z`), (n, …) each, of n images that are of one size once padded."""
    bundle = networks.bundle
    gain = gains_of(bundle.gain, quality)
    y = networks.run("g_a", image=padded(images, bundle.manifest.stride), gain=gain)
    return y, hyper_latents(networks, y, gain)


def padded(images: Sequence[np.ndarray], stride: int) -> np.ndarray:
    """(n, H, W, 3): each repeats its last row and column up to multiples of the stride."""
    height, width = images[0].shape[:2]
    size = padded_size(height, width, stride)
    if len(images) == 1 and images[0].shape[:2] == size:
        return np.ascontiguousarray(images[0])[None]
    stacked = np.empty((len(images), *size, 3), np.uint8)
    for image, whole in zip(images, stacked, strict=True):
        height, width = image.shape[:2]
        whole[:height, :width] = image
        whole[:height, width:] = image[:, -1:]
        whole[height:] = whole[height - 1]
    return stacked


def hyper_latents(networks: Networks, y: np.ndarray, gain: np.ndarray | None = None) -> np.ndarray:
    """int32 (n, Nz, H/64, W/64) `z`; of no channels, at the resolution of `y`, without a hyperprior.

    Args:
        networks: of the codec.
        y: (n, M, H/16, W/16).
        gain: (1, M, 1, 1) in `y`, which codecs of a variable rate take out of it.
    """
    if not networks.bundle.manifest.hyper_channels:
        return np.zeros((y.shape[0], 0, *y.shape[2:]), np.int32)
    exact = networks.bundle.exact
    more = {"gain": gain} if "gain" in networks.bundle.graph("h_a")[0].inputs else {}
    return round_z(networks.run("h_a", y=y, **more), exact.input_limit if exact else LARGEST_FLOAT)


def symbols_of(networks: Networks, y: Any, rows: np.ndarray, mean: Any) -> np.ndarray:
    """int32 symbols of `y` by their table rows and means, all (n, M, H/16, W/16)."""
    arrays = {"y": y, "rows": rows} | ({} if mean is None else {"mean": mean})
    context = networks.bundle.manifest.context is not None
    if context:
        arrays["anchor"] = checkerboard(*y.shape[2:])
    compute = partial(_quantised, networks)
    if networks.area.whole("context", *y.shape[2:]):
        return compute(**arrays)
    return networks.tiler.latents(arrays, compute, context)


def _quantised(
    networks: Networks, y: Any, rows: np.ndarray, mean: Any = None, anchor: np.ndarray | None = None
) -> np.ndarray:
    """int32 symbols of a part of `y`, from arrays of the same size; `anchor` with a context."""
    tables = networks.bundle.y_tables
    symbols = np.empty(y.shape, np.int32)
    for part in channels(y.shape):
        residual = np.array(y[:, part]) if mean is None else y[:, part] - mean[:, part]
        symbols[:, part] = quantise(residual, tables.coded(rows[:, part]))
        if anchor is not None:
            symbols[:, part] *= anchor.astype(np.int32)
    if anchor is None or mean is None:
        return symbols
    # With the symbols of the others at 0, what comes out at the others is their refined mean.
    refined = networks.whole("context", {"symbols": symbols, "mean": mean, "anchor": anchor})
    for part in channels(y.shape):
        found = quantise(y[:, part] - refined[:, part], tables.coded(rows[:, part]))
        np.copyto(symbols[:, part], found, where=anchor == 0)
    return symbols
