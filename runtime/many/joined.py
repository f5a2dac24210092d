"""What several files ask of the networks at once, where they are of one kind: their arrays run joined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ugicm.runtime.encoder.analysis import analysed, analysed_together
from ugicm.runtime.flow import Run
from ugicm.runtime.graphs.run import Networks, kept
from ugicm.runtime.graphs.stages import staged

ALIKE = ("even", "gain")
"""Inputs of stages that are the same for all files of one size and quality."""


def together(networks: Networks, runs: Sequence[Run]) -> list[Any]:
    """The answers to runs of one kind."""
    first, files = runs[0], [run.arguments for run in runs]
    if len(runs) == 1:
        return [first.alone(networks)]
    own = _OWN.get(first.work)
    if own is not None:
        return own(networks, files, *first.options)
    found = first.work(networks, *map(joined, zip(*files, strict=True)), *first.options)
    return [_part(found, i) for i in range(len(files))]


def joined(arrays: Sequence[Any]) -> Any:
    """(n, …) of n arrays (1, …), or None of None."""
    first = arrays[0]
    if first is None:
        return None
    return np.concatenate(arrays) if isinstance(first, np.ndarray) else type(first).concatenated(arrays)


def _part(found: Any, i: int) -> Any:
    if isinstance(found, tuple):
        return tuple(_part(each, i) for each in found)
    return None if found is None else found[i : i + 1]


def _analysed(networks: Networks, files: Sequence[tuple[np.ndarray]], quality: int) -> list[Any]:
    found = analysed_together(networks, [image for (image,) in files], quality)
    return [_part(found, i) for i in range(len(files))]


def _images(
    networks: Networks, files: Sequence[tuple[Any, tuple[int, int]]], quality: int, vectors: Any, device: str | None
) -> list[list[Any]]:
    found: list[list[Any]] = [[] for _ in files]
    for pictures in networks.pictures(joined([y_hat for y_hat, _ in files]), quality, vectors):
        for i, (_, (height, width)) in enumerate(files):
            found[i].append(kept(pictures[i, :height, :width], device))
    return found


def _staged(networks: Networks, files: Sequence[tuple[dict[str, np.ndarray]]], graph: str) -> list[list[np.ndarray]]:
    inputs = [given for (given,) in files]
    alike = {name: array for name, array in inputs[0].items() if name in ALIKE}
    stacked = {name: np.concatenate([file[name] for file in inputs]) for name in inputs[0] if name not in alike}
    found = staged(networks, {**stacked, **alike}, graph)
    ends = np.cumsum([len(file[next(iter(stacked))]) for file in inputs])[:-1]
    return [list(parts) for parts in zip(*(np.split(output, ends) for output in found), strict=True)]


_OWN: dict[Callable[..., Any], Callable[..., list[Any]]] = {
    Networks.images: _images,
    analysed: _analysed,
    staged: _staged,
}
