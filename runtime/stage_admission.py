"""Whether a backend may run the stages of a codec with context: its scale indexes against golden ones, by tolerance.

Golden vectors are what PyTorch says in float64. A backend is admitted where no index is farther from them than a
quarter of the band: two admitted machines then differ by at most half of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ugicm.runtime.backends import Graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError
from ugicm.runtime.schedule import Stage
from ugicm.runtime.staged import Latents

SHARE = 0.25
"""Of the band: how far an index may lie from the golden one."""


def deviation(bundle: Bundle, graph: Callable[[str], Graph]) -> float:
    """The largest |s - golden s| in rows over all golden vectors, each decoded stage by stage from its symbols.

    Args:
        bundle: with a schedule.
        graph: gives a graph of the bundle, loaded.

    Raises:
        BackendError, AnswerError: a graph fails.
    """
    golden = bundle.golden
    largest = 0.0
    for i in range(sum(name.startswith("z") for name in golden)):
        latents = Latents(bundle, golden[f"z{i}"], int(golden.get(f"quality{i}", 1)))
        symbols, index = golden[f"symbols{i}"].astype(np.int32), golden[f"index{i}"].astype(np.float64)

        def coded(
            stage: Stage,
            found: np.ndarray,
            mean: np.ndarray,
            latents: Latents = latents,
            symbols: np.ndarray = symbols,
            index: np.ndarray = index,
        ) -> np.ndarray:
            nonlocal largest
            apart = np.abs(found.astype(np.float64) - latents.of(stage, index)).max(initial=0.0)
            largest = max(largest, float(apart) if np.isfinite(apart) else np.inf)
            return latents.of(stage, symbols)

        asking = latents.decode(coded, lambda name, inputs: (name, inputs))
        try:
            request = next(asking)
            while True:
                name, inputs = request
                request = asking.send(graph(name)(inputs))
        except StopIteration:
            pass
    return largest


def admit(bundle: Bundle, backend: str, graph: Callable[[str], Graph]) -> float:
    """The deviation of a backend that may run the stages.

    Raises:
        BackendError: it may not.
        AnswerError: see `deviation`.
    """
    assert bundle.manifest.schedule is not None
    band = bundle.manifest.schedule.band
    found = deviation(bundle, graph)
    if found > SHARE * band:
        raise BackendError(
            f"{backend} may not decode stages of {bundle.path.name}: its scale indexes are up to {found:.2g} rows from "
            f"the golden ones, {SHARE * band:.2g} are allowed; use backend onnxruntime, or fp32 without TF32"
        )
    return found
