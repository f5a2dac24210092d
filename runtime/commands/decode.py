"""`ugicm decode FILE… -o OUT`: .ugic files, or a folder of them, to images, for a person, for a machine, or both."""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugicm.runtime import bitstream
from ugicm.runtime.catalogue import find_bundle
from ugicm.runtime.commands.cli import (
    Parser,
    add_backend_options,
    add_entropy_option,
    add_threads_option,
    for_each,
    printable,
    read_bytes,
    run,
)
from ugicm.runtime.errors import BundleError, ConditionError, UsageError
from ugicm.runtime.files.images import check_suffix, write_image
from ugicm.runtime.files.output import make_folder, output_folder, output_names
from ugicm.runtime.many.folders import add_folder_options, folder_mode, run_folder
from ugicm.runtime.many.jobs import Figures
from ugicm.runtime.processes.memory import keep_freed

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

_BOTH = ("human", "machine")


def main(arguments: Sequence[str] | None = None) -> int:
    """Decode what the command line names. Returns the exit status."""
    parser = Parser(prog="ugicm decode", description="Turn .ugic files back into images.")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help=".ugic files, or one folder of them")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="an image file for one input, in the format of its suffix; else a folder (created if missing)",
    )
    parser.add_argument(
        "-c",
        "--condition",
        metavar="C",
        help="human, machine, both (NAME.human.png and NAME.machine.png), or a number from 0, human, to 1, "
        "machine; default: human",
    )
    parser.add_argument(
        "--bundle", type=Path, metavar="B", help="a codec's folder, to be looked in before the shipped codecs"
    )
    add_backend_options(parser)
    add_threads_option(parser)
    add_entropy_option(parser)
    add_folder_options(parser)
    return run(parser, _decode, arguments)


def parse_condition(text: str | None) -> tuple[str | float | None, ...]:
    """The conditions that `text` names, for `Codec.decode_views`; None is the codec's own default.

    Raises:
        ConditionError: not a name, nor a number from 0 to 1.
    """
    if text == "both":
        return _BOTH
    if text is None or text in _BOTH:
        return (text,)
    try:
        beta = float(text)
    except ValueError:
        beta = math.nan
    if not 0 <= beta <= 1:
        raise ConditionError(f"unknown condition '{text}'; use human, machine, both or a number from 0 to 1")
    return (beta,)


@dataclass(frozen=True)
class Decoding:
    """How each process of a folder run decodes: the folder to find bundles in, and the conditions."""

    bundle: Path | None
    conditions: tuple[str | float | None, ...]
    backend: str = "onnxruntime"
    precision: str | None = None
    threads: int = 1

    def open(self) -> Callable[[Path, tuple[Path, ...]], Figures]:
        """Codecs are opened when a file names them, by default on one thread: the processes share the CPUs."""
        keep_freed()
        codecs: dict[Path, Codec] = {}

        def decode(source: Path, outputs: tuple[Path, ...]) -> Figures:
            data = read_bytes(source)
            codec = _codec_of(
                data, source, self.bundle, codecs, threads=self.threads, backend=self.backend, precision=self.precision
            )
            views = codec.decode_views(data, self.conditions, str(source))
            make_folder(outputs[0].parent, parents=True)
            for output, view in zip(outputs, views, strict=True):
                write_image(output, view)
            height, width = views[0].shape[:2]
            return Figures(len(data), sum(output.stat().st_size for output in outputs), width * height)

        return decode


def _decode(options: argparse.Namespace) -> int:
    keep_freed()
    conditions = parse_condition(options.condition)
    labels = _BOTH if len(conditions) > 1 else ()
    if options.bundle is not None and not options.bundle.is_dir():
        raise BundleError(f"{options.bundle}: no such folder; give --bundle the folder of a bundle")
    if folder_mode(options, options.files):
        if os.path.realpath(options.files[0]) == os.path.realpath(options.output):
            raise UsageError(f"{options.output}: pictures there could be replaced by decoded ones; use another folder")
        recipe = Decoding(options.bundle, conditions, options.backend, options.precision, options.threads or 1)
        return run_folder("decode", options.files[0], recipe, (".ugic",), ".png", labels, options)
    folder = output_folder(options.files, options.output)
    names = output_names(options.files, options.output, ".png", labels)
    check_suffix(names[0][0])
    codecs: dict[Path, Codec] = {}

    def decode(index: int, path: Path) -> None:
        data = read_bytes(path)
        codec = _codec_of(
            data,
            path,
            options.bundle,
            codecs,
            backend=options.backend,
            precision=options.precision,
            threads=options.threads,
            entropy_workers=options.entropy_workers,
        )
        started = time.perf_counter()
        views = codec.decode_views(data, conditions, str(path))
        milliseconds = (time.perf_counter() - started) * 1e3
        if folder is not None:
            make_folder(folder)
        for output, view in zip(names[index], views, strict=True):
            write_image(output, view)
        written = " and ".join(printable(output) for output in names[index])
        height, width = views[0].shape[:2]
        print(f"{printable(path)} -> {written}  {width}x{height}  {milliseconds:.0f} ms", flush=True)

    return for_each(options.files, decode)


def _codec_of(data: bytes, path: Path, extra: Path | None, codecs: dict[Path, Codec], **options: Any) -> Codec:
    """The codec that a file names, opened with these options, once however many files name it."""
    stream = bitstream.parse(data, str(path))
    found = find_bundle(stream.codec_id, [] if extra is None else [extra])
    if found not in codecs:
        from ugicm.runtime.codec import Codec  # a backend is loaded only once there is something to decode

        codecs[found] = Codec.from_bundle(found, **options)
    return codecs[found]


if __name__ == "__main__":
    sys.exit(main())
