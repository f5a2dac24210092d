"""The graphs of a codec with context, once their backend is admitted."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.stage_admission import admit


def staged(networks: Networks, inputs: dict[str, np.ndarray], graph: str) -> list[np.ndarray]:
    """The outputs of a graph of a stage. Raises BackendError: its scale indexes are too far from the golden ones."""
    _admit(networks)
    started = time.perf_counter()
    outputs = list(networks.graph(graph)(inputs))
    networks.count("stages", started)
    return outputs


def asking(run: Callable[..., Any]) -> Callable[[str, dict[str, np.ndarray]], Any]:
    """Asks for the outputs of a graph of a stage as `flow.asking` does; files at one stage may run it together."""
    return lambda graph, inputs: run(staged, inputs, options=(graph,), kind=graph)


def _admit(networks: Networks) -> None:
    sessions = networks.sessions()
    if not sessions.admitted:
        with sessions.lock:
            if not sessions.admitted:
                admit(networks.bundle, networks.backend.name, networks.graph)
                sessions.admitted = True
