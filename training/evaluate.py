"""`python -m ugicm.training.evaluate BUNDLE -o OUT`: what a codec's files are worth, to people and to machines.

Everything comes from real bitstreams: each image is encoded at every quality and decoded from the bytes, for `human`
and for `machine`. `--images` (lossless): bpp, PSNR, MS-SSIM, and BD-rate against JPEG and WebP. `--labelled` with
`--classifier`: top-1, and agreement with what the classifier says of the original. `--detect` with `--detector`: mean
average precision. `--segment` with `--segmenter`: mean intersection over union of what a network segments in the
decoded picture and in the original, over the images in which it finds something. JPEG and WebP are compared at the
lowest setting whose mean rate over the images is at least the codec's, so that they never have fewer bits. Intervals:
95 %, percentile bootstrap over images, paired for differences.

Writes `evaluation.json` and plots. Results are kept in OUT/cache: the same command continues, more qualities add to it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from ugicm import Codec
from ugicm.runtime.backends import open_backend
from ugicm.runtime.errors import BackendError, UgicError
from ugicm.runtime.files.output import write_atomically
from ugicm.runtime.measures.metrics import ms_ssim, psnr
from ugicm.runtime.onnx_bytes import wire
from ugicm.training.config import ConfigError
from ugicm.training.curves import LADDERS, bits_per_pixel, matched_setting, pillow_file, pillow_picture
from ugicm.training.image_sets import Images, boxed_images, labelled_images, plain_images, segmented_images
from ugicm.training.judges import NanoDet, SqueezeNet
from ugicm.training.report import report
from ugicm.training.segmenter import Segmenter, open_tflite

ORIGINAL = "original"
Record = dict[str, Any]
Judge = SqueezeNet | NanoDet | Segmenter


class Cache:
    """Records by what they were made from, as JSON files of a folder."""

    def __init__(self, folder: Path, *made_from: object) -> None:
        self.folder = folder
        self.made_from = made_from
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        """The record of a key; made, and kept, where there is none."""
        name = hashlib.sha256(repr((self.made_from, key)).encode()).hexdigest()[:20]
        path = self.folder / f"{name}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
        value = make()
        write_atomically(path, json.dumps(value).encode())
        return value


def judged(judge: Judge | None, originals: list[np.ndarray], pictures: list[np.ndarray]) -> Record:
    """The finds in pictures: classes, boxes, agreement of masks, or without a judge the likeness to the originals."""
    pairs = list(zip(originals, pictures, strict=True))
    record: Record = {"psnr": [psnr(a, b) for a, b in pairs if a is not b]}
    if isinstance(judge, SqueezeNet):
        record["classes"] = judge.classify(pictures)
    elif isinstance(judge, NanoDet):
        record["boxes"] = [judge.detect(picture) for picture in pictures]
    elif isinstance(judge, Segmenter):
        record["iou"] = [judge.agreement(a, b) for a, b in pairs]
    else:
        record["ms_ssim"] = [ms_ssim(a, b) for a, b in pairs]
    return record


class Evaluation:
    """Measures a codec and its rivals on a set of images.

    Args:
        codec: the codec.
        images: the set.
        judge: what looks at decoded pictures; None for PSNR and MS-SSIM.
        cache: of records.
        say: told what is being measured.
    """

    def __init__(
        self, codec: Codec, images: Images, judge: Judge | None, cache: Cache, say: Callable[[str], None]
    ) -> None:
        self.codec, self.images, self.judge, self.cache, self.say = codec, images, judge, cache, say

    def _kept(self, key: tuple[object, ...], make: Callable[[], Any]) -> Any:
        def told() -> Any:
            self.say(f"{self.images.name}: {' '.join(map(str, key))}")
            return make()

        return self.cache.get((self.images.name, self.images.digest, *key), told)

    def original(self) -> Record:
        """The judge's finds in the originals."""
        return self._kept((ORIGINAL,), lambda: judged(self.judge, self.images.pictures, self.images.pictures))

    def ugic(self, quality: int) -> dict[str, Record]:
        """Records of each view at a quality."""

        def make() -> dict[str, Record]:
            conditions = self.codec.conditions or (None,)
            files = [self.codec.encode(picture, quality) for picture in self.images.pictures]
            views = [self.codec.decode_views(data, conditions) for data in files]
            bpp = [bits_per_pixel(d, p) for d, p in zip(files, self.images.pictures, strict=True)]
            return {
                condition or "ugic": {"bpp": bpp, **judged(self.judge, self.images.pictures, [v[i] for v in views])}
                for i, condition in enumerate(conditions)
            }

        return self._kept(("quality", quality), make)

    def rival(self, kind: str, setting: int) -> Record:
        """The record of "JPEG" or "WebP" at a setting."""

        def make() -> Record:
            files = [pillow_file(picture, kind, setting) for picture in self.images.pictures]
            bpp = [bits_per_pixel(d, p) for d, p in zip(files, self.images.pictures, strict=True)]
            return {"bpp": bpp, **judged(self.judge, self.images.pictures, [pillow_picture(d) for d in files])}

        return self._kept((kind, setting), make)

    def matched(self, kind: str, bpp: float) -> Record:
        """The record of a rival at a mean rate of at least `bpp`."""
        key = (kind, "setting for", round(bpp, 5))
        setting = self._kept(key, lambda: matched_setting(self.images.pictures, kind, bpp))
        return {"setting": setting, **self.rival(kind, setting)}

    def run(self, qualities: Sequence[int]) -> Record:
        """All records: of the originals, of each quality with its rivals, for plain images of the rivals' ladders."""
        result: Record = {"count": len(self.images.pictures), ORIGINAL: self.original(), "qualities": {}}
        for quality in qualities:
            records = self.ugic(quality)
            bpp = float(np.mean(next(iter(records.values()))["bpp"]))
            records |= {kind: self.matched(kind, bpp) for kind in LADDERS}
            result["qualities"][quality] = records
        if self.judge is None:
            result["ladders"] = {k: {s: self.rival(k, s) for s in settings} for k, settings in LADDERS.items()}
        return result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m ugicm.training.evaluate", description=__doc__)
    p.add_argument("bundle", type=Path, nargs="?", help="default: the shipped one")
    p.add_argument("-o", "--output", type=Path, required=True)
    p.add_argument("--images", type=Path, help="folder of lossless images")
    p.add_argument("--labelled", type=Path, help="folder of images with LABELS.csv")
    p.add_argument("--classifier", type=Path, help="SqueezeNet 1.0 state dict that judges --labelled")
    p.add_argument("--detect", type=Path, help="folder with images/ and YOLO labels/")
    p.add_argument("--detector", type=Path, help="NanoDet-m ONNX file that judges --detect")
    p.add_argument("--segment", type=Path, help="folder of images")
    p.add_argument("--segmenter", type=Path, help="TFLite or ONNX file of a segmentation network that judges --segment")
    p.add_argument("--qualities", type=int, nargs="+", help="default: all of the codec")
    p.add_argument("--limit", type=int, help="at most so many images of each set, evenly spread")
    p.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (default: 1000)")
    p.add_argument("--threads", type=int)
    args = p.parse_args(arguments)
    for data, judge in (("labelled", "classifier"), ("detect", "detector"), ("segment", "segmenter")):
        if (getattr(args, data) is None) != (getattr(args, judge) is None):
            p.error(f"--{data} and --{judge} go together")
    if not (args.images or args.labelled or args.detect or args.segment):
        p.error("give --images, --labelled, --detect or --segment")
    return args


