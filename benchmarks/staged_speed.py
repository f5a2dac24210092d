"""`python -m benchmarks.staged_speed FOLDER [IMAGE]`: codecs with context beside PyTorch, bytes to picture and back.

Same weights, one process, the same threads for all, alternating: CompressAI's own `compress` and `decompress` for its
models. For UG-ICM's network it is its authors' code, where `--authors` names a checkout of it; otherwise our modules of
the same network, run eagerly by PyTorch with our range coder, stand in for it.

Checkpoints and bundles are looked for in FOLDER by the name of the architecture, with a bundle ARCHITECTURE.int8 where
`ugicm.calibration.int8` wrote one; what is missing is made first, with random weights, which takes minutes: UG-ICM's
network of the published size, CompressAI's models of the widths that their classes have by default (192 channels for
the checkerboard, 192/320 for ELIC). Time does not depend on weights, bits do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks.authors import AuthorsCodec
from benchmarks.compare import Work, alternate, pixels, show, summary, tensor
from benchmarks.published import write_random
from ugicm import Codec
from ugicm.export.checkpoint import load
from ugicm.export.compressai_zoo import architecture_of, load_zoo
from ugicm.export.source import Source
from ugicm.export.state import state_of
from ugicm.export.to_onnx import export_bundle
from ugicm.models.conditioning import HUMAN
from ugicm.models.entropy import compressai_module
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.files.images import read_image
from ugicm.runtime.measures.pictures import generated_image

UGICM = "ugicm-mlicpp"
THEIRS = {
    "cheng2020-anchor-checkerboard": "Cheng2020AnchorCheckerboard",
    "elic2022-official": "Elic2022Official",
    "elic2022-chandelier": "Elic2022Chandelier",
}


class Eager:
    """PyTorch as a backend: each graph is the module that it was exported from."""

    name = "PyTorch, eager"

    def __init__(self, source: Source) -> None:
        self._graphs = source.graphs

    def load(self, model: bytes, name: str, weights: object = None) -> Any:
        graph = self._graphs[name]

        def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            given = (torch.from_numpy(np.ascontiguousarray(inputs[i])) for i in graph.inputs)
            found = graph.module(*given)
            return [t.numpy() for t in ((found,) if isinstance(found, torch.Tensor) else found)]

        return run


def prepared(folder: Path, architecture: str) -> tuple[Path, Path]:
    """The checkpoint and the bundle of an architecture, made where they are missing."""
    checkpoint, bundle = folder / f"{architecture}.pth.tar", folder / architecture
    folder.mkdir(parents=True, exist_ok=True)
    if not checkpoint.exists() and architecture == UGICM:
        write_random(checkpoint)
    elif not checkpoint.exists():
        torch.manual_seed(0)
        model = getattr(compressai_module("models.sensetime"), THEIRS[architecture])()
        torch.save({"state_dict": model.state_dict()}, checkpoint)
    if not bundle.exists():
        export_bundle(load(checkpoint), bundle, console=Console(stderr=True))
    return checkpoint, bundle


def peer(checkpoint: Path, bundle: Path, image: np.ndarray, authors: Path | None = None) -> tuple[str, Work, Work]:
    """The name of what ours is compared with, its encoder and its decoder, of the same weights.

    `authors` is a checkout of UG-ICM's repository, for its network.
    """
    state = state_of(torch.load(checkpoint, weights_only=True, map_location="cpu"))
    architecture = None if state is None else architecture_of(state)
    if state is not None and architecture in THEIRS:
        model: Any = load_zoo(state, architecture).module
        model.eval().update(force=True)
        coded = model.compress(tensor(image, 64))

        def decode() -> np.ndarray:
            return pixels(model.decompress(coded["strings"], coded["shape"])["x_hat"], image.shape)

        return "CompressAI", lambda: model.compress(tensor(image, 64)), decode
    if authors is not None and state is not None:
        their = AuthorsCodec(authors, state)
        strings = their.encode(image)
        return "its authors' code", lambda: their.encode(image), lambda: their.decode(strings, image.shape, HUMAN)
    opened = Bundle.open(bundle)
    graphs = {name: entry for name, entry in opened.manifest.graphs.items() if name != "g_s.view"}
    contents = {name: opened.file(name) for name in opened.manifest.files}
    plain = Bundle(bundle, replace(opened.manifest, graphs=graphs, views=()), contents)  # a condition is an input
    codec = Codec(plain, Eager(load(checkpoint)))  # type: ignore[arg-type]
    data = codec.encode(image)
    return "our modules in PyTorch", lambda: codec.encode(image), lambda: codec.decode(data)


def works(
    folder: Path, architecture: str, image: np.ndarray, threads: int, authors: Path | None = None
) -> dict[str, dict[str, Work]]:
    """Decoders and encoders of an architecture; the first of each is what the others are compared with."""
    checkpoint, bundle = prepared(folder, architecture)
    name, encode, decode = peer(checkpoint, bundle, image, authors)
    decoders, encoders = {name: decode}, {name: encode}
    for label, path in {"here": bundle, "here, INT8": folder / f"{architecture}.int8"}.items():
        if not path.exists():
            continue
        codec = Codec.from_bundle(path, threads=threads)
        data = codec.encode(image)
        decoders[label] = lambda codec=codec, data=data: codec.decode(data)  # type: ignore[misc]
        encoders[label] = lambda codec=codec: codec.encode(image)  # type: ignore[misc]
        if len(codec.conditions) > 1:
            decoders[f"{label}, both views"] = lambda codec=codec, data=data: codec.decode_views(  # type: ignore[misc]
                data, codec.conditions
            )
    return {f"{architecture}, decode": decoders, f"{architecture}, encode": encoders}


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.staged_speed", description=__doc__.split("\n")[0])
    p.add_argument("folder", type=Path, help="of checkpoints and bundles, made where they are missing")
    p.add_argument("image", nargs="?", type=Path, help="default: a generated one of 768×512")
    p.add_argument("--architectures", nargs="+", choices=(*THEIRS, UGICM), default=(*THEIRS, UGICM), metavar="A")
    p.add_argument("--authors", type=Path, metavar="CHECKOUT", help="of YinKangSheng/UG-ICM; needs timm and einops")
    p.add_argument("--threads", type=int, default=2, help="of each; default: 2")
    p.add_argument("--repeat", type=int, default=5)
    p.add_argument("--json", action="store_true")
    args = p.parse_args(arguments)
    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    image = generated_image(512, 768) if args.image is None else read_image(args.image)
    found = {}
    for architecture in args.architectures:
        for group, members in works(args.folder, architecture, image, args.threads, args.authors).items():
            found[group] = summary(alternate(members, args.repeat))
    show(found, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
