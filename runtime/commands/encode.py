"""`ugicm encode IMAGE… -o OUT` and `ugicm encode FOLDER -o FOLDER`: images to .ugic files."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ugicm.runtime import bitstream
from ugicm.runtime.commands import streams
from ugicm.runtime.commands.cli import (
    Parser,
    add_backend_options,
    add_entropy_option,
    add_output_options,
    add_threads_option,
    for_each,
    printable,
    run,
)
from ugicm.runtime.encoder.quality import DEFAULT_QUALITY, default_quality, quality_byte
from ugicm.runtime.errors import QualityError, UgicError, UsageError
from ugicm.runtime.files import sections
from ugicm.runtime.files.images import readable_suffixes
from ugicm.runtime.files.keeping import Keeping
from ugicm.runtime.files.output import make_folder, output_folder, output_names, write_atomically
from ugicm.runtime.files.tree import keep_times, size_of
from ugicm.runtime.many.folders import add_folder_options, folder_mode, run_folder
from ugicm.runtime.many.jobs import Figures
from ugicm.runtime.processes.memory import keep_freed

if TYPE_CHECKING:
    from ugicm.runtime.bundle import Bundle
    from ugicm.runtime.codec import Codec

EFFORTS = (0, 1, 2, 3)
TUNES = ("psnr", "ms-ssim", "machine")
TARGETS = ("target_bpp", "target_psnr", "max_bytes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Encode what the command line names. Returns the exit status."""
    parser = Parser(prog="ugicm encode", description="Compress images to .ugic files.")
    parser.add_argument(
        "images",
        nargs="+",
        type=streams.source,
        metavar="IMAGE",
        help="PNG, JPEG, WebP, TIFF, … files; or one folder, with all folders in it; - is standard input",
    )
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a file for one image, else a folder (created if missing); - is standard output",
    )
    parser.add_argument(
        "-q",
        "--quality",
        metavar="Q",
        help=f"1, the smallest file, up to the codec's best, and between, as 4.3; default {DEFAULT_QUALITY}",
    )
    for option, metavar, words in (
        ("--target-bpp", "BPP", "in place of a quality: the one that comes nearest to so many bits a pixel"),
        ("--target-psnr", "DB", "in place of a quality: the one whose human view comes nearest to such a PSNR"),
        ("--max-bytes", "N", "in place of a quality: the best whose file is no longer than so many bytes"),
    ):
        parser.add_argument(option, type=float, metavar=metavar, help=words)
    parser.add_argument(
        "--effort",
        type=int,
        choices=EFFORTS,
        default=0,
        help="search for better latents, in 5 (1), 10 (2) or 200 (3) steps of about twice the time of a decode each: "
        "smaller files of the same quality, which any decoder reads; default: 0",
    )
    parser.add_argument(
        "--tune",
        choices=TUNES,
        default=TUNES[0],
        help="the distortion that an effort weighs: squared error, MS-SSIM, or squared errors of the human and the "
        "machine view; default: psnr",
    )
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    parser.add_argument("--strip", action="store_true", help="leave EXIF and XMP behind")
    parser.add_argument(
        "--keep-profile", action="store_true", help="code RGB pixels as they are, with their profile; default: as sRGB"
    )
    parser.add_argument("--opaque", action="store_true", help="put white behind transparency; default: keep it")
    add_output_options(parser)
    add_backend_options(parser)
    add_threads_option(parser)
    add_entropy_option(parser)
    add_folder_options(parser)
    return run(parser, _encode, arguments)


def parse_quality(text: str | None, qualities: int, whole: bool = False) -> float:
    """The quality that `text` names, None the default. Raises QualityError: none, or no whole one where one must be."""
    if text is None:
        return default_quality(qualities)
    try:
        quality = float(text)
    except ValueError:
        quality = 0
    if not 1 <= quality <= qualities or (whole and quality != int(quality)):
        legal = f"a {'whole ' * whole}number from 1 to {qualities}"
        legal = "1, the only one of this codec" if qualities == 1 else legal
        raise QualityError(f"quality '{text}' is not one of this codec's; use {legal}")
    return int(quality) if quality == int(quality) else quality


@dataclass(frozen=True)
class Encoded:
    """A .ugic file of width × height pixels.

    held: bytes of each of its sections by name.
    milliseconds: that the codec took.
    """

    data: bytes
    width: int
    height: int
    held: dict[str, int]
    milliseconds: float


def encode_picture(
    codec: Codec, source: Path | bytes, quality: float | None, keeping: Keeping, name: str, **wish: Any
) -> Encoded:
    """Encode a picture file with what it holds besides pixels. One warning says what had to be converted or dropped.

    Args:
        wish: effort and target, as for `Codec.encode`; a size is that of the whole file.

    Raises:
        ImageError: see `picture.read_picture`.
        QualityError: see `Codec.encode`.
    """
    picture = keeping.read(source, name)
    started = time.perf_counter()
    data = codec.encode(picture.pixels, quality, **wish)
    whole = sections.attach(data, picture)
    limit, more = wish.get("max_bytes"), len(whole) - len(data)
    if limit is not None and more:
        if more >= limit:
            raise QualityError(f"{name}: holds {more:,} bytes besides pixels, of {limit:,.0f} allowed; use --strip")
        whole = sections.attach(codec.encode(picture.pixels, quality, **{**wish, "max_bytes": limit - more}), picture)
    data, milliseconds = whole, (time.perf_counter() - started) * 1e3
    height, width = picture.pixels.shape[:2]
    return Encoded(data, width, height, sections.sizes(bitstream.parse(data)), milliseconds)


