"""Distortion of a view and its gradient by `y_hat`, as one graph derived from the bundle's own synthesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ugicm.runtime.backends import Graph as Loaded
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.effort.backward import relaxed, vector_jacobian
from ugicm.runtime.effort.nodes import FLOAT, Graph, Node, joined, read, write
from ugicm.runtime.effort.similarity import similarity_loss
from ugicm.runtime.graphs.tiles import Tile, cut
from ugicm.runtime.graphs.views import view_weights
from ugicm.runtime.onnx_bytes.weights import graph_weights

STIR = np.float32(16)
"""8-bit levels by which the target is changed to see how the gradient changes."""


def synthesis(bundle: Bundle, condition: np.ndarray | None) -> Graph:
    """`g_s` under a condition, from "y_hat" and "inverse_gain" to a picture of real numbers, NHWC in 8-bit levels."""
    graphs = bundle.manifest.graphs
    entry, model = bundle.graph("g_s")
    if condition is not None and "g_s.view" in graphs:
        weights = view_weights(graph_weights(model, bundle.path / entry.file), bundle.manifest.views, condition)
        head = read(bundle.graph("g_s.view")[1], weights)
    else:
        head = read(model)
        if condition is not None:
            inputs = {name: kind for name, kind in head.inputs.items() if name != "condition"}
            head = replace(head, inputs=inputs, constants={**head.constants, "condition": condition})
    if "g_s_trunk" in graphs:
        head = joined(read(bundle.graph("g_s_trunk")[1]), head, "features")
    return relaxed(head)


def distortion_graph(bundle: Bundle, condition: np.ndarray | None, scales: int = 0) -> bytes:
    """An ONNX file: "y_hat", "inverse_gain", "target" and "weight" to "loss" and its "gradient" by `y_hat`.

    Args:
        bundle: of the codec.
        condition: of the view.
        scales: 0 for squared differences: the loss is the sum of weight times the squared difference of the clipped
            picture. Else those of MS-SSIM: the loss is the largest weight times 1 - MS-SSIM, where pixels without
            weight count as equal.

    target: (1, H, W, 3) float32 in 8-bit levels. weight: (1, H, W, 1) float32.
    """
    graph = synthesis(bundle, condition)
    (picture,) = graph.outputs
    numbers = {"black": 0, "white": 255, "two": 2}
    constants = {**graph.constants, **{f"loss/{k}": np.full((), v, np.float32) for k, v in numbers.items()}}
    nodes = [
        *graph.nodes,
        Node("Clip", (picture, "loss/black", "loss/white"), ("loss/picture",)),
        Node("Sub", ("loss/picture", "target"), ("loss/difference",)),
    ]
    if scales:
        loss, more, similarity = similarity_loss("loss/masked", "target", scales)
        nodes += [
            Node("Sign", ("weight",), ("loss/inside",)),
            Node("Mul", ("loss/difference", "loss/inside"), ("loss/shown",)),
            Node("Add", ("target", "loss/shown"), ("loss/masked",)),
            Node("ReduceMax", ("weight",), ("loss/seed",), {"keepdims": 1}),
            *loss,
            Node("Mul", (similarity, "loss/seed"), ("loss",)),
        ]
        constants.update(more)
        output = similarity
    else:
        nodes += [
            Node("Mul", ("loss/difference", "weight"), ("loss/weighted",)),
            Node("Mul", ("loss/difference", "loss/weighted"), ("loss/square",)),
            Node("ReduceSum", ("loss/square",), ("loss",), {"keepdims": 0}),
            Node("Mul", ("loss/weighted", "loss/two"), ("loss/seed",)),
        ]
        output = "loss/picture"
    inputs = {**graph.inputs, "target": FLOAT, "weight": FLOAT}
    graph = replace(graph, nodes=tuple(nodes), constants=constants, inputs=inputs)
    found = vector_jacobian(graph, output, "y_hat", "loss/seed")
    named = (*found.graph.nodes, Node("Identity", (found.name,), ("gradient",)))
    return write(replace(found.graph, nodes=named), {"gradient": FLOAT, "loss": FLOAT})


def context_graph(bundle: Bundle) -> bytes:
    """An ONNX file: the inputs of the context and "seed", the gradient by its output, to that by "symbols"."""
    graph = relaxed(read(bundle.graph("context")[1]))
    found = vector_jacobian(graph, graph.outputs[0], "symbols", "seed")
    named = (*found.graph.nodes, Node("Identity", (found.name,), ("gradient",)))
    inputs = {**graph.inputs, "seed": FLOAT}
    return write(replace(found.graph, nodes=named, inputs=inputs), {"gradient": FLOAT})


class Distortion:
    """The distortion of views of one picture, and its gradient, in windows where the picture is large.

    Args:
        target: (1, H, W, 3) float32, padded.
        weight: (1, H, W, 1) float32, bits for a squared difference of one level, or for all of 1 - MS-SSIM; 0 where the
            picture is padding.
        inverse_gain: (1, M, 1, 1) float32.
        graphs: for each view its share of the loss and its loaded distortion graph.
        windows: of the latents.
        mean: whether the loss of a window is a mean over it, as MS-SSIM is, and not a sum.
    """

    def __init__(
        self,
        target: np.ndarray,
        weight: np.ndarray,
        inverse_gain: np.ndarray,
        graphs: Sequence[tuple[float, Loaded]],
        windows: Sequence[Tile],
        mean: bool = False,
    ) -> None:
        self._target, self._weight, self._inverse_gain = target, weight, inverse_gain
        self._graphs, self._windows, self._mean = graphs, windows, mean

    def __call__(self, y_hat: np.ndarray, stir: np.ndarray | None = None) -> tuple[np.ndarray, float]:
        """(gradient by `y_hat`, distortion), in bits, of a `y_hat` (1, M, h, w); `stir` is taken from the target."""
        target = self._target if stir is None else self._target - stir
        gradient, bits = np.zeros_like(y_hat), 0.0
        stride = self._target.shape[1] // y_hat.shape[2]
        for tile in self._windows:
            rows, columns = (slice(s.start, s.stop) for s in tile)
            weight = _kept(self._weight, tile, stride)
            if self._mean:
                weight *= np.float32(weight.size / self._weight.size)
            inputs = {
                "y_hat": y_hat[:, :, rows, columns],
                "inverse_gain": self._inverse_gain,
                "target": cut(target, tile, stride, image=True),
                "weight": weight,
            }
            for share, graph in self._graphs:
                found, loss = graph(inputs)
                gradient[:, :, rows, columns] += np.float32(share) * found
                bits += share * float(loss.item())
        return gradient, bits

    def curvature(self, y_hat: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """The second derivative of squared differences by `y_hat` in bits, (1, M, 1, 1) float32: a mean over positions.

        With random signs in the picture the gradient changes by 2 · weight · Jᵀ signs, J being the synthesis, and the
        mean square of that is what the diagonal of 4 · weight² · Jᵀ J is.

        Args:
            y_hat: (1, M, h, w).
            gradient: there.
        """
        signs = np.random.default_rng(0).integers(0, 2, self._target.shape, np.int8)
        stirred, _ = self(y_hat, (signs.astype(np.float32) - np.float32(0.5)) * (2 * STIR))
        square = np.square(stirred - gradient).mean((0, 2, 3), keepdims=True)
        weight, inside = self._weight.max(), (self._weight > 0).mean()
        found: np.ndarray = np.float32(1 / (2 * STIR**2 * weight * inside)) * square
        return np.maximum(found, np.float32(1e-6) * found.max() + np.float32(1e-12))


def _kept(weight: np.ndarray, tile: Tile, stride: int) -> np.ndarray:
    """The weights of a window: those of what it only overlaps are 0."""
    found = np.zeros_like(cut(weight, tile, stride, image=True))
    inner = tuple(slice((s.keep_start - s.start) * stride, (s.keep_stop - s.start) * stride) for s in tile)
    outer = tuple(slice(s.keep_start * stride, s.keep_stop * stride) for s in tile)
    found[:, inner[0], inner[1]] = weight[:, outer[0], outer[1]]
    return found
