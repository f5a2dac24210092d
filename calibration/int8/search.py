"""The choice of layers to quantise: rate and distortion decide.

The loss of a choice is in dB of PSNR at equal bytes. For the synthesis, whose bitstream does not change, it is what the
decoded images lose against the originals, over all conditions; for the analysis also what the files grow by, at the
slope of the codec's own rate-distortion curve (the task loss of RDO-PTQ, arXiv 2211.02854, measured through the codec).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ugicm.calibration.int8.equalise import Equaliser
from ugicm.calibration.int8.graph import FloatGraph, Form, Layer, Step
from ugicm.calibration.int8.kernels import Weights
from ugicm.calibration.int8.quantiser import Quantiser
from ugicm.calibration.int8.ranges import best_step, collect, quantise_weights
from ugicm.calibration.int8.samples import Coded, Feed, conditions_of
from ugicm.runtime.backends import Backend
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.codec import Codec
from ugicm.runtime.measures.metrics import psnr

Array = np.ndarray
Choice = frozenset[tuple[str, str]]
"""(graph, layer) of every quantised layer."""

STRENGTHS = (0.0, 0.5, 0.75, 1.0)
DB_A_DOUBLING = 3.0
"""PSNR that twice the rate buys; of hyperprior codecs on Kodak, taken where a codec has one quality only."""
MACS_A_PRODUCT, MACS_A_SUM, MACS_A_DEPTHWISE = 40, 4, 300
"""The cost of an element left in float, in multiplications of a float convolution, as measured with ONNX Runtime.

