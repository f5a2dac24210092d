"""Encoding with effort: latents moved until rate and distortion fall, for the same decoder.

The exchange rate of bits and squared error is read off the picture itself: it is encoded once with its latents scaled
down a little, and the steps trade as the codec does between the two. No constant of training is needed, so every codec
whose graphs can be differentiated has efforts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from ugicm.runtime.conditions import condition_vectors
from ugicm.runtime.effort.distortion import Distortion, context_graph, distortion_graph
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.effort.steps import Latents, Schedule, descend
from ugicm.runtime.effort.targets import BPP, PSNR, Target, meet, meet_refined
from ugicm.runtime.encoder.analysis import hyper_latents, padded, symbols_of
from ugicm.runtime.encoder.flow import check_image, writing
from ugicm.runtime.encoder.quality import ladder, quality_byte
from ugicm.runtime.errors import QualityError, UsageError
from ugicm.runtime.flow import Flow, decoding
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.graphs.tiles import measured_reach, tiles
from ugicm.runtime.measures.metrics import psnr
from ugicm.runtime.qualities import gains_of
from ugicm.runtime.symbols import checkerboard, z_rows

SCHEDULES = {1: Schedule(5, 0.2, 0.6), 2: Schedule(10, 0.1, 0.8)}
"""By effort; 0 takes no step."""
SCALED_DOWN = np.float32(1.15)
STEEPER = 1.15
"""The price at the picture itself over the one between it and the picture scaled down: it rises with quality."""
LARGEST_WINDOW = 2**20  # pixels whose activations are kept for the backward pass


@dataclass(frozen=True, eq=False)
class Coded:
    """Latents of a picture with all that `z` decides.

    Attributes:
        y: float32 (1, M, h, w), after the gain.
        z: int32.
        rows: table rows of the symbols.
        mean: float32 means before the context.
    """

    y: np.ndarray
    z: np.ndarray
    rows: np.ndarray
    mean: np.ndarray


def check_effort(effort: int) -> int:
    """A legal effort. Raises UsageError."""
    if isinstance(effort, bool) or not isinstance(effort, int | np.integer) or not 0 <= effort <= max(SCHEDULES):
        raise UsageError(f"effort {effort!r} is none; give 0 to {max(SCHEDULES)}")
    return int(effort)


def encode(
    networks: Networks,
    answer: Callable[[Flow[Any]], Any],
    image: np.ndarray,
    quality: float | None,
    effort: int,
    target: Target | None,
) -> bytes:
    """The .ugic file of an (H, W, 3) uint8 image, of a quality or to meet a target; `answer` is `Codec.answer`.

    Raises:
        ImageError: not such an array.
        QualityError: no such quality, or a target that no quality meets.
        UsageError: no such effort, or none is possible with this codec or backend.
    """
    height, width = check_image(image)
    schedule = SCHEDULES.get(check_effort(effort))
    bundle = networks.bundle
    search = Search(networks, image) if schedule else None
    latents = Analysis(networks, image)

    def written(byte: int, refined: bool) -> bytes:
        y, z = latents(byte)
        if refined and search and schedule:
            y = search.refined(y, z, byte, schedule)
        return bytes(answer(writing(bundle, y, z, byte, height, width)))

    if target is None:
        return written(quality_byte(quality, bundle), True)
    steps = ladder(bundle)
    if len(steps) == 1:
        raise QualityError(f"{bundle.path}: {target.kind} needs a codec of several qualities; this has one")

    @cache
    def file(step: int, refined: bool) -> bytes:
        return written(steps[step], refined)

    @cache
    def measure(step: int, refined: bool = False) -> float:
        data = file(step, refined)
        if target.kind == PSNR:
            vector = condition_vectors(bundle, None, networks.condition)
            (picture,) = answer(decoding(bundle, data, "the file", [vector], None))
            return psnr(image, np.asarray(picture))
        return len(data) * (8 / (height * width) if target.kind == BPP else 1)

    if schedule is not None:
        step = meet_refined(measure, lambda step: measure(step, True), target, len(steps))
        if step is not None:
            return file(step, True)
    return file(meet(measure, target, len(steps)), False)


class Analysis:
    """The latents of a picture at any quality; `g_a` runs once."""

    def __init__(self, networks: Networks, image: np.ndarray) -> None:
        bundle = networks.bundle
        ones = np.ones((1, bundle.manifest.latent_channels, 1, 1), np.float32)
        self._networks = networks
        self._raw = np.asarray(networks.run("g_a", image=padded([image], bundle.manifest.stride), gain=ones))

    def __call__(self, byte: int) -> tuple[np.ndarray, np.ndarray]:
        """(y, int32 `z`), as the encoder takes them without effort."""
        gain = gains_of(self._networks.bundle.gain, byte)
        y: np.ndarray = self._raw * gain
        return y, hyper_latents(self._networks, y, gain)


class Search:
    """The search for one picture's latents.

    Raises:
        UsageError: the codec or its backend cannot.
    """

    def __init__(self, networks: Networks, image: np.ndarray) -> None:
        bundle, self.networks = networks.bundle, networks
        if hasattr(networks.backend, "device"):
            raise UsageError("effort needs backend onnxruntime, on the CPU; leave --effort or --backend out")
        if bundle.manifest.schedule is not None:
            raise UsageError(
                f"{bundle.path}: no effort is possible with this codec: its symbols are decoded in stages, each with "
                "a network that would have to be differentiated; leave --effort out"
            )
        bundle.graph("g_s")  # a bundle of the encoder only refuses
        self.bundle, self.image = bundle, image
        self.vector = condition_vectors(bundle, None, networks.condition)
        self.padded = padded([image], bundle.manifest.stride)
        self.inside = np.zeros((*self.padded.shape[:3], 1), np.float32)
        self.inside[:, : image.shape[0], : image.shape[1]] = 1
        self.rate = Rate(bundle.y_tables)

    def coded(self, y: np.ndarray, z: np.ndarray) -> Coded:
        """Latents, after the gain, and their `z` with what it decides."""
        rows, mean = self.networks.scales_and_means(z)
        return Coded(y, z, rows, np.zeros_like(y) if mean is None else mean)

    def cost(self, coded: Coded, quality: int, scale: float = 1.0) -> tuple[float, float]:
        """(bits, summed squared error) of the file that latents give, `scale` undone before the synthesis."""
        symbols = symbols_of(self.networks, coded.y, coded.rows, coded.mean)
        bits = float(self.rate(symbols.astype(np.float32), coded.rows)[0].sum(dtype=np.float64))
        if coded.z.size:
            of_z, _ = Rate(self.bundle.z_tables)(coded.z.astype(np.float32), z_rows(coded.z.shape))
            bits += float(of_z.sum(dtype=np.float64))
        y_hat = self.networks.latents(symbols, coded.mean) * np.float32(scale)
        picture = next(iter(self.networks.pictures(y_hat, quality, [self.vector])))
        difference = picture.astype(np.float32) - self.padded
        return bits, float((np.square(difference) * self.inside).sum(dtype=np.float64))

    def refined(self, y: np.ndarray, z: np.ndarray, quality: int, schedule: Schedule) -> np.ndarray:
        """`y` after the steps of a schedule, or as it was where that is cheaper; `z` stays."""
        coded, lower = self.coded(y, z), y / SCALED_DOWN
        bits, squares = self.cost(coded, quality)
        fewer, more = self.cost(self.coded(lower, hyper_latents(self.networks, lower)), quality, float(SCALED_DOWN))
        if not (bits > fewer and more > squares):
            return y  # a picture so flat that scaling saves nothing
        price = STEEPER * (bits - fewer) / (more - squares)  # bits for a squared difference of one level
        found = replace(coded, y=self._descended(coded, quality, schedule, price))
        new_bits, new_squares = self.cost(found, quality)
        return found.y if new_bits + price * new_squares < bits + price * squares else y

    def _descended(self, coded: Coded, quality: int, schedule: Schedule, price: float) -> np.ndarray:
        height, width = coded.y.shape[2:]
        bundle = self.bundle
        graph = derived(self.networks, "distortion", partial(distortion_graph, bundle, self.vector))
        distort = Distortion(
            self.padded.astype(np.float32),
            self.inside * np.float32(price),
            gains_of(bundle.inverse_gain, quality),
            [(1.0, graph)],
            tiles(height, width, self._reach(height, width, quality), self._window),
        )
        known = bundle.y_tables.coded(coded.rows)
        keep = np.ones_like(coded.y) if known is None else known.astype(np.float32)
        anchor = checkerboard(height, width) if bundle.manifest.context else None
        latents = Latents(coded.y, coded.rows, coded.mean, keep, anchor)
        return descend(
            latents, self.rate, distort, schedule, *(self._context(anchor) if anchor is not None else (None,) * 2)
        )

    def _context(self, anchor: np.ndarray) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
        graph = derived(self.networks, "context", partial(context_graph, self.bundle))

        def refine(symbols: np.ndarray, mean: np.ndarray) -> np.ndarray:
            found = self.networks.run("context", symbols=symbols, mean=mean, anchor=anchor)
            return np.where(anchor > 0, mean, found)

        def pull(symbols: np.ndarray, mean: np.ndarray, seed: np.ndarray) -> np.ndarray:
            return graph({"symbols": symbols, "mean": mean, "anchor": anchor, "seed": seed})[0]

        return refine, pull

    @property
    def _window(self) -> float:
        return LARGEST_WINDOW / self.bundle.manifest.latent_stride**2

    def _reach(self, height: int, width: int, quality: int) -> int:
        """How far from a latent its pixels reach, in latents; 0 where one window holds the picture."""
        if height * width <= self._window:
            return 0

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return np.asarray(next(iter(self.networks.pictures(inputs["y_hat"], quality, [self.vector]))))

        def sample(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
            shape = (1, self.bundle.manifest.latent_channels, rows, columns)
            return {"y_hat": np.rint(rng.normal(0, 4, shape)).astype(np.float32)}

        reach = measured_reach(run, sample, {"y_hat": 1})
        return max(height, width) if reach is None else reach
