"""Inputs of every graph of a bundle, as they come out of one another: what device graphs are compared on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ugicm.calibration.int8.command import level_for
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.encoder.analysis import LARGEST_FLOAT
from ugicm.runtime.errors import BundleError
from ugicm.runtime.flow import drive
from ugicm.runtime.schedule import Stage
from ugicm.runtime.staged import Latents

Run = Callable[..., list[Any]]
"""Runs a graph of the bundle, by name, on inputs by name; remembers these."""


def sample_inputs(bundle: Bundle, height: int = 192, width: int = 256) -> dict[str, dict[str, np.ndarray]]:
    """Inputs of every graph of the bundle as they come out of one another, from a synthetic image.

    A bundle of the decoder starts at golden hyper-latents; its symbols are 0, or golden ones where it has stages.
    """
    m, backend = bundle.manifest, OnnxRuntime(level=level_for(bundle.manifest.precision))
    inputs: dict[str, dict[str, np.ndarray]] = {}

    def run(name: str, **values: np.ndarray) -> list[np.ndarray]:
        inputs[name] = {key: value.copy() for key, value in values.items()}
        return backend.load(bundle.graph(name)[1], name)(values)

    rows, columns = (-(-side // m.stride) for side in (height, width))
    middle = slice((m.qualities - 1) // 2, (m.qualities - 1) // 2 + 1)
    y = z = None
    if "g_a" in m.graphs:
        image = coloured_noise(rows * m.stride, columns * m.stride)
        y = run("g_a", image=image[None], gain=bundle.gain[middle])[0]
    if "h_a" in m.graphs:
        assert y is not None
        limit = bundle.exact.input_limit if bundle.exact else LARGEST_FLOAT
        known = {"y": y, "gain": bundle.gain[middle]}  # of a variable rate, it reads both
        z = np.clip(np.rint(run("h_a", **{name: known[name] for name in m.graphs["h_a"].inputs})[0]), -limit, limit)
    elif m.hyper_channels:
        z = bundle.golden["z1" if m.schedule else "z2"].astype(np.float32)
        rows, columns = z.shape[2:]
    if m.schedule is None:
        factor = m.stride // m.latent_stride
        y_hat = _latents(bundle, y, z, (1, m.latent_channels, rows * factor, columns * factor), run)
    else:
        assert z is not None
        y_hat = _staged_latents(bundle, y, z, run)
    if "g_s" in m.graphs:
        shared = {"y_hat": y_hat, "inverse_gain": bundle.inverse_gain[middle]}
        if "g_s_trunk" in m.graphs:
            shared = {"features": run("g_s_trunk", **shared)[0]}
        if m.conditions:
            shared["condition"] = bundle.condition_vectors[list(m.conditions)[-1]]
        run("g_s", **shared)
    if "condition" in m.graphs:
        run("condition", beta=np.asarray([0.5], np.float32))
    if missing := {name for name in m.graphs if "." not in name} - set(inputs):
        raise BundleError(f"{bundle.path}: nothing is known of graph {min(missing)}; export the bundle again")
    return inputs


def _latents(
    bundle: Bundle, y: np.ndarray | None, z: np.ndarray | None, shape: tuple[int, ...], run: Run
) -> np.ndarray:
    """`y_hat` of this shape by the exact path and the context."""
    mean = None
    if bundle.exact is not None:
        _, *means = run("h_s", z=z)
        mean = means[0] if means else run("h_s_mean", z=z)[0] if "h_s_mean" in bundle.manifest.graphs else None
    if y is None:
        y = np.zeros(shape, np.float32) if mean is None else mean
    symbols = np.rint(y if mean is None else y - mean).astype(np.float32)
    if "context" not in bundle.manifest.graphs:
        return symbols if mean is None else symbols + mean
    board = (np.add.outer(np.arange(shape[2]), np.arange(shape[3])) + 1) % 2
    found: np.ndarray = run("context", symbols=symbols, mean=mean, anchor=board.astype(np.float32)[None, None])[0]
    return found


def _staged_latents(bundle: Bundle, y: np.ndarray | None, z: np.ndarray, run: Run) -> np.ndarray:
    """`y_hat` of a codec with a schedule."""
    latents = Latents(bundle, z, (bundle.manifest.qualities + 1) // 2)

    def coded(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
        if y is None:
            return latents.of(stage, bundle.golden["symbols1"]).astype(np.int32)
        return np.rint(latents.of(stage, y) - mean).astype(np.int32)

    asking = latents.decode(coded, lambda graph, inputs: (graph, inputs))
    drive(asking, lambda asked: run(asked[0], **asked[1]))  # type: ignore[index]
    return latents.y_hat


def coloured_noise(height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 with the 1/f spectrum of photographs, always the same."""
    rng = np.random.default_rng(5)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    noise = np.fft.rfft2(rng.normal(size=(4, height, width))) / frequency
    grey, *colours = np.fft.irfft2(noise, s=(height, width))
    planes = np.stack([grey + 0.3 * colour for colour in colours], -1)
    return np.clip(128 + 50 * planes / planes.std(), 0, 255).astype(np.uint8)