def measure(args: argparse.Namespace, say: Callable[[str], None]) -> dict[str, Any]:
    """Set name → truth and records. Raises ConfigError, UgicError."""
    codec = Codec.from_bundle(args.bundle, threads=args.threads)
    qualities = args.qualities or list(range(1, codec.qualities + 1))
    if any(not 1 <= q <= codec.qualities for q in qualities):
        raise ConfigError(f"--qualities: this codec has 1 to {codec.qualities}")
    made_from = _digest(codec.bundle.path / "manifest.json")  # which has a hash of each file
    results: dict[str, Any] = {"codec_id": codec.codec_id.hex(), "conditions": list(codec.conditions), "sets": {}}
    sets: list[tuple[Images, Judge | None, str]] = []
    if args.images:
        sets.append((plain_images(args.images, args.limit), None, ""))
    if args.labelled:
        sets.append((labelled_images(args.labelled, args.limit), SqueezeNet(args.classifier), _digest(args.classifier)))
    if args.detect:
        graph = open_backend("onnxruntime", args.threads).load(_bytes(args.detector), "detector")
        sets.append((boxed_images(args.detect, args.limit), NanoDet(graph), _digest(args.detector)))
    if args.segment:
        segmenter = open_segmenter(args.segmenter, args.threads)
        sets.append((segmented_images(args.segment, args.limit, segmenter), segmenter, _digest(args.segmenter)))
    for images, judge, digest in sets:
        cache = Cache(args.output / "cache", made_from, digest)
        records = Evaluation(codec, images, judge, cache, say).run(qualities)
        results["sets"][images.name] = {"truth": images.truth, **records}
    return results


def open_segmenter(path: Path, threads: int | None = None) -> Segmenter:
    """The segmenter of a TFLite or ONNX file. Raises ConfigError."""
    model = _bytes(path)
    if path.suffix == ".tflite":
        return open_tflite(path, threads)
    try:
        name, shape = _input(model)
        graph = open_backend("onnxruntime", threads).load(model, "segmenter")
    except (ValueError, BackendError):
        raise ConfigError(f"{path}: not an ONNX network of one input") from None
    return Segmenter(lambda x: graph({name: x})[0], shape, str(path))


def _input(model: bytes) -> tuple[str, list[int]]:
    """Name and shape, 0 where a size is free, of the only input of an ONNX file. Raises ValueError."""

    def part(message: memoryview, *numbers: int) -> list[memoryview]:
        found = [message]
        for number in numbers:
            found = [wire.content(v) for m in found for n, v in wire.fields(m) if n == number]
        return found

    graph = memoryview(model)
    held = {bytes(name) for name in part(graph, wire.MODEL_GRAPH, wire.GRAPH_INITIALIZER, wire.TENSOR_NAME)}
    inputs = part(graph, wire.MODEL_GRAPH, wire.GRAPH_INPUT)
    named = {bytes(part(value, wire.VALUE_NAME)[0]): value for value in inputs if part(value, wire.VALUE_NAME)}
    ((name, value),) = ((name, value) for name, value in named.items() if name not in held)
    dimensions = part(value, 2, 1, 2, 1)  # type, tensor, shape, dimension: onnx.proto3
    sizes = [[v for n, v in wire.fields(d) if n == 1 and isinstance(v, int)] for d in dimensions]
    return name.decode(), [size[0] if size else 0 for size in sizes]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _digest(path: Path) -> str:
    return hashlib.sha256(_bytes(path)).hexdigest()


def main(arguments: Sequence[str] | None = None) -> int:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=None if sys.stdout.isatty() else 150)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        results = measure(args, lambda line: console.print(line, style="dim", highlight=False))
    except (UgicError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    report(results, args.resamples, args.output, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
