"""`ugicm report IMAGE… -o report.html`: what the codec does to your images, as one page that needs no network."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ugicm.runtime.commands.cli import Parser, add_threads_option, for_each, printable, run
from ugicm.runtime.commands.encode import parse_quality
from ugicm.runtime.commands.report.page import Section, page, section
from ugicm.runtime.encoder.quality import DEFAULT_QUALITY
from ugicm.runtime.errors import OutputError, UsageError
from ugicm.runtime.files.images import read_image
from ugicm.runtime.files.output import write_atomically


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a report. Returns the exit status."""
    parser = Parser(prog="ugicm report", description="Show what the codec does to images, as one self-contained page.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="PNG, JPEG, WebP, TIFF, … files")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PAGE", help="the HTML file to write")
    parser.add_argument(
        "-q", "--quality", metavar="Q", help=f"of the views shown; default {DEFAULT_QUALITY}; the curves have all"
    )
    parser.add_argument("--bundle", type=Path, metavar="B", help="folder of the codec; default: the shipped one")
    add_threads_option(parser)
    return run(parser, _report, arguments)


def _report(options: argparse.Namespace) -> int:
    from ugicm.runtime.codec import Codec  # a backend is loaded only once the command line makes sense

    _check_output(options.output, options.images)
    codec = Codec.from_bundle(options.bundle, threads=options.threads)
    quality = int(parse_quality(options.quality, codec.qualities, whole=True))
    for graph in ("g_a", "g_s"):  # half a codec refuses before any work
        codec.bundle.graph(graph)
    sections: list[Section] = []
    waiting = Console(stderr=True)  # its status shows on terminals alone

    def add(index: int, path: Path) -> None:
        pixels = read_image(path)
        with waiting.status(Text(f"{printable(path)}: encoding at {codec.qualities} qualities")):
            sections.append(section(codec, path.name, pixels, quality, f"image-{index + 1}"))
        print(f"{printable(path)}  {sections[-1].line}", flush=True)

    status = for_each(options.images, add)
    if sections:
        data = page(codec, sections, quality, options.threads).encode("utf-8", "backslashreplace")
        write_atomically(options.output, data)
        print(f"{printable(options.output)}  {len(data) / 1e6:.1f} MB: open it in a browser")
    return status


def _check_output(output: Path, images: Sequence[Path]) -> None:
    """Refuse before minutes of work what could not be written after it."""
    if os.path.isdir(output):
        raise OutputError(f"{output}: cannot be written: it is a folder; add a file name")
    if not os.path.isdir(output.parent):
        raise OutputError(f"{output}: cannot be written: its folder does not exist; create it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise OutputError(f"{output}: cannot be written: no permission to write there; choose another folder")
    if os.path.realpath(output) in {os.path.realpath(image) for image in images}:
        raise UsageError(f"{output}: this output would replace an input; choose another name")


if __name__ == "__main__":
    sys.exit(main())
