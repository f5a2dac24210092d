"""`ugicm inspect FILE`: what a .ugic file holds, read from its header; no codec is needed."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtime import bitstream
from runtime.bundles import find_bundle
from runtime.cli import Parser, printable, read_bytes, run
from runtime.errors import CodecMismatchError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a file holds. Returns the exit status."""
    parser = Parser(prog="ugicm inspect", description="Show what a .ugic file holds, without decoding it.")
    parser.add_argument("file", type=Path, metavar="FILE", help="a .ugic file")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--bundle", type=Path, metavar="B", help="a codec's folder, to be looked in before the shipped codecs"
    )
    return run(parser, _inspect, arguments)


def describe(path: Path, extra: Sequence[Path] = ()) -> dict[str, Any]:
    """What a .ugic file holds, as JSON can say it.

    Args:
        path: the file; read, with its checksum, but not decoded.
        extra: folders that are bundles or hold some, besides the known ones.

    Returns:
        `file`, `version`, `codec_id` (hexadecimal), `quality`, `width`, `height` (pixels), `bytes`, `bpp`,
        `bits` with `header` (checksums included), `z` and `y` (a list, one number a substream),
        `symbol_checksum` (hexadecimal) and `bundle`, the folder of a bundle with this codec id, or None.

    Raises:
        UsageError: the file cannot be read.
        NotUgicError, VersionError, TruncatedError, CorruptFileError: see those types.
    """
    data = read_bytes(path)
    stream = bitstream.parse(data, str(path))
    try:
        bundle = str(find_bundle(stream.codec_id, extra))
    except CodecMismatchError:
        bundle = None
    payload = len(stream.z) + sum(map(len, stream.y))
    return {
        "file": str(path),
        "version": bitstream.VERSION,
        "codec_id": stream.codec_id.hex(),
        "quality": stream.quality,
        "width": stream.width,
        "height": stream.height,
        "bytes": len(data),
        "bpp": 8 * len(data) / (stream.width * stream.height),
        "bits": {
            "header": 8 * (len(data) - payload),
            "z": 8 * len(stream.z),
            "y": [8 * len(substream) for substream in stream.y],
        },
        "symbol_checksum": f"{stream.symbol_checksum:08x}",
        "bundle": bundle,
    }


def _inspect(options: argparse.Namespace) -> int:
    facts = describe(options.file, [] if options.bundle is None else [options.bundle])
    print(json.dumps(facts, indent=1) if options.json else _text(facts))
    return 0


def _text(facts: dict[str, Any]) -> str:
    total = 8 * facts["bytes"]
    bits = facts["bits"]
    count = len(bits["y"])
    bundle = facts["bundle"] or "none known here has this codec id; decoding needs one"

    def share(part: int) -> str:
        return f"{part:>12,} bits  {100 * part / total:5.1f} %"

    return "\n".join(
        [
            printable(facts["file"]),
            f"  size      {facts['width']}x{facts['height']} pixels",
            f"  quality   {facts['quality']}",
            f"  length    {facts['bytes']:,} bytes, {facts['bpp']:.4f} bits a pixel",
            f"    header  {share(bits['header'])}  (with both checksums)",
            f"    z       {share(bits['z'])}",
            f"    y       {share(sum(bits['y']))}  ({count} substream{'s' if count > 1 else ''})",
            f"  symbols   CRC-32 {facts['symbol_checksum']}",
            f"  format    version {facts['version']}",
            f"  codec     {facts['codec_id']}",
            f"  bundle    {printable(bundle)}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
