"""Encoding with effort: latents moved until rate and distortion fall, for the same decoder.

The exchange rate of bits and squared error is read off the picture itself: it is encoded once with its latents scaled
down a little, and the steps trade as the codec does between the two. No constant of training is needed, so every codec
whose graphs can be differentiated has efforts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from ugicm.runtime.conditions import condition_vectors
from ugicm.runtime.effort.distortion import Distortion, context_graph, distortion_graph
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.effort.steps import Latents, Schedule, descend
from ugicm.runtime.encoder.analysis import analysed, hyper_latents, padded, symbols_of
from ugicm.runtime.encoder.flow import check_image, writing
from ugicm.runtime.errors import UsageError
from ugicm.runtime.flow import Flow
from ugicm.runtime.graphs.run import Networks
from ugicm.runtime.graphs.tiles import measured_reach, tiles
from ugicm.runtime.symbols import checkerboard, z_rows

SCHEDULES = {1: Schedule(5, 0.2, 0.6), 2: Schedule(10, 0.1, 0.8)}
"""By effort; 0 takes no step."""
SCALED_DOWN = np.float32(1.15)
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


def encode(networks: Networks, image: np.ndarray, quality: int, effort: int) -> Flow[bytes]:
    """An (H, W, 3) uint8 image to the bytes of a .ugic file of a legal quality; the search runs on `networks`.

    Raises:
        ImageError: not such an array.
        UsageError: no such effort, or none is possible with this codec or backend.
    """
    height, width = check_image(image)
    schedule = SCHEDULES[check_effort(effort)]
    search = Search(networks, image)
    coded = search.analysed(quality)
    y = search.refined(coded, quality, schedule)
    return writing(networks.bundle, y, coded.z, quality, height, width)


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

    def analysed(self, quality: int) -> Coded:
        """The latents of the picture as the encoder takes them without effort."""
        ((y, z),) = analysed(self.networks, [self.image], quality)
        return self.coded(y, z)

    def coded(self, y: np.ndarray, z: np.ndarray | None = None) -> Coded:
        """Latents, after the gain, with what their `z` decides."""
        z = hyper_latents(self.networks, y) if z is None else z
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

    def refined(self, coded: Coded, quality: int, schedule: Schedule) -> np.ndarray:
        """`y` after the steps of a schedule, or as it was where that is cheaper."""
        bits, squares = self.cost(coded, quality)
        fewer, more = self.cost(self.coded(coded.y / SCALED_DOWN), quality, float(SCALED_DOWN))
        if not (bits > fewer and more > squares):
            return coded.y  # a picture so flat that scaling saves nothing
        price = (bits - fewer) / (more - squares)  # bits for a squared difference of one level
        y = self._descended(coded, quality, schedule, price)
        new_bits, new_squares = self.cost(Coded(y, coded.z, coded.rows, coded.mean), quality)
        return y if new_bits + price * new_squares < bits + price * squares else coded.y

    def _descended(self, coded: Coded, quality: int, schedule: Schedule, price: float) -> np.ndarray:
        height, width = coded.y.shape[2:]
        bundle = self.bundle
        graph = derived(self.networks, "distortion", partial(distortion_graph, bundle, self.vector))
        distort = Distortion(
            self.padded.astype(np.float32),
            self.inside * np.float32(price),
            bundle.inverse_gain[quality - 1 : quality],
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
