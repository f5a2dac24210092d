"""The graphs of a codec with context, once their backend is admitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.stage_admission import admit

ALIKE = ("even", "gain")
"""Inputs that are the same for all files of one size and quality."""


def staged(networks: Networks, files: Sequence[dict[str, np.ndarray]], graph: str) -> list[list[np.ndarray]]:
    """The outputs of a graph of a stage, for the inputs of each file.

    Raises:
        BackendError: the backend's scale indexes are too far from the golden ones.
    """
    _admit(networks)
    started = time.perf_counter()
    loaded = networks.graph(graph)
    if len(files) == 1:
        outputs = [list(loaded(files[0]))]
    else:
        alike = {name: array for name, array in files[0].items() if name in ALIKE}
        stacked = {name: np.concatenate([file[name] for file in files]) for name in files[0] if name not in alike}
        found = loaded({**stacked, **alike})
        ends = np.cumsum([len(file[next(iter(stacked))]) for file in files])[:-1]
        outputs = [list(parts) for parts in zip(*(np.split(output, ends) for output in found), strict=True)]
    networks.count("stages", started)
    return outputs


def asking(run: Callable[..., Any]) -> Callable[[str, dict[str, np.ndarray]], Any]:
    """Asks for the outputs of a graph of a stage as `flow.asking` does; files at one stage may run it together."""
    return lambda graph, inputs: run(staged, inputs, graph, kind=graph)


def _admit(networks: Networks) -> None:
    sessions = networks.sessions()
    if not sessions.admitted:
        with sessions.lock:
            if not sessions.admitted:
                admit(networks.bundle, networks.backend.name, networks.graph)
                sessions.admitted = True
