"""`python -m benchmarks.coders`: both range coders on the same symbols, byte for byte, and the time of each.

Half of the symbols come from the tables of the shipped codec, half from tables drawn anew for each million: 2 to 3,000
entries, from flat to extremely skewed, with escapes. A difference ends the run with status 1. Times are the
thread's own, grouping and scattering included; start-up is measured in a new process each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ugicm.runtime import range_coder
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.coders import NAMES, VARIABLE
from ugicm.runtime.commands.coder import chosen
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.tables import TOTAL, Tables

AT_ONCE = 1_000_000
SUBSTREAMS = 3
_FEW, _FIRST = np.zeros(9, np.int32), np.full(9, 63, np.uint8)
_START = (
    "from ugicm.runtime.coders import coder; import numpy as np; c = coder(); m = c.encoder_model(np.uint32([5, 9]));"
)
_START += "c.RangeDecoder(np.zeros(2, np.uint32)).decode(m, 1); c.RangeEncoder().encode(np.zeros(1, np.int32), m)"


def main(arguments: list[str] | None = None) -> int:
    """Compares and prints one JSON object. Returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coders", description="Both range coders, compared.")
    parser.add_argument("--symbols", type=float, default=1e7, help="default: 1e7")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    shipped = Bundle.open(DEFAULT).y_tables
    verbs = [f"{name} {verb}" for name in NAMES for verb in ("encode", "decode")]
    ns = {kind: dict.fromkeys(verbs, 0) for kind in ("shipped", "drawn")}
    done = dict.fromkeys(ns, 0)
    for name in NAMES:
        with chosen(name):  # what is loaded or compiled at the first use is start-up
            range_coder.decode(range_encoder.encode(_FEW, _FIRST, shipped), _FIRST, shipped)
    for i in range(max(2, round(options.symbols / AT_ONCE))):
        kind = "drawn" if i % 2 else "shipped"
        tables = _drawn(rng) if i % 2 else shipped
        rows = rows_of_latents(rng, tables, AT_ONCE)
        symbols = symbols_of_rows(rng, tables, rows)
        streams = []
        for name in NAMES:
            with chosen(name):
                took, found = _timed(range_encoder.encode, symbols, rows, tables, SUBSTREAMS)
                ns[kind][f"{name} encode"] += took
                streams.append(found)
                took, decoded = _timed(range_coder.decode, found, rows, tables)
                ns[kind][f"{name} decode"] += took
            if not np.array_equal(decoded, symbols):
                print(f"{name}: other symbols in million {i}", file=sys.stderr)
                return 1
        if streams[0] != streams[1]:
            print(f"other bytes in million {i}", file=sys.stderr)
            return 1
        done[kind] += rows.size
    times = {kind: {k: round(v / max(done[kind], 1), 1) for k, v in each.items()} for kind, each in ns.items()}
    facts = {"symbols": sum(done.values()), "differences": 0, "ns a symbol": times, "start-up ms": _start_up()}
    print(json.dumps(facts, indent=1))
    return 0


def _timed(work: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    started = time.thread_time_ns()
    found = work(*arguments)
    return time.thread_time_ns() - started, found


def _drawn(rng: np.random.Generator) -> Tables:
    rows = []
    for length in rng.choice([0, 1, 2, 3, 7, 18, 19, 40, 300, 3000], 40):
        shares = rng.gamma(rng.choice([0.02, 0.3, 1.0, 50.0]), size=length) + 1e-300
        row = 1 + np.floor(shares / shares.sum() * (TOTAL - length)).astype(np.int64)
        if length:
            row[rng.integers(length)] += TOTAL - row.sum()
        rows.append(row.astype(np.uint32))
    lengths = np.array([row.size for row in rows], np.int32)
    return Tables.from_arrays(np.concatenate(rows), lengths, rng.integers(-50, 50, len(rows)).astype(np.int32))


def rows_of_latents(rng: np.random.Generator, tables: Tables, count: int) -> np.ndarray:
    """uint8, so many hundreds: as in latents, runs of neighbouring rows."""
    centre = np.repeat(rng.integers(0, tables.rows, count // 100), 100)
    return (centre + rng.integers(-3, 4, centre.size)).clip(0, tables.rows - 1).astype(np.uint8)


def symbols_of_rows(rng: np.random.Generator, tables: Tables, rows: np.ndarray) -> np.ndarray:
    """int32, drawn by their rows' frequencies; of the escapes, and of one in a thousand besides, any int32."""
    symbols = np.zeros(rows.size, np.int32)
    ends = np.cumsum(tables.lengths)
    for row in np.unique(rows):
        length = int(tables.lengths[row])
        if not length:
            continue
        places = np.flatnonzero(rows == row)
        cumulative = np.cumsum(tables.frequencies[ends[row] - length : ends[row]])
        entries = np.searchsorted(cumulative, rng.integers(0, TOTAL, places.size), side="right")
        far = (entries == length - 1) | (rng.random(places.size) < 1e-3)
        values = np.where(far, rng.integers(-(2**31), 2**31, places.size), tables.offsets[row] + entries)
        symbols[places] = values.astype(np.int32)
    return symbols


def _start_up() -> dict[str, float]:
    """Milliseconds from nothing to both directions having run once, without the interpreter's and numpy's own."""
    found = {}
    for name in ("nothing", *NAMES):
        code = "import numpy; import ugicm.runtime.tables" if name == "nothing" else _START
        taken = []
        for _ in range(5):
            started = time.perf_counter()
            environment = {**os.environ, VARIABLE: name if name in NAMES else NAMES[0]}
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            taken.append((time.perf_counter() - started) * 1e3)
        found[name] = float(np.median(taken))
    return {name: round(found[name] - found["nothing"], 0) for name in NAMES}


if __name__ == "__main__":
    sys.exit(main())
