"""`ugicm info BUNDLE|FILE`: what a bundle or a .ugic file holds; nothing is decoded and no backend is loaded."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ugicm.runtime import bitstream
from ugicm.runtime.between import quality_of
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.catalogue import check_named, find_bundle
from ugicm.runtime.commands.cli import Parser, printable, read_bytes, run
from ugicm.runtime.commands.coder import coder_here
from ugicm.runtime.errors import BundleError, CodecMismatchError
from ugicm.runtime.exact import EXACT_LIMIT
from ugicm.runtime.files import sections
from ugicm.runtime.graphs.stage_answers import in_double
from ugicm.runtime.guard import SHIFTS
from ugicm.runtime.manifest import MANIFEST, read_manifest


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a bundle or a file holds. Returns the exit status."""
    parser = Parser(prog="ugicm info", description="Show what a bundle or a .ugic file holds, without decoding it.")
    parser.add_argument(
        "path", nargs="?", type=Path, metavar="BUNDLE|FILE", help="default: the bundle that ships with the runtime"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--bundle", type=Path, metavar="B", help="a codec's folder, to be looked in before the shipped codecs"
    )
    return run(parser, _info, arguments)


def describe_bundle(path: Path) -> dict[str, Any]:
    """The contents of a bundle, as JSON can say them; every file of it is verified.

    Returns:
        `bundle`, `architecture`, `codec_id`, `part`, `precision`, `qualities`, `conditions` (name → beta), `context`,
        `parameters` and `kmac_per_pixel` (by part; None where the export did not say), `stride`, `latent_stride`,
        `latent_channels`, `hyper_channels`, `schedule` and `guards` of a codec with context (or None), `double`
        (whether its stages are in double precision), `proof` (each layer's largest possible |accumulator|, and what it
        must stay below), `tables` (rows and entries of y and z), `files` (name → bytes), `bytes`, their sum, and
        `coder`, the range coder that runs on this machine.

    Raises:
        BundleError, VersionError: see those types.
    """
    bundle = Bundle.open(path)
    m = bundle.manifest
    return {
        "bundle": str(path),
        "architecture": m.architecture,
        "codec_id": m.codec_id,
        "part": m.part,
        "precision": m.precision,
        "qualities": m.qualities,
        "conditions": m.conditions,
        "context": m.context,
        "parameters": m.model.get("parameters"),
        "kmac_per_pixel": m.model.get("kmac_per_pixel"),
        "stride": m.stride,
        "latent_stride": m.latent_stride,
        "schedule": None if m.schedule is None else m.schedule.to_json(),
        "double": in_double(m),
        "guards": None if m.schedule is None else _guards(m.schedule.band_bits, m.schedule.block),
        "latent_channels": m.latent_channels,
        "hyper_channels": m.hyper_channels,
        "proof": [
            {"layer": name, "largest": bound, "of": EXACT_LIMIT}
            for name, bound in (bundle.exact.bounds() if bundle.exact else {}).items()
        ],
        "tables": {
            name: {"rows": tables.rows, "entries": int(tables.frequencies.size)}
            for name, tables in (("y", bundle.y_tables), ("z", bundle.z_tables))
        },
        "files": {name: entry.bytes for name, entry in sorted(m.files.items())},
        "bytes": sum(entry.bytes for entry in m.files.values()),
        "coder": coder_here(),
    }


def describe(path: Path, extra: Sequence[Path] = ()) -> dict[str, Any]:
    """The contents of a .ugic file, as JSON can say them.

    Args:
        path: the file; read, with its checksum, but not decoded.
        extra: folders that are bundles or hold some, besides the known ones.

    Returns:
        `file`, `version`, `codec_id` (hexadecimal), `quality`, `width`, `height` (pixels), `bytes`, `bpp`,
        `bits` with `header` (checksums and sections included), `z` and `y` (a list, one number a substream), `sections`
        (name → bytes: transparency, ICC profile, EXIF, XMP), `guards` of a codec with context (or None),
        `symbol_checksum` (hexadecimal), `bundle`, the folder of a bundle with this codec id, or None, and `coder`, the
        range coder that runs on this machine.

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
        "version": stream.version,
        "codec_id": stream.codec_id.hex(),
        "quality": _quality(stream.quality, bundle),
        "width": stream.width,
        "height": stream.height,
        "bytes": len(data),
        "bpp": 8 * len(data) / (stream.width * stream.height),
        "bits": {
            "header": 8 * (len(data) - payload),
            "z": 8 * len(stream.z),
            "y": [8 * len(substream) for substream in stream.y],
        },
        "guards": None if stream.guard is None else _guards(stream.guard.band_bits, stream.guard.block),
        "sections": sections.sizes(stream),
        "symbol_checksum": f"{stream.symbol_checksum:08x}",
        "bundle": bundle,
        "coder": coder_here(),
    }


def _quality(byte: int, bundle: str | None) -> float:
    """The quality that a byte names in a bundle's codec; the byte itself where nothing tells."""
    with suppress(BundleError, ValueError):
        qualities = byte if bundle is None else read_manifest(Path(bundle)).qualities
        return byte if byte <= qualities else quality_of(byte, qualities)
    return byte


