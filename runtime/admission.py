"""The exact path of a bundle: `z` to scale indexes and means, on an admitted backend or on the reference."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from ugicm.runtime.backends import Backend
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import AnswerError, BackendError
from ugicm.runtime.graphs.answers import Answers

log = logging.getLogger("ugicm")

Exact = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""An exact path: int32 `z` (n, Nz, h, w) to rows and means of `y`, or None for means that another graph gives."""


def graph_runner(bundle: Bundle, backend: Backend) -> Exact:
    """The `h_s` graph on a backend: int `z` (1, Nz, h, w) to (uint8 scale indexes, float32 means or None)."""
    run = Answers(bundle).load(backend, "h_s")

    def runner(z: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        outputs = run({"z": z.astype(np.float32)})
        rows = np.asarray(outputs[0])
        if rows.max(initial=0) >= bundle.y_tables.rows:
            raise AnswerError(f"{bundle.path}: graph h_s gave row {rows.max()}, which no table has; export it again")
        return rows, outputs[1] if len(outputs) > 1 else None  # means may stay on a device

    return runner


def reproduces(bundle: Bundle, run: Exact) -> bool:
    """Whether every golden vector comes out bit for bit, in its own type."""
    for i in range(sum(name.startswith("z") for name in bundle.golden)):
        for found, name in zip(run(bundle.golden[f"z{i}"].astype(np.int32)), ("scale_index", "mean"), strict=True):
            expected = bundle.golden.get(f"{name}{i}")
            if found is None or expected is None:
                if found is not expected:
                    return False
            elif found.dtype != expected.dtype or not np.array_equal(found, expected):
                return False
    return True


def admitted_runner(bundle: Bundle, backend: Backend) -> Exact:
    """`h_s` on the backend if it reproduces the golden vectors, else on the reference, with one logged line."""
    if bundle.exact is None:
        from ugicm.runtime.exact_reference import factorised_runner

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
