"""The pictures that a graph takes in one piece: their multiplications and pixels are few enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ugicm.runtime.manifest import Manifest

TILE_WORK = 16e9  # multiplications; activations grow with them, to about 330 MB in the `fast` networks
SMALLEST_TILE = 2**19  # pixels; a wide synthesis reads so far that it would compute smaller ones twice over
LARGEST_TILE = 8e6
UNKNOWN_KMAC = 50.0  # a pixel, of a bundle that does not tell
TILED = ("g_a", "g_a.effort", "h_a", "h_s_mean", "context")  # the exact path and the synthesis in their own ways


class Grid(NamedTuple):
    """How the arrays of a graph lie on its units."""

    work: str  # the graph whose count of multiplications in the manifest is this one's
    unit: int  # pixels of the image, a side
    inputs: dict[str, int]  # positions a unit of each input that has rows and columns
    output: int  # positions a unit of the output


class Area:
    """How large the pieces are that a codec's graphs run on.

    Attributes:
        work: multiplications that a piece may take.
        smallest, largest: pixels that it may have where the work alone would allow fewer, or more.
        grids: graph → how its arrays lie.
    """

    def __init__(
        self,
        manifest: Manifest,
        work: float = TILE_WORK,
        largest: float = LARGEST_TILE,
        smallest: float = SMALLEST_TILE,
    ) -> None:
        self.work, self.largest, self.smallest = work, largest, smallest
        fine, coarse = manifest.latent_stride, manifest.stride
        self.grids = {name: Grid(name, fine, {"image": fine}, 1) for name in ("g_a", "g_a.effort")} | {
            "h_a": Grid("h_a", coarse, {"y": coarse // fine}, 1),
            "h_s": Grid("h_s", coarse, {"z": 1}, coarse // fine),
            "h_s_mean": Grid("h_s", coarse, {"z": 1}, coarse // fine),
            "context": Grid("context", fine, {"symbols": 1, "mean": 1, "anchor": 1}, 1),
            "g_s": Grid("g_s", fine, {"y_hat": 1}, fine),
        }
        self._kmac = told if isinstance(told := manifest.model.get("kmac_per_pixel"), dict) else {}

    def units(self, graph: str) -> float:
        """Square units that a piece may have."""
        grid = self.grids[graph]
        kmac, smallest = self._kmac.get(grid.work), self.smallest
        if not (isinstance(kmac, int | float) and 0 < kmac < 1e9):
            kmac, smallest = UNKNOWN_KMAC, 0
        return min(max(self.work / (1000 * kmac), smallest), self.largest) / grid.unit**2

    @property
    def pixels(self) -> float:
        """How many run in one piece, whatever the graph; effort's is not counted."""
        return min(self.units(name) * grid.unit**2 for name, grid in self.grids.items() if "." not in name)

    def whole(self, graph: str, height: int, width: int) -> bool:
        """Whether a graph runs on so many units in one piece, which of a picture in tiles none does."""
        pixels = min(self.units(name) * self.grids[name].unit ** 2 for name in (graph, "g_s"))
        return height * width * self.grids[graph].unit ** 2 <= pixels

    def size(self, graph: str, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """The height and width of a graph's inputs in units."""
        name, n = next(iter(self.grids[graph].inputs.items()))
        height, width = inputs[name].shape[1:3] if name == "image" else inputs[name].shape[2:4]
        return height // n, width // n
