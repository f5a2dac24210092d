"""`ugicm conformance [FOLDER…]`: published streams through every coder, backend and setting of this machine.

The table is for a report of a fault and for docs/conformance.md. A file holds the checksum of the symbols that were
encoded: a file that decodes has the same ones here.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import import_module, util
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm import __version__
from ugicm.runtime import bitstream
from ugicm.runtime.backends import NAMES, Backend, open_backend
from ugicm.runtime.bundle import SHIPPED, Bundle
from ugicm.runtime.catalogue import find_bundle
from ugicm.runtime.codec import Codec
from ugicm.runtime.coders import NAMES as CODERS
from ugicm.runtime.commands.cli import Parser, printable, read_bytes, run
from ugicm.runtime.commands.coder import chosen
from ugicm.runtime.commands.verify import configurations
from ugicm.runtime.errors import BackendError, UgicError, UsageError

STREAMS = SHIPPED / "conformance"


@dataclass
class Row:
    """What one codec's files did on one backend under one coder, over all levels and thread counts.

    decoded: (file, settings) pairs that gave the symbols that were encoded; `refused`: the words of the others.
    settings: how many.
    pixels: the largest difference of a picture from the first one decoded here, in levels of 255.
    """

    codec: str
    versions: list[int]
    coder: str
    backend: str
    settings: int = 0
    decoded: int = 0
    pixels: int = 0
    refused: list[str] = field(default_factory=list)


def conformance(folders: Sequence[Path], backend: str | None = None) -> dict[str, Any]:
    """The `machine`, in words, and the `rows`, as JSON can say them.

    Args:
        folders: hold .ugic files, directly or one folder further down, and may hold the bundles that they name.
        backend: only this one, of `ugicm.runtime.backends.NAMES`.

    Raises:
        UsageError: no files there.
        CodecMismatchError: a file whose bundle is not at hand.
        BackendError: no coder, no ONNX Runtime, or not the backend that is asked for.
    """
    files = sorted(path for folder in folders for path in [*folder.glob("*.ugic"), *folder.glob("*/*.ugic")])
    if not files:
        raise UsageError(f"{', '.join(map(str, folders))}: no .ugic files; name a folder that holds some")
    extra = [*folders, *{path.parent for path in files}]
    by_bundle: dict[Path, list[Path]] = {}
    for path in files:
        found = find_bundle(bitstream.parse(read_bytes(path), str(path)).codec_id, extra)
        by_bundle.setdefault(found, []).append(path)
    rows = [row for bundle, paths in by_bundle.items() for row in _rows(Bundle.open(bundle), paths, backend)]
    return {"machine": machine(), "rows": [asdict(row) for row in rows]}


def _rows(bundle: Bundle, paths: list[Path], asked: str | None) -> Iterator[Row]:
    data = {path: read_bytes(path) for path in paths}
    versions = sorted({bitstream.parse(held).version for held in data.values()})
    schedule = bundle.manifest.schedule
    kind = "" if schedule is None else ", staged"
    first: dict[Path, np.ndarray] = {}
    for coder in CODERS:
        if util.find_spec(coder) is None:
            continue
        with chosen(coder):
            rows: dict[str, Row] = {}
            for name, options, backend in _backends(bundle, asked):
                words = f"{bundle.manifest.architecture}{kind}"
                row = rows.setdefault(name, Row(words, versions, coder, name))
                row.settings += 1
                try:
                    _decode_all(Codec(bundle, backend), data, first, row)
                except (UgicError, ArithmeticError) as error:
                    row.refused.append(f"{options}: {error}")
            yield from rows.values()


def _decode_all(codec: Codec, data: dict[Path, bytes], first: dict[Path, np.ndarray], row: Row) -> None:
    for path, held in data.items():
        picture = codec.decode(held, name=str(path))
        row.decoded += 1
        before = first.setdefault(path, picture)
        row.pixels = max(row.pixels, int(np.abs(picture.astype(np.int16) - before).max()))


def _backends(bundle: Bundle, asked: str | None) -> Iterator[tuple[str, str, Backend]]:
    """(name, options, backend) of ONNX Runtime with each provider, level and 1 and 2 threads; of others that open."""
    for options, backend in configurations(bundle, asked):
        yield backend.name, options, backend
    for name in () if asked else NAMES[1:]:
        if name in ("onnxruntime-cuda", "webgpu"):
            continue  # among the providers
        with suppress(BackendError):
            backend = open_backend(name, bundle=bundle)
            yield backend.name, "", backend


def machine() -> str:
    """System, processor and versions in one line; an emulated processor is called so."""
    versions = f"Python {platform.python_version()}, numpy {np.__version__}"
    with suppress(ImportError):
        versions += f", ONNX Runtime {import_module('onnxruntime').__version__}"
    return f"ugicm {__version__}, {platform.system()} {platform.machine()}, {_features()}, {versions}"


def _features() -> str:
    """What numpy sees of the processor, beside what the system says: where they differ it is emulated."""
    seen: dict[str, bool] = {}
    for core in ("numpy._core", "numpy.core"):
        with suppress(ImportError, AttributeError):
            seen = import_module(f"{core}._multiarray_umath").__cpu_features__
            break
    flags: set[str] = set()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() in ("flags", "Features"):
                flags |= set(line.partition(":")[2].split())
    if platform.machine().lower() in ("x86_64", "amd64"):
        words = ", ".join(f"{'with' if seen.get(n) else 'without'} {n}" for n in ("AVX2", "AVX512VNNI"))
        emulated = "avx2" in flags and not seen.get("AVX2") or "avx512_vnni" in flags and not seen.get("AVX512VNNI")
    else:
        words = ", ".join(n for n in ("ASIMD", "ASIMDDP", "SVE") if seen.get(n)) or "no features known"
        emulated = bool(flags) and "asimd" not in flags and platform.machine() == "aarch64"
    return f"{words}, EMULATED" if emulated else words


def _work(options: argparse.Namespace) -> int:
    facts = conformance(options.folders or [STREAMS], options.backend)
    refused = [
        f"{row['codec']}, {row['coder']}, {row['backend']}, {w}" for row in facts["rows"] for w in row["refused"]
    ]
    if options.json:
        print(json.dumps(facts, indent=1))
    else:
        table = Table("codec", "format", "coder", "backend", "settings", "files decoded", "refused", "pixels differ by")
        for row in facts["rows"]:
            numbers = (row["settings"], row["decoded"], len(row["refused"]), row["pixels"])
            versions = " and ".join(map(str, row["versions"]))
            table.add_row(printable(row["codec"]), versions, row["coder"], row["backend"], *map(str, numbers))
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(facts["machine"])
        console.print(table)
        for words in refused:
            console.print(f"refused: {printable(words)}", markup=False)
    return 1 if refused else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table. Returns 1 if a file was refused."""
    parser = Parser(prog="ugicm conformance", description=__doc__)
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="of .ugic files and bundles; default: the shipped ones"
    )
    parser.add_argument("--backend", choices=NAMES, metavar="NAME", help=f"only this one: {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return run(parser, _work, arguments)


if __name__ == "__main__":
    raise SystemExit(main())