A sum costs next to nothing where the convolution before it gives floats; a depthwise convolution in float between
integer ones has its input and output restored, transposed and quantised again.
"""


@dataclass(frozen=True)
class Side:
    """The graphs of one half of a codec, ready to be quantised.

    Attributes:
        graphs: name → graph, in the order they run, channels brought to similar ranges.
        steps, weights: of each graph, as `Quantiser` takes them.
        form: see `ugicm.calibration.int8.quantiser`.
        weight: (graph, layer) → what a layer left in float costs, in multiplications on a pixel of the image.
        handed: tensors that one graph hands to another.
        kept: graphs that stay in float, `g_s` where every view has a graph of its own.
    """

    graphs: Mapping[str, FloatGraph]
    steps: Mapping[str, Mapping[str, Step]]
    weights: Mapping[str, Mapping[str, Weights]]
    form: Form
    weight: Mapping[tuple[str, str], float]
    handed: frozenset[str]
    kept: frozenset[str]

    @property
    def precision(self) -> str:
        """As the manifest of a bundle of this form says it."""
        return "fp8" if self.form == "fp8" else "int8"

    @property
    def everything(self) -> Choice:
        return frozenset(
            (name, layer.name)
            for name, graph in self.graphs.items()
            for layer in graph.layers
            if name not in self.kept and graph.takes(layer, self.form)
        )

    def write(self, choice: Choice) -> dict[str, bytes]:
        """The graphs with the chosen layers quantised."""
        passed = self.passed(choice)
        return {
            name: Quantiser(graph, self.steps[name], self.weights[name], self.form, passed).write(
                {layer for owner, layer in choice if owner == name}
            )
            for name, graph in self.graphs.items()
        }

    def passed(self, choice: Choice) -> set[str]:
        """Tensors that are handed over as bytes: those that quantised layers make."""
        return {t for t in self.handed if self.form == "cpu" and self._as_bytes(t, choice)}

    def _as_bytes(self, tensor: str, choice: Choice) -> bool:
        for name, graph in self.graphs.items():
            if tensor in {o.name for o in graph.outputs}:
                made = {layer.output for layer in graph.layers if (name, layer.name) in choice}
                return graph.source(tensor) in made
        return False


def prepare(
    floats: Mapping[str, FloatGraph],
    coded: Sequence[Coded],
    backend: Backend,
    form: Form,
    bits: int,
    strength: float,
    natural: Mapping[str, Step],
) -> Side:
    """Ranges, weights and equalised graphs.

    Args:
        floats: the float graphs in the order they run.
        coded: what they are measured on.
        backend: where the float graphs run.
        form, bits: of the quantised graphs; bits of the weights.
        strength: of the equalisation, 0 to 1.
        natural: steps that the codec itself dictates, by tensor.
    """
    equaliser = Equaliser(floats)
    feeds = {name: [feed for c in coded for feed in c.feeds[name]] for name in floats}
    ranges, sizes = {}, {}
    for name, graph in floats.items():
        samples = collect(graph, _tensors(graph), feeds[name], backend)
        ranges[name] = {tensor: s.peak for tensor, s in samples.items()}
        sizes[name] = {tensor: s.size for tensor, s in samples.items()}
    factors = equaliser.factors(ranges, strength) if strength else {}
    graphs = equaliser.apply(factors)
    steps: dict[str, dict[str, Step]] = {}
    weights: dict[str, dict[str, Weights]] = {}
    for name, graph in graphs.items():
        scaled = [_rescaled(feed, factors.get(name, {})) for feed in feeds[name]]
        samples = collect(graph, _tensors(graph), scaled, backend)
        steps[name] = {tensor: best_step(s, form) for tensor, s in samples.items()}
        steps[name].update({t: replace(s, signed=form == "tensorrt") for t, s in natural.items() if t in samples})
        weights[name] = {
            layer.name: quantise_weights(graph, layer, samples[layer.inputs[0]].mean, bits, form)
            for layer in graph.layers
            if layer.kind == "conv"
        }
    handed = _agree(graphs, steps)
    pixels = sum(c.image.shape[0] * c.image.shape[1] for c in coded)
    weight = {
        (name, layer.name): _work(graph, layer, form) * sizes[name][layer.output] / pixels
        for name, graph in graphs.items()
        for layer in graph.layers
    }
    kept = {"g_s"} & set(graphs) if any(name.startswith("g_s.") for name in graphs) else set()
    return Side(graphs, steps, weights, form, weight, handed, frozenset(kept))


def _tensors(graph: FloatGraph) -> list[str]:
    names = {t for layer in graph.layers for t in (*layer.inputs, layer.output)}
    return sorted(names | {graph.source(t) for t in names})


def _rescaled(feed: Feed, factors: Mapping[str, Array]) -> Feed:
    return {k: v * factors[k].astype(np.float32)[:, None, None] if k in factors else v for k, v in feed.items()}


def _agree(graphs: Mapping[str, FloatGraph], steps: dict[str, dict[str, Step]]) -> frozenset[str]:
    """Gives a tensor that one graph hands to another the step of where it is made; the names of such tensors."""
    handed = set()
    for (name, graph), (other, following) in combinations(graphs.items(), 2):
        for tensor in {o.name for o in graph.outputs} & {i.name for i in following.inputs}:
            if (made := steps[name].get(graph.source(tensor))) is not None and tensor in steps[other]:
                steps[other][tensor] = made
                handed.add(tensor)
    return frozenset(handed)


def _work(graph: FloatGraph, layer: Layer, form: Form) -> float:
    """Multiplications for an element of the output; of other layers what costs as much."""
    if layer.kind != "conv":
        return MACS_A_SUM if layer.kind == "add" and form == "cpu" else MACS_A_PRODUCT
    weight = graph.parameters(layer)[0]
    depthwise = form == "cpu" and weight.shape[1] == 1 and len(weight) > 1
    return MACS_A_DEPTHWISE if depthwise else float(np.prod(weight.shape[1:]))


def synthesis_loss(coded: Sequence[Coded], backend: Backend) -> Callable[[Mapping[str, bytes]], float]:
    """A function that gives the loss of synthesis graphs, in dB, the mean over images, qualities and conditions."""
    before = [psnr(view, c.image) for c in coded for view in c.views]

    def loss(models: Mapping[str, bytes]) -> float:
        runs = {name: backend.load(model, name) for name, model in models.items()}
        after = []
        for c in coded:
            height, width = c.image.shape[:2]
            features = runs["g_s_trunk"](c.feeds["g_s_trunk"][0])[0] if "g_s_trunk" in runs else None
            views = [name for name in runs if name.startswith("g_s.")] or ["g_s"]
            for head, feed in ((name, feed) for name in views for feed in c.feeds[name]):
                view = runs[head](feed if features is None else {**feed, "features": features})[0][0]
                after.append(psnr(np.ascontiguousarray(view[:height, :width]), c.image))
        return float(np.mean(before) - np.mean(after))

    return loss


def analysis_loss(bundle: Bundle, coded: Sequence[Coded], backend: Backend) -> Callable[[Mapping[str, bytes]], float]:
    """A function that gives the loss of analysis graphs, in dB at equal bytes: their files, decoded in float."""
    slope = db_a_doubling(coded)
    decoder = Codec(bundle, backend)
    before = [(math.log2(len(c.data)), float(np.mean([psnr(v, c.image) for v in c.views]))) for c in coded]

    def loss(models: Mapping[str, bytes]) -> float:
        encoder = Codec(substituted(bundle, models), backend)
        losses = []
        for c, (size, quality) in zip(coded, before, strict=True):
            data = encoder.encode(c.image, c.quality)
            views = decoder.decode_views(data, conditions_of(decoder))
            lost = quality - float(np.mean([psnr(v, c.image) for v in views]))
            losses.append(lost + slope * (math.log2(len(data)) - size))
        return float(np.mean(losses))

    return loss


def substituted(bundle: Bundle, models: Mapping[str, bytes]) -> Bundle:
    """A bundle in memory with some of its graphs replaced."""
    contents = {name: bundle.file(name) for name in bundle.manifest.files}
    contents.update({bundle.manifest.graphs[name].file: model for name, model in models.items()})
    return Bundle(bundle.path, bundle.manifest, contents)


def db_a_doubling(coded: Sequence[Coded]) -> float:
    """PSNR that doubling the bytes buys, from the images' own curves; `DB_A_DOUBLING` for a single quality."""
    qualities = sorted({c.quality for c in coded})
    if len(qualities) < 2:
        return DB_A_DOUBLING
    points = [
        np.mean([(math.log2(len(c.data)), psnr(c.views[0], c.image)) for c in coded if c.quality == q], axis=0)
        for q in qualities
    ]
    return float(max(0.5, np.polyfit([p[0] for p in points], [p[1] for p in points], 1)[0]))