def _guards(band_bits: int, block: int) -> dict[str, float]:
    """The band and the block of guarded rounding, and what a latent's share of its block's shift costs, in bits.

    That is the entropy of how many shifts fail before one fits, where the band about every edge matters: an index fails
    one of them with a chance of twice the band, a block unless all of its indexes pass.
    """
    fits = max((1 - 2.0 ** (1 - band_bits)) ** block, 1 / SHIFTS)
    entropy = -math.log2(fits) - (1 - fits) / fits * math.log2(1 - fits)
    return {"band_bits": band_bits, "block": block, "bits_a_latent": min(entropy, math.log2(SHIFTS)) / block}


def _guards_text(guards: dict[str, float]) -> str:
    return (
        f"guarded rounding with a band of 2^-{guards['band_bits']} rows in blocks of {guards['block']}: "
        f"about {guards['bits_a_latent']:.2g} bits a latent"
    )


def _info(options: argparse.Namespace) -> int:
    path = DEFAULT if options.path is None else options.path
    if os.path.isdir(path) or path.name == MANIFEST:
        facts = describe_bundle(path if os.path.isdir(path) else path.parent)
        text = _bundle_text
    else:
        if options.bundle is not None:
            check_named(options.bundle)
        facts = describe(path, [] if options.bundle is None else [options.bundle])
        text = _file_text
    print(json.dumps(facts, indent=1) if options.json else text(facts))
    return 0


def _bundle_text(facts: dict[str, Any]) -> str:
    conditions = ", ".join(f"{name} ({beta:g})" for name, beta in facts["conditions"].items()) or "one view"
    lines = [
        printable(facts["bundle"]),
        f"  codec        {printable(facts['architecture'])}, id {facts['codec_id']}, {facts['part']} parts, "
        f"transforms {printable(facts['precision'])}",
        f"  qualities    1 to {facts['qualities']}",
        f"  conditions   {printable(conditions)}",
        f"  latents      y: {facts['latent_channels']} channels at 1/{facts['latent_stride']}, "
        f"z: {facts['hyper_channels']} at 1/{facts['stride']}; context: {facts['context'] or 'none'}",
    ]
    if isinstance(facts["parameters"], int):
        lines.append(f"  parameters   {facts['parameters']:,}")
    if isinstance(facts["kmac_per_pixel"], dict):
        parts = "  ".join(f"{name} {value}" for name, value in facts["kmac_per_pixel"].items())
        lines.append(f"  kMAC/pixel   {printable(parts)}")
    if facts["schedule"] is not None:
        stages = facts["schedule"]["stages"]
        way = ", in wavefronts" if any(stage["positions"] == "wavefront" for stage in stages) else ""
        way += ", in double precision" if facts["double"] else ""
        lines.append(f"  stages       {len(stages)}{way}, {_guards_text(facts['guards'])}")
    for name, table in facts["tables"].items():
        lines.append(f"  table of {name}   {table['rows']} rows, {table['entries']:,} integer frequencies")
    lines.append(f"  range coder  {printable(facts['coder'])}")
    lines += [f"  proof        {p['layer']}: |sum| at most {p['largest']:,} of {p['of']:,}" for p in facts["proof"]]
    lines += [f"  {size:>12,} bytes  {printable(name)}" for name, size in facts["files"].items()]
    lines.append(f"  {facts['bytes']:>12,} bytes  in all, each file as the manifest says")
    return "\n".join(lines)


def _file_text(facts: dict[str, Any]) -> str:
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
            f"    header  {share(bits['header'] - 8 * sum(facts['sections'].values()))}  (with both checksums)",
            *[f"    {share(8 * size):>30}  ({printable(name)})" for name, size in facts["sections"].items()],
            f"    z       {share(bits['z'])}",
            f"    y       {share(sum(bits['y']))}  ({count} substream{'s' if count > 1 else ''})",
            *([] if facts["guards"] is None else [f"  guards    {_guards_text(facts['guards'])}"]),
            f"  symbols   CRC-32 {facts['symbol_checksum']}",
            f"  format    version {facts['version']}",
            f"  codec     {facts['codec_id']}",
            f"  bundle    {printable(bundle)}",
            f"  coder     {printable(facts['coder'])}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