@dataclass(frozen=True)
class Encoding:
    """How each process of a folder run encodes: the bundle (None: the shipped one), the quality, the backend; `wish` is
    as for `encode_picture`."""

    bundle: Path | None
    quality: float | None
    backend: str = "onnxruntime"
    precision: str | None = None
    threads: int = 1
    keeping: Keeping = Keeping()
    preserve: bool = False
    wish: Mapping[str, Any] = field(default_factory=dict)

    def open(self) -> Callable[[Path, tuple[Path, ...]], Figures]:
        """Opens the codec, by default on one thread: the processes share the CPUs already."""
        codec = self._codec()

        def encode(source: Path, outputs: tuple[Path, ...]) -> Figures:
            size = size_of(source)
            found = encode_picture(codec, source, self.quality, self.keeping, str(source), **self.wish)
            make_folder(outputs[0].parent, parents=True)
            write_atomically(outputs[0], found.data)
            if self.preserve:
                keep_times(source, outputs)
            return Figures(size, len(found.data), found.width * found.height, sum(found.held.values()))

        return encode

    def convert(self) -> Callable[[bytes, str, Sequence[str]], tuple[list[bytes], Figures]]:
        """The same for the bytes of files."""
        codec = self._codec()

        def encode(data: bytes, name: str, _: Sequence[str]) -> tuple[list[bytes], Figures]:
            found = encode_picture(codec, data, self.quality, self.keeping, name, **self.wish)
            pixels, carried = found.width * found.height, sum(found.held.values())
            return [found.data], Figures(len(data), len(found.data), pixels, carried)

        return encode

    def _codec(self) -> Codec:
        keep_freed()
        from ugicm.runtime.codec import Codec

        return Codec.from_bundle(self.bundle, threads=self.threads, backend=self.backend, precision=self.precision)


def made_with(bundle: Bundle, quality: float | None) -> Callable[[Path], bool]:
    """Whether a file was made with a codec at a quality; never where that is None, a target that no header tells."""

    def made_so(output: Path) -> bool:
        try:
            with output.open("rb") as handle:
                header = bitstream.read_header(handle.read(bitstream.HEADER_BYTES))
        except (OSError, UgicError):
            return False
        if quality is None:
            return False
        return (header.codec_id, header.quality) == (bundle.codec_id, quality_byte(quality, bundle))

    return made_so


def _encode(options: argparse.Namespace) -> int:
    from ugicm.runtime.codec import Codec  # a backend is loaded only once the command line makes sense

    keep_freed()
    keeping = Keeping(options.strip, options.keep_profile, options.opaque)
    targets = {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}
    wish = {"effort": options.effort, "tune": options.tune, **targets}
    if len(targets) + (options.quality is not None) > 1:
        raise UsageError("give one of --quality, --target-bpp, --target-psnr and --max-bytes")

    def asked_quality(qualities: int) -> float | None:
        return None if targets else parse_quality(options.quality, qualities)

    if folder_mode(options, options.images):
        codec = Codec.from_bundle(options.bundle, backend=options.backend, precision=options.precision)
        quality = asked_quality(codec.qualities)
        recipe = Encoding(
            options.bundle,
            quality,
            options.backend,
            options.precision,
            options.threads or 1,
            keeping,
            options.preserve,
            wish,
        )

        made_so = made_with(codec.bundle, quality)
        suffixes = readable_suffixes()
        return run_folder("encode", options.images[0], recipe, suffixes, ".ugic", (), options, made_so)
    standard = options.output == "-"
    folder = None if standard else output_folder(options.images, options.output)
    if standard:
        streams.check_standard_output(len(options.images), 1)
        names: list[tuple[Path, ...]] = [(streams.STANDARD,)]
    else:
        names = output_names(options.images, options.output, ".ugic", add=options.suffix == "add")
    codec = Codec.from_bundle(
        options.bundle,
        backend=options.backend,
        precision=options.precision,
        threads=options.threads,
        entropy_workers=options.entropy_workers,
    )
    quality = asked_quality(codec.qualities)

    def encode(index: int, path: Path) -> None:
        piped = path == streams.STANDARD
        source = streams.read_standard() if piped else path
        with _bar(options.effort) as watch:
            found = encode_picture(codec, source, quality, keeping, str(path), **wish, watch=watch)
        (output,) = names[index]
        if standard:
            streams.write_standard(found.data)
        else:
            if folder is not None:
                make_folder(folder)
            write_atomically(output, found.data)
            if options.preserve and not piped:
                keep_times(path, [output])
        bpp = 8 * len(found.data) / (found.width * found.height)
        figures = f"{len(found.data):,} bytes  {bpp:.3f} bpp  {found.milliseconds:.0f} ms"
        if found.held:
            figures += f"  ({sections.in_words(found.held)})"
        line = f"{printable(path)} -> {printable(output)}  {figures}"
        print(line, file=sys.stderr if standard else sys.stdout, flush=True)

    return for_each(options.images, encode)


@contextmanager
def _bar(effort: int) -> Iterator[Callable[[int, int], None] | None]:
    """Hears of steps and shows them as a bar with the time that is left; None where nobody would see it or wait."""
    if effort < EFFORTS[-1] or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("search", total=None)
        yield lambda step, steps: bar.update(task, completed=step, total=steps)


if __name__ == "__main__":
    sys.exit(main())
