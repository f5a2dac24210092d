"""`python -m benchmarks.corruption FOLDER`: what damaged files do.

Single-byte changes and truncations of real files, as a disk or a network makes them; and, under file checksums made to
fit, changes that only a hostile author makes. Each must end in an error with a name or in the very same image, in
little time and memory.
"""

from __future__ import annotations

import argparse
import collections
import resource
import sys
import time
import zlib
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from ugicm import Codec
from ugicm.runtime.errors import UgicError
from ugicm.runtime.files.images import read_image


def peak_mb() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def damaged(data: bytes, kind: str, rng: np.random.Generator) -> bytes:
    """One damaged copy."""
    if kind == "truncated":
        return data[: rng.integers(len(data))]
    end = len(data) - (4 if kind == "forged" else 0)
    where = int(rng.integers(end))
    changed = bytearray(data[:end])
    changed[where] ^= int(rng.integers(1, 256))
    if kind == "forged":
        changed += zlib.crc32(changed).to_bytes(4, "little")
    return bytes(changed)


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.corruption", description=__doc__)
    p.add_argument("folder", type=Path, help="folder of PNG images")
    p.add_argument("--bundle", type=Path, nargs="+", help="one or several; default: the shipped one")
    p.add_argument("--side", type=int, default=256, help="of the images, which are cut to squares (default: 256)")
    p.add_argument("--changes", type=int, default=100_000)
    p.add_argument("--truncations", type=int, default=10_000)
    p.add_argument("--forgeries", type=int, default=10_000)
    p.add_argument("--seed", type=int, default=0)
    args = p.parse_args(arguments)
    console = Console()
    rng = np.random.default_rng(args.seed)
    images = [read_image(f)[: args.side, : args.side] for f in sorted(args.folder.glob("*.png"))[:4]]
    files = []
    for bundle in args.bundle or [None]:
        codec = Codec.from_bundle(bundle, threads=1)
        qualities = sorted({min(q, codec.qualities) for q in (1, 4, 8)})
        files += [(codec, codec.encode(image, q)) for image in images for q in qualities]
    good = [codec.decode(data) for codec, data in files]
    before = peak_mb()
    table = Table("damage", "files", "outcome", "count", "slowest ms")
    silent = 0
    for kind, count in (("changed", args.changes), ("truncated", args.truncations), ("forged", args.forgeries)):
        outcomes: collections.Counter[str] = collections.Counter()
        slowest = 0.0
        for _ in range(count):
            i = int(rng.integers(len(files)))
            codec = files[i][0]
            data = damaged(files[i][1], kind, rng)
            started = time.perf_counter()
            try:
                out = codec.decode(data)
                same = out.shape == good[i].shape and np.array_equal(out, good[i])
                outcome = "the same image" if same else "ANOTHER IMAGE"
                silent += not same
            except UgicError as error:
                outcome = type(error).__name__
            slowest = max(slowest, (time.perf_counter() - started) * 1e3)
            outcomes[outcome] += 1
        for j, (outcome, n) in enumerate(outcomes.most_common()):
            table.add_row(kind if not j else "", str(count) if not j else "", outcome, str(n), f"{slowest:.0f}")
    console.print(table)
    console.print(f"peak memory {before:.0f} MB after good decodes, {peak_mb():.0f} MB at the end")
    return 1 if silent else 0


if __name__ == "__main__":
    sys.exit(main())
