"""The inputs of a codec's graphs while it encodes and decodes images, for calibration to measure on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ugicm.runtime.backends import Backend, Graph
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import Codec

Array = np.ndarray
Feed = Mapping[str, Array]
CACHED = 16


@dataclass
class Recorder:
    """A backend that keeps what each graph was given, in order."""

    backend: Backend
    feeds: dict[str, list[Feed]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.backend.name

    def load(self, model: bytes, name: str, weights: Feed | None = None) -> Graph:
        run, kept = self.backend.load(model, name, weights), self.feeds.setdefault(name, [])

        def recorded(inputs: Feed) -> list[Array]:
            kept.append({k: v.copy() for k, v in inputs.items()})
            return run(inputs)

        return recorded


@dataclass
class Cache:
    """A backend that loads the same model once: most graphs stay the same from one choice of layers to the next."""

    backend: Backend
    loaded: dict[bytes, Graph] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.backend.name

    def load(self, model: bytes, name: str, weights: Feed | None = None) -> Graph:
        if weights:  # of a view: the model alone does not tell it
            return self.backend.load(model, name, weights)
        if len(self.loaded) > CACHED:
            self.loaded.clear()
        return self.loaded.setdefault(model, self.loaded.get(model) or self.backend.load(model, name))


@dataclass(frozen=True)
class Coded:
    """An image at one quality, as the float codec treats it.

    Attributes:
        image: uint8 (H, W, 3).
        quality: the quality.
        data: its bitstream.
        views: the decoded image of each condition.
        feeds: graph → what it was given; `g_s` once a condition, and each view by its own name, "g_s.human".
    """

    image: Array
    quality: int
    data: bytes
    views: tuple[Array, ...]
    feeds: Mapping[str, list[Feed]]


def conditions_of(codec: Codec) -> list[str | None]:
    """The names of a codec's conditions; [None] where it has one view."""
    return list(codec.conditions) or [None]


def code_all(bundle: Bundle, backend: Backend, images: Sequence[Array], qualities: Sequence[int]) -> list[Coded]:
    """Encodes and decodes every image at every quality, for all conditions."""
    recorder = Recorder(backend)
    codec = Codec(bundle, recorder)
    found = []
    for image in images:
        for quality in qualities:
            for kept in recorder.feeds.values():
                kept.clear()
            data = codec.encode(image, quality)
            views = codec.decode_views(data, conditions_of(codec))
            feeds = {name: list(kept) for name, kept in recorder.feeds.items()}
            # Of a named condition the codec makes a constant of the graph: here it is an input again.
            vectors = [{"condition": v} for v in bundle.condition_vectors.values()] or [{}]
            feeds["g_s"] = [{**feed, **vector} for feed, vector in zip(feeds["g_s"], vectors, strict=True)]
            for name, feed in zip(bundle.condition_vectors, feeds["g_s"], strict=False):
                feeds[f"g_s.{name}"] = [{k: v for k, v in feed.items() if k != "condition"}]
            found.append(Coded(image, quality, data, tuple(views), feeds))
    return found