@dataclass(frozen=True)
class Found:
    """A choice and how it came about.

    Attributes:
        choice: the quantised layers.
        alone: layer → the loss of quantising it alone, dB.
        all_loss, loss: of everything quantised, and of the choice.
    """

    choice: Choice
    alone: Mapping[tuple[str, str], float]
    all_loss: float
    loss: float


def search(side: Side, loss: Callable[[Mapping[str, bytes]], float], tolerance: float) -> Found:
    """Quantises everything, then takes back layers until the loss is tolerated: those that cost most dB for their work.

    Layers that were taken back in vain return, the most expensive first.
    """
    everything = side.everything
    total = loss(side.write(everything))
    alone = {layer: loss(side.write(frozenset([layer]))) for layer in sorted(everything)}
    order = sorted(everything, key=lambda layer: (-max(alone[layer], 0) / max(side.weight[layer], 1e-9), layer))
    choice, now, back = everything, total, []
    for layer in order:
        if now <= tolerance:
            break
        choice -= {layer}
        now = loss(side.write(choice))
        back.append(layer)
    for layer in sorted(back[:-1], key=lambda layer: (-side.weight[layer], layer)):
        if (tried := loss(side.write(choice | {layer}))) <= tolerance:
            choice, now = choice | {layer}, tried
    return Found(choice, alone, total, now)
