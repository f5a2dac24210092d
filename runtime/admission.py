"""The exact path of a bundle: `z` to scale indexes and means, on an admitted backend or on the reference."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from ugicm.runtime.backends import Backend
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError, BundleError

log = logging.getLogger("ugicm")

Exact = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""An exact path: int32 `z` (n, Nz, h, w) to rows and means of `y`, or None for means that another graph gives."""


def graph_runner(bundle: Bundle, backend: Backend, graph: str = "h_s") -> Exact:
    """The `h_s` graph on a backend: int `z` (1, Nz, h, w) to (uint8 scale indexes, float32 means or None)."""
    entry, model = bundle.graph(graph)
    run = backend.load(model, graph)

    def runner(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        outputs = run({entry.inputs[0]: z.astype(np.float32)})
        return np.asarray(outputs[0]), outputs[1] if len(outputs) > 1 else None  # means may stay on a device

    return runner


def factorised_runner(channels: int) -> Exact:
    """The stand-in for `h_s` in a codec without a hyperprior: the row of a symbol is its channel, the mean 0.

    It reads of `z`, which has no channels there, the size alone.
    """
    rows = np.arange(channels, dtype=np.uint16)[:, None, None]

    def runner(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return np.broadcast_to(rows, (z.shape[0], channels, *z.shape[2:])), None

    return runner


def reproduces(bundle: Bundle, run: Exact) -> bool:
    """Whether every golden vector comes out bit for bit.

    Raises:
        BundleError: the bundle has no golden vectors.
    """
    golden = bundle.golden
    count = sum(name.startswith("z") for name in golden)
    if not count:
        raise BundleError(f"{bundle.path}: has no golden vectors; export the bundle again")
    for i in range(count):
        scale_index, means = run(golden[f"z{i}"].astype(np.int32))
        if not np.array_equal(scale_index, golden[f"scale_index{i}"]):
            return False
        expected = golden.get(f"mean{i}")
        if expected is not None and (means is None or not np.array_equal(means, expected)):
            return False
    return True


def admitted_runner(bundle: Bundle, backend: Backend) -> Exact:
    """`h_s` on the backend if it reproduces the golden vectors, else on the reference, with one logged line."""
    if bundle.exact is None:
        return factorised_runner(bundle.manifest.latent_channels)
    try:
        run = graph_runner(bundle, backend)
        if reproduces(bundle, run):
            return run
        reason = "it does not reproduce the golden vectors"
    except BackendError as error:
        reason = str(error)
    log.warning("%s is not admitted for the exact path (%s); it runs on the reference", backend.name, reason)
    from ugicm.runtime.exact_reference import reference_runner

    return reference_runner(bundle.exact)
