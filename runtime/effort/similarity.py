"""The loss 1 - MS-SSIM as ONNX nodes: what `ugicm.runtime.measures.metrics.ms_ssim` computes, to be differentiated.

Z. Wang, E. Simoncelli and A. Bovik, "Multiscale structural similarity for image quality assessment", Asilomar 2003.
"""

from __future__ import annotations

import numpy as np

from ugicm.runtime.effort.nodes import Node
from ugicm.runtime.measures.metrics import C1, C2, CENTRE, SCALE_WEIGHTS, WINDOW, gaussian


def scales_of(side: int) -> int:
    """How many scales hold the window in an image whose shorter side has so many pixels."""
    return max(1, min(len(SCALE_WEIGHTS), (side // WINDOW).bit_length()))


def similarity_loss(picture: str, target: str, scales: int) -> tuple[list[Node], dict[str, np.ndarray], str]:
    """Nodes, constants and the name of 1 - MS-SSIM, (1, 1, 1, 1), of two (1, H, W, 3) float32 in 8-bit levels.

    Args:
        picture, target: names of tensors.
        scales: one of `scales_of`.
    """
    graph = _Writer()
    x, y = (graph.node("Sub", graph.node("Transpose", name, perm=[0, 3, 1, 2]), "centre") for name in (picture, target))
    weights = SCALE_WEIGHTS[:scales] * (SCALE_WEIGHTS.sum() / SCALE_WEIGHTS[:scales].sum())
    similarity = ""
    for scale, weight in enumerate(weights):
        last = scale == scales - 1
        mean = graph.node("ReduceMean", graph.term(x, y, last), "plane", keepdims=1)
        # A structure term is negative only where nothing is alike; its power would have no slope at 0.
        positive = graph.node("Clip", mean, "least")
        power = graph.node("Pow", positive, graph.constant(np.float32(weight)))
        similarity = power if not similarity else graph.node("Mul", similarity, power)
        if not last:
            x, y = (graph.node("Conv", plane, "quarters", group=3, strides=[2, 2]) for plane in (x, y))
    mean = graph.node("ReduceMean", similarity, "channel", keepdims=1)
    return graph.nodes, graph.constants, graph.node("Sub", "one", mean)


class _Writer:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        window = np.asarray(gaussian(WINDOW), np.float32)
        each = {
            "rows": np.tile(window[:, None], (3, 1, 1, 1)),
            "columns": np.tile(window[None, :], (3, 1, 1, 1)),
            "quarters": np.full((3, 1, 2, 2), 0.25, np.float32),
            "centre": np.float32(CENTRE),
            "c1": np.float32(C1),
            "c2": np.float32(C2),
            "one": np.ones((1, 1, 1, 1), np.float32),
            "two": np.float32(2),
            "least": np.float32(1e-4),
            "plane": np.array([2, 3]),
            "channel": np.array([1]),
        }
        self.constants = {f"loss/{name}": np.asarray(array) for name, array in each.items()}

    def constant(self, value: np.float32) -> str:
        name = f"loss/number{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        name = f"loss/similarity{len(self.nodes)}"
        named = tuple(f"loss/{one}" if f"loss/{one}" in self.constants else one for one in inputs)
        self.nodes.append(Node(operator, named, (name,), attributes))
        return name

    def filtered(self, plane: str) -> str:
        return self.node("Conv", self.node("Conv", plane, "rows", group=3), "columns", group=3)

    def term(self, x: str, y: str, luminance: bool) -> str:
        """The structure term of each window, times the luminance term where asked."""
        mean_x, mean_y = self.filtered(x), self.filtered(y)
        squares = self.filtered(self.node("Add", self.node("Mul", x, x), self.node("Mul", y, y)))
        products = self.filtered(self.node("Mul", x, y))
        of_squares = self.node("Add", self.node("Mul", mean_x, mean_x), self.node("Mul", mean_y, mean_y))
        covariance = self.node("Sub", products, self.node("Mul", mean_x, mean_y))
        above = self.node("Add", self.node("Mul", covariance, "two"), "c2")
        term = self.node("Div", above, self.node("Add", self.node("Sub", squares, of_squares), "c2"))
        if not luminance:
            return term
        light_x, light_y = self.node("Add", mean_x, "centre"), self.node("Add", mean_y, "centre")
        both = self.node("Add", self.node("Mul", light_x, light_x), self.node("Mul", light_y, light_y))
        alike = self.node("Add", self.node("Mul", self.node("Mul", light_x, light_y), "two"), "c1")
        return self.node("Mul", term, self.node("Div", alike, self.node("Add", both, "c1")))
