"""The one place where answers of graphs are checked: how many arrays, of which types and shapes, on every backend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ugicm.runtime.backends import Backend, Graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import AnswerError
from ugicm.runtime.graphs.area import Area


class Answers:
    """Loads graphs of a bundle such that each call gives the arrays that the runtime reads, or raises AnswerError."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle, self._area = bundle, Area(bundle.manifest)
        self._fineness = 0  # positions of "features" a latent, as `g_s_trunk` once answered

    def load(self, backend: Backend, name: str, view: tuple[bytes, Mapping[str, Any]] | None = None) -> Graph:
        """A graph of the bundle on a backend, or that of a view: a model and the weights to give it."""
        loaded = backend.load(*(self._bundle.graph(name)[1], name) if view is None else (view[0], name, view[1]))

        def checked(inputs: Mapping[str, Any]) -> list[Any]:
            answer = loaded(inputs)
            found = [(str(getattr(a, "dtype", type(a).__name__)), *getattr(a, "shape", ())) for a in answer]
            wanted = self._wanted(name, inputs, found)
            if len(found) != len(wanted) or not all(map(_fits, found, wanted)):
                raise AnswerError(
                    f"{self._bundle.path}: graph {name} gave {str(found)[:200]}, of another size or type than "
                    f"{str(wanted)[:200]}; the bundle or the backend is broken: export the bundle again"
                )
            return answer

        return checked

    def _wanted(self, name: str, inputs: Mapping[str, Any], found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        """Type and lengths of each output, None where any will do."""
        m, exact = self._bundle.manifest, self._bundle.exact
        if m.schedule is not None and name in ("h_s", *m.schedule.graphs):
            from ugicm.runtime.graphs.stage_answers import of_stage

            return of_stage(m, name, inputs)
        n = next(iter(inputs.values())).shape[0]
        if name == "condition":
            return [("float32", n, next(iter(self._bundle.condition_vectors.values())).size)]
        if name == "g_s" and "features" in inputs:
            size = tuple(length // self._fineness for length in inputs["features"].shape[2:])
        else:
            size = self._area.size("g_s" if name == "g_s_trunk" else name, inputs)
        if name == "g_s_trunk":
            self._fineness = self._fineness or max(1, found[0][3] // size[0] if found and len(found[0]) == 5 else 1)
            kind = "uint8" if found and found[0][0] == "uint8" else "float32"  # INT8 features are bytes
            return [(kind, n, None, *(length * self._fineness for length in size))]
        size = tuple(length * self._area.grids[name].output for length in size)
        if name == "g_s":
            return [("uint8", n, *size, 3)]
        channels = m.hyper_channels if name == "h_a" else m.latent_channels
        rows = [("uint8", n, channels, *size)] if name == "h_s" else []
        return [*rows, ("float32", n, channels, *size)][: 1 if rows and exact and not exact.mean_channels else 2]


def _fits(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
    return len(found) == len(wanted) and all(m in (None, n) for n, m in zip(found, wanted, strict=True))
