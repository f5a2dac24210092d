"""`ugicm web`: a page that decodes .ugic files in the browser, as a folder for any web server."""

from __future__ import annotations

import argparse
import gzip
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ugicm.adapters.web.library import PACKAGE, Library, at_cdn, found, installed
from ugicm.adapters.web.serve import ADDRESS, server
from ugicm.adapters.web.site import read_examples, site_files, write_site
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.commands.cli import Parser, printable, run
from ugicm.runtime.errors import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Write or show the page. Returns the exit status."""
    parser = Parser(
        prog="ugicm web",
        description="Write a page that decodes .ugic files in the browser; nothing leaves the machine.",
    )
    parser.add_argument(
        "bundle", nargs="?", type=Path, default=DEFAULT, metavar="BUNDLE", help="default: the shipped one"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="where the site goes; any server can serve it"
    )
    parser.add_argument("--serve", action="store_true", help="show the page on this machine, until interrupted")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="for --serve; default: 8000")
    parser.add_argument(
        "--example", type=Path, action="append", default=[], metavar="FILE", help="a .ugic file that the page offers"
    )
    parser.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="DIR",
        help=f"folder of the npm package {PACKAGE}; default: the one in node_modules here, above or in NODE_PATH, "
        "else its files at a CDN, by digest",
    )
    parser.add_argument("--cdn", action="store_true", help="do not copy the package, even where it is installed")
    return run(parser, _web, arguments)


def _web(options: argparse.Namespace) -> int:
    if options.output is None and not options.serve:
        raise UsageError("nothing to do: give -o FOLDER, or --serve for a look (see ugicm web --help)")
    if options.cdn and options.onnxruntime_web:
        raise UsageError("--cdn and --onnxruntime-web exclude each other; give one")
    library = _library(options)
    files = site_files(Bundle.open(options.bundle), library, read_examples(options.example))
    if options.output is not None:
        write_site(options.output, files)
        _tell(options.output, files, library)
        if not options.serve:
            print("next: ugicm web --serve, or serve the folder with the headers of docs/web.md")
            return 0
        return _serve(options.output, options.port)
    with tempfile.TemporaryDirectory() as folder:
        write_site(Path(folder), files)
        return _serve(Path(folder), options.port)


def _library(options: argparse.Namespace) -> Library:
    if options.cdn:
        return at_cdn()
    if options.onnxruntime_web:
        return installed(options.onnxruntime_web)
    return found() or at_cdn()


def _tell(folder: Path, files: Mapping[str, bytes], library: Library) -> None:
    size = sum(map(len, files.values()))
    packed = sum(len(gzip.compress(data, 6)) for data in files.values())
    print(f"{printable(folder)}: {len(files)} files, {size / 1e6:.1f} MB, {packed / 1e6:.1f} MB gzipped")
    where = "in the site" if library.contents else "from a CDN, by digest"
    print(f"{PACKAGE} {library.version}: {where}")


def _serve(folder: Path, port: int) -> int:
    with server(folder, port) as running:
        print(f"http://{ADDRESS}:{running.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        running.serve_forever()
    return 0
