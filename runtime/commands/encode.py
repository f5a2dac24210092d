"""`ugicm encode IMAGE… -o OUT` and `ugicm encode FOLDER -o FOLDER`: images to .ugic files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ugicm.runtime.commands.cli import Parser, add_backend_options, add_entropy_option, for_each, printable, run
from ugicm.runtime.errors import QualityError
from ugicm.runtime.files.images import read_image, readable_suffixes
from ugicm.runtime.files.output import make_folder, output_folder, output_names, write_atomically
from ugicm.runtime.many.folders import Figures, add_folder_options, folder_mode, run_folder
from ugicm.runtime.processes.memory import keep_freed
from ugicm.runtime.qualities import DEFAULT_QUALITY, default_quality


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode what the command line names. Returns the exit status."""
    parser = Parser(prog="ugicm encode", description="Compress images to .ugic files.")
    parser.add_argument(
        "images",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="PNG, JPEG, WebP, TIFF, … files; or one folder, with all folders in it",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a file for one image, else a folder (created if missing)",
    )
    parser.add_argument(
        "-q",
        "--quality",
        metavar="Q",
        help=f"1, the smallest file, up to the codec's best; default {DEFAULT_QUALITY}",
    )
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    add_backend_options(parser)
    add_entropy_option(parser)
    add_folder_options(parser)
    return run(parser, _encode, arguments)


def parse_quality(text: str | None, qualities: int) -> int:
    """The quality that `text` names, None the default. Raises QualityError."""
    if text is None:
        return default_quality(qualities)
    try:
        quality = int(text)
    except ValueError:
        quality = 0
    if not 1 <= quality <= qualities:
        legal = "1, the only one of this codec" if qualities == 1 else f"a whole number from 1 to {qualities}"
        raise QualityError(f"quality '{text}' is not one of this codec's; use {legal}")
    return quality


@dataclass(frozen=True)
class Encoding:
    """How each process of a folder run encodes: the bundle (None: the shipped one), the quality, the backend."""

    bundle: Path | None
    quality: int
    backend: str = "onnxruntime"
    precision: str | None = None

    def open(self) -> Callable[[Path, tuple[Path, ...]], Figures]:
        """Opens the codec, on one thread: the processes share the CPUs already."""
        keep_freed()
        from ugicm.runtime.codec import Codec

        codec = Codec.from_bundle(self.bundle, threads=1, backend=self.backend, precision=self.precision)

        def encode(source: Path, outputs: tuple[Path, ...]) -> Figures:
            pixels = read_image(source)
            data = codec.encode(pixels, self.quality)
            make_folder(outputs[0].parent, parents=True)
            write_atomically(outputs[0], data)
            return Figures(source.stat().st_size, len(data), pixels.shape[0] * pixels.shape[1])

        return encode


def _encode(options: argparse.Namespace) -> int:
    from ugicm.runtime.codec import Codec  # a backend is loaded only once the command line makes sense

    keep_freed()
    if folder_mode(options, options.images):
        codec = Codec.from_bundle(options.bundle, backend=options.backend, precision=options.precision)
        quality = parse_quality(options.quality, codec.qualities)
        recipe = Encoding(options.bundle, quality, options.backend, options.precision)
        return run_folder("encode", options.images[0], recipe, readable_suffixes(), ".ugic", (), options)
    folder = output_folder(options.images, options.output)
    names = output_names(options.images, options.output, ".ugic")
    codec = Codec.from_bundle(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        entropy_workers=options.entropy_workers,
    )
    quality = parse_quality(options.quality, codec.qualities)

    def encode(index: int, path: Path) -> None:
        pixels = read_image(path)
        started = time.perf_counter()
        data = codec.encode(pixels, quality)
        milliseconds = (time.perf_counter() - started) * 1e3
        if folder is not None:
            make_folder(folder)
        (output,) = names[index]
        write_atomically(output, data)
        bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
        figures = f"{len(data):,} bytes  {bpp:.3f} bpp  {milliseconds:.0f} ms"
        print(f"{printable(path)} -> {printable(output)}  {figures}", flush=True)

    return for_each(options.images, encode)


if __name__ == "__main__":
    sys.exit(main())
