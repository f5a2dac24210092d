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
from ugicm.runtime.catalogue import check_named, find_bundle
from ugicm.runtime.commands import streams
from ugicm.runtime.commands.cli import (
    Parser,
    add_backend_options,
    add_entropy_option,
    add_output_options,
    add_threads_option,
    for_each,
    printable,
    read_bytes,
    run,
)
from ugicm.runtime.errors import BundleError, ConditionError, UsageError
from ugicm.runtime.files import sections
from ugicm.runtime.files.images import check_suffix, picture_bytes, write_picture
from ugicm.runtime.files.output import make_folder, output_folder, output_names
from ugicm.runtime.files.picture import Picture
from ugicm.runtime.files.tree import keep_times
from ugicm.runtime.many.folders import add_folder_options, folder_mode, run_folder
from ugicm.runtime.many.jobs import Figures
from ugicm.runtime.processes.memory import keep_freed

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

_BOTH = ("human", "machine")


def main(arguments: Sequence[str] | None = None) -> int:
    """Decode what the command line names. Returns the exit status."""
    parser = Parser(prog="ugicm decode", description="Turn .ugic files back into images.")
    parser.add_argument(
        "files",
        nargs="+",
        type=streams.source,
        metavar="FILE",
        help=".ugic files, or one folder of them; - is standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="an image file for one input, in the format of its suffix; else a folder (created if missing); - is "
        "standard output",
    )
    parser.add_argument(
        "-c",
        "--condition",
        metavar="C",
        help="human, machine, both (NAME.human.png and NAME.machine.png), or a number from 0, human, to 1, "
        "machine; default: human",
    )
    parser.add_argument(
        "--format",
        metavar="F",
        help="of files in a folder and on standard output: png, webp, ppm (written fastest), jpg, …; default: png",
    )
    add_output_options(parser)
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


def decode_pictures(
    codec: Codec, data: bytes, conditions: Sequence[str | float | None], name: str
) -> tuple[Picture, ...]:
    """The views of a .ugic file, each with the opacity, profile and metadata that the file carries.

    Raises:
        CorruptFileError and what `Codec.decode_views` raises.
    """
    extras = sections.extras_of(bitstream.parse(data, name), name)
    views = codec.decode_views(data, conditions, name)
    return tuple(Picture(view, extras.alpha, extras.icc, extras.exif, extras.xmp) for view in views)


@dataclass(frozen=True)
class Decoding:
    """How each process of a folder run decodes: the folder to find bundles in, and the conditions."""

    bundle: Path | None
    conditions: tuple[str | float | None, ...]
    backend: str = "onnxruntime"
    precision: str | None = None
    threads: int = 1
    preserve: bool = False

    def open(self) -> Callable[[Path, tuple[Path, ...]], Figures]:
        """Codecs are opened when a file names them, by default on one thread: the processes share the CPUs."""
        keep_freed()
        codecs: dict[Path, Codec] = {}

        def decode(source: Path, outputs: tuple[Path, ...]) -> Figures:
            data = read_bytes(source)
            codec = _codec_of(
                data, source, self.bundle, codecs, threads=self.threads, backend=self.backend, precision=self.precision
            )
            pictures = decode_pictures(codec, data, self.conditions, str(source))
            make_folder(outputs[0].parent, parents=True)
            for output, picture in zip(outputs, pictures, strict=True):
                write_picture(output, picture)
            if self.preserve:
                keep_times(source, outputs)
            height, width = pictures[0].pixels.shape[:2]
            return Figures(len(data), sum(output.stat().st_size for output in outputs), width * height)

        return decode

    def convert(self) -> Callable[[bytes, str, Sequence[str]], tuple[list[bytes], Figures]]:
        """The same for the bytes of files; the suffixes of outputs name their formats."""
        keep_freed()
        codecs: dict[Path, Codec] = {}

        def decode(data: bytes, name: str, outputs: Sequence[str]) -> tuple[list[bytes], Figures]:
            options = {"threads": self.threads, "backend": self.backend, "precision": self.precision}
            codec = _codec_of(data, Path(name), self.bundle, codecs, **options)
            pictures = decode_pictures(codec, data, self.conditions, name)
            paths = [Path(output) for output in outputs]
            made = [picture_bytes(p, check_suffix(o), o) for p, o in zip(pictures, paths, strict=True)]
            height, width = pictures[0].pixels.shape[:2]
            return made, Figures(len(data), sum(map(len, made)), width * height)

        return decode


def labels_of(conditions: Sequence[str | float | None]) -> Sequence[str]:
    """The words in the names of outputs: none where there is one view."""
    return _BOTH if len(conditions) > 1 else ()


def _decode(options: argparse.Namespace) -> int:
    keep_freed()
    conditions = parse_condition(options.condition)
    labels = labels_of(conditions)
    if options.bundle is not None and not os.path.isdir(options.bundle):
        raise BundleError(f"{options.bundle}: no such folder; give --bundle the folder of a bundle")
    if options.bundle is not None:
        check_named(options.bundle)
    suffix = f".{(options.format or 'png').lstrip('.').lower()}"
    form = check_suffix(Path(f"--format {suffix}"))
    if folder_mode(options, options.files):
        if os.path.realpath(options.files[0]) == os.path.realpath(options.output):
            raise UsageError(f"{options.output}: pictures there could be replaced by decoded ones; use another folder")
        recipe = Decoding(
            options.bundle, conditions, options.backend, options.precision, options.threads or 1, options.preserve
        )
        return run_folder("decode", options.files[0], recipe, (".ugic",), suffix, labels, options)
    standard = options.output == "-"
    folder = None if standard else output_folder(options.files, options.output)
    if standard:
        streams.check_standard_output(len(options.files), len(conditions))
        names: list[tuple[Path, ...]] = [(streams.STANDARD,)]
    else:
        names = output_names(options.files, options.output, suffix, labels, options.suffix == "add")
        if options.format and folder is None and check_suffix(names[0][0]) != form:
            raise UsageError(f"{options.output}: its suffix says the format already; leave --format out")
        form = check_suffix(names[0][0])
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
        pictures = decode_pictures(codec, data, conditions, str(path))
        milliseconds = (time.perf_counter() - started) * 1e3
        if standard:
            streams.write_standard(picture_bytes(pictures[0], form, path))
        else:
            if folder is not None:
                make_folder(folder)
            for output, picture in zip(names[index], pictures, strict=True):
                write_picture(output, picture)
            if options.preserve and path != streams.STANDARD:
                keep_times(path, names[index])
        written = " and ".join(printable(output) for output in names[index])
        height, width = pictures[0].pixels.shape[:2]
        line = f"{printable(path)} -> {written}  {width}x{height}  {milliseconds:.0f} ms"
        print(line, file=sys.stderr if standard else sys.stdout, flush=True)

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
