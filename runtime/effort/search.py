"""Encoding with effort: latents moved until rate and distortion fall, for the same decoder.

The exchange rate of bits and squared error is read off the picture itself: it is encoded once with its latents scaled
down a little, and the steps trade as the codec does between the two. No constant of training is needed, so every codec
whose graphs can be differentiated has efforts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from ugicm.runtime.backends import Graph
from ugicm.runtime.effort.contexts import Context, ExactContext, Written
from ugicm.runtime.effort.distortion import Distortion, distortion_graph
from ugicm.runtime.effort.field import settle
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.effort.similarity import scales_of
from ugicm.runtime.effort.staged import StagedContext
from ugicm.runtime.effort.steps import Schedule, descend
from ugicm.runtime.effort.targets import BPP, PSNR, Target, meet, meet_refined
from ugicm.runtime.encoder.analysis import hyper_latents, padded
from ugicm.runtime.encoder.flow import check_image, writing
from ugicm.runtime.encoder.quality import ladder, quality_byte
from ugicm.runtime.errors import QualityError, UsageError
from ugicm.runtime.flow import Flow, decoding
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.graphs.tiles import measured_reach, tiles
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.runtime.symbols import gains_of, z_first, z_rows

SCHEDULES = {
    1: Schedule(5, 0.18, 0.6, cooling=20.0, haste=1.3),
    2: Schedule(3, 0.09, 0.6, cooling=20.0, haste=1.3, settling=7),
    3: Schedule(200, 0.03, 0.9, random=True, hot=0.5, second=0.99),
}
"""By effort; 0 takes no step."""
OF_SIMILARITY = {1: Schedule(5, 0.18, 0.6), 2: Schedule(10, 0.12, 0.8, hot=0.3)}
"""Those that differ where the distortion is 1 - MS-SSIM: of what is no sum of squares no curvature is known."""
SCALED_DOWN = np.float32(1.3)
STEEPER = 1.4
"""The price at the picture itself over the one between it and the picture scaled down: it rises with quality."""
LARGER = "g_a.effort"
LARGEST_WINDOW = 2**20  # pixels whose activations are kept for the backward pass


TUNES = ("psnr", "ms-ssim", "machine")
"""The distortion that a search weighs: squared error of the human view, 1 - MS-SSIM of it, or the squared errors of the
human and the machine view, half each."""
Watch = Callable[[int, int], None]
"""Hears of each step that was taken, of how many."""


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
    tune: str = TUNES[0],
    watch: Watch | None = None,
) -> bytes:
    """The .ugic file of an (H, W, 3) uint8 image, of a quality or to meet a target; `answer` is `Codec.answer`.

    Raises:
        ImageError: not such an array.
        QualityError: no such quality, or a target that no quality meets.
        UsageError: no such effort, or none is possible with this codec or backend.
    """
    height, width = check_image(image)
    effort = check_effort(effort)
    bundle = networks.bundle
    if tune not in TUNES:
        raise UsageError(f"tune {tune!r} is none; give {', '.join(TUNES)}")
    search = Search(networks, answer, image, tune, watch) if effort else None
    latents = Analysis(networks, image, effort)

    def written(byte: int, refined: bool) -> bytes:
        y, z = latents(byte)
        if refined and search:
            y = search.refined(y, z, byte, effort)
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
            vector = networks.condition(None)
            (picture,) = answer(decoding(bundle, data, "the file", [vector], None))
            return psnr(image, np.asarray(picture))
        return len(data) * (8 / (height * width) if target.kind == BPP else 1)

    if effort:
        step = meet_refined(measure, lambda step: measure(step, True), target, len(steps))
        if step is not None:
            return file(step, True)
    return file(meet(measure, target, len(steps)), False)


class Analysis:
    """The latents of a picture at any quality; `g_a` runs once: with effort the larger one, where there is one."""

    def __init__(self, networks: Networks, image: np.ndarray, effort: int = 0) -> None:
        bundle = networks.bundle
        ones = np.ones((1, bundle.manifest.latent_channels, 1, 1), np.float32)
        self._networks = networks
        graph = LARGER if effort and LARGER in bundle.manifest.graphs else "g_a"
        self._raw = np.asarray(networks.run(graph, image=padded([image], bundle.manifest.stride), gain=ones))

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

    def __init__(
        self,
        networks: Networks,
        answer: Callable[[Flow[Any]], Any],
        image: np.ndarray,
        tune: str = TUNES[0],
        watch: Watch | None = None,
    ) -> None:
        bundle, self.networks, self.answer = networks.bundle, networks, answer
        if hasattr(networks.backend, "device"):
            raise UsageError("effort needs backend onnxruntime, on the CPU; leave --effort or --backend out")
        bundle.graph("g_s")  # a bundle of the encoder only refuses
        self.bundle, self.image, self.watch = bundle, image, watch
        self.views: list[tuple[float, np.ndarray | None]] = [(1.0, networks.condition(None))]
        if tune == "machine":
            if "machine" not in bundle.condition_vectors:
                raise UsageError(f"{bundle.path}: has no machine view to tune for; leave --tune out")
            self.views = [(0.5, bundle.condition_vectors[name]) for name in ("human", "machine")]
        self.padded = padded([image], bundle.manifest.stride)
        self.inside = np.zeros((*self.padded.shape[:3], 1), np.float32)
        self.inside[:, : image.shape[0], : image.shape[1]] = 1
        self.similarity = tune == "ms-ssim"
        self.rate = Rate(bundle.y_tables)

    def context(self, z: np.ndarray, quality: int) -> Context:
        """What symbols depend on under a `z`."""
        if self.bundle.manifest.schedule is None:
            return ExactContext(self.networks, self.rate, z)
        _, height, width, _ = self.padded.shape
        return StagedContext(self.networks, self.answer, self.rate, z, quality, (height, width))

    def cost(self, written: Written, z: np.ndarray, quality: int, scale: float = 1.0) -> tuple[float, float]:
        """(bits, distortion) of a file, `scale` undone before the synthesis; a guard's shifts are not counted."""
        symbols, rows, y_hat = written
        bits = float(self.rate(symbols.astype(np.float32), rows)[0].sum(dtype=np.float64))
        if z.size:
            of_z, _ = Rate(self.bundle.z_tables)(
                z.astype(np.float32), z_rows(z.shape, z_first(self.bundle.z_tables, z.shape[1], quality))
            )
            bits += float(of_z.sum(dtype=np.float64))
        pictures = self.networks.pictures(y_hat * np.float32(scale), quality, [vector for _, vector in self.views])
        pairs = zip(self.views, pictures, strict=True)
        return bits, sum(share * self._distance(np.asarray(picture)) for (share, _), picture in pairs)

    def _distance(self, picture: np.ndarray) -> float:
        """Of a decoded, padded picture from the original."""
        if self.similarity:
            height, width = self.image.shape[:2]
            return 1 - ms_ssim(self.image, np.ascontiguousarray(picture[0, :height, :width]))
        difference = picture.astype(np.float32) - self.padded
        return float((np.square(difference) * self.inside).sum(dtype=np.float64))

    def refined(self, y: np.ndarray, z: np.ndarray, quality: int, effort: int) -> np.ndarray:
        """`y` after the steps of an effort, or as it was where that is cheaper; `z` stays."""
        context, lower = self.context(z, quality), y / SCALED_DOWN
        z_lower = hyper_latents(self.networks, lower, gains_of(self.bundle.gain, quality))
        written = context.written(y)
        bits, distance = self.cost(written, z, quality)
        fewer, more = self.cost(self.context(z_lower, quality).written(lower), z_lower, quality, float(SCALED_DOWN))
        if not (bits > fewer and more > distance):
            return y  # a picture so flat that scaling saves nothing
        price = STEEPER * (bits - fewer) / (more - distance)  # bits for a unit of distortion
        found, least = y, bits + price * distance
        # Drawn symbols are not always better than the ten steps of effort 2: both are tried.
        for each in (2, effort) if SCHEDULES[effort].random else (effort,):
            schedule = OF_SIMILARITY.get(each, SCHEDULES[each]) if self.similarity else SCHEDULES[each]
            other = self.searched(y, written.rows, context, quality, schedule, price)
            new_bits, new_distance = self.cost(context.written(other), z, quality)
            if new_bits + price * new_distance < least:
                found, least = other, new_bits + price * new_distance
        return found

    def searched(
        self, y: np.ndarray, rows: np.ndarray, context: Context, quality: int, schedule: Schedule, price: float
    ) -> np.ndarray:
        """`y` of table rows after the steps of a schedule, at so many bits for a unit of distortion."""
        height, width = y.shape[2:]
        windows = tiles(height, width, self._reach(height, width, quality), self._window)
        side = self.bundle.manifest.latent_stride * min(span.stop - span.start for tile in windows for span in tile)
        scales = scales_of(side) if self.similarity else 0
        graphs = [(share, self._graph(vector, scales)) for share, vector in self.views]
        distort = Distortion(
            self.padded.astype(np.float32),
            self.inside * np.float32(price),
            gains_of(self.bundle.inverse_gain, quality),
            graphs,
            windows,
            mean=self.similarity,
        )
        settling = schedule.settling
        if settling:
            y = settle(y, context.known, distort, distort.curvature, settling, self._watched(schedule, 0))
        gradient = partial(context.gradient, distort=distort, haste=schedule.haste)
        return descend(y, rows, gradient, schedule, self._watched(schedule, settling))

    def _watched(self, schedule: Schedule, before: int) -> Callable[[int, float], None] | None:
        watch, steps = self.watch, schedule.settling + schedule.steps
        return None if watch is None else lambda step, _: watch(before + step + 1, steps)

    def _graph(self, vector: np.ndarray | None, scales: int) -> Graph:
        name = f"distortion {scales} {'' if vector is None else vector.tobytes().hex()}"
        return derived(self.networks, name, partial(distortion_graph, self.bundle, vector, scales))

    @property
    def _window(self) -> float:
        return LARGEST_WINDOW / self.bundle.manifest.latent_stride**2

    def _reach(self, height: int, width: int, quality: int) -> int:
        """How far from a latent its pixels reach, in latents; 0 where one window holds the picture."""
        if height * width <= self._window:
            return 0

        def run(inputs: dict[str, np.ndarray]) -> np.ndarray:
            return np.asarray(next(iter(self.networks.pictures(inputs["y_hat"], quality, [self.views[0][1]]))))

        def sample(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
            shape = (1, self.bundle.manifest.latent_channels, rows, columns)
            return {"y_hat": np.rint(rng.normal(0, 4, shape)).astype(np.float32)}

        reach = measured_reach(run, sample, {"y_hat": 1})
        return max(height, width) if reach is None else reach
