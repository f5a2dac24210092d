"""`python -m benchmarks.coder_helpers`: an image's substreams coded alone, with a worker process, with a thread.

For both range coders, encoding and decoding, in turns in one process. Times of the clock say what a user waits, and
need cores that are free; CPU time, of this process and its worker, says what it costs. Symbols are drawn for the tables
of the shipped codec.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.coders import rows_of_latents, symbols_of_rows
from ugicm.runtime import range_coder
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.coders import NAMES
from ugicm.runtime.commands.coder import chosen
from ugicm.runtime.encoder import range_encoder
from ugicm.runtime.encoder.flow import SYMBOLS_A_SUBSTREAM
from ugicm.runtime.processes import parallel_coder
from ugicm.runtime.tables import Rows, Tables

Work = Callable[[], Any]


class Threaded:
    """The first half of the substreams in this thread, the others in one of its own."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._helper = tables, ThreadPoolExecutor(1)

    def encode(self, symbols: np.ndarray, rows: Rows, substreams: int) -> list[bytes]:
        parts = range_coder.parts(rows, self._tables, substreams)

        def work(some: list[slice]) -> list[bytes]:
            return [range_encoder.encode_substream(symbols[p], rows[p], self._tables) for p in some]

        other = self._helper.submit(work, parts[substreams // 2 :])
        return work(parts[: substreams // 2]) + other.result()

    def decode(self, streams: list[bytes], rows: Rows) -> np.ndarray:
        out = np.zeros(rows.size, np.int32)
        jobs = list(zip(streams, range_coder.parts(rows, self._tables, len(streams)), strict=True))

        def work(some: list[tuple[bytes, slice]]) -> None:
            for stream, part in some:
                range_coder.decode_substream(stream, rows[part], self._tables, out[part], "a substream")

        other = self._helper.submit(work, jobs[len(jobs) // 2 :])
        work(jobs[: len(jobs) // 2])
        other.result()
        return out


def main(arguments: list[str] | None = None) -> int:
    """Prints one JSON object. Returns 1 if anything differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coder_helpers", description=__doc__)
    parser.add_argument("--substreams", type=int, default=12, help="of 131,072 symbols; default: 12, as 1080p has")
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    bundle, count = Bundle.open(DEFAULT), options.substreams
    rows = rows_of_latents(rng, bundle.y_tables, count * SYMBOLS_A_SUBSTREAM)
    symbols = symbols_of_rows(rng, bundle.y_tables, rows)
    found = {}
    for name in NAMES:
        with chosen(name):
            tables = Bundle.open(DEFAULT).y_tables  # its models are the coder's
            helpers = parallel_coder.ParallelCoder(tables, 1)
            helpers.wait()
            threaded, streams = Threaded(tables), range_encoder.encode(symbols, rows, tables, count)
            ways: dict[str, Work] = {
                "encode, alone": lambda: range_encoder.encode(symbols, rows, tables, count),  # noqa: B023
                "encode, worker process": lambda: helpers.encode(symbols, rows, count),  # noqa: B023
                "encode, thread": lambda: threaded.encode(symbols, rows, count),  # noqa: B023
                "decode, alone": lambda: range_coder.decode(streams, rows, tables),  # noqa: B023
                "decode, worker process": lambda: helpers.decode(streams, rows),  # noqa: B023
                "decode, thread": lambda: threaded.decode(streams, rows),  # noqa: B023
            }
            for way, work in ways.items():
                right = work() == streams if way.startswith("encode") else np.array_equal(work(), symbols)
                if not right:
                    print(f"{name}, {way}: differs", file=sys.stderr)
                    return 1
            found[name] = dict(_timed(ways, options.rounds))
            helpers.close()
    print(json.dumps({"symbols": rows.size, "substreams": count, "ms": found}, indent=1))
    return 0


def _timed(ways: dict[str, Work], rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Median and least time of the clock, and mean CPU time, of each way."""
    wall: dict[str, list[float]] = {way: [] for way in ways}
    cpu = dict.fromkeys(ways, 0.0)
    for _ in range(rounds):
        for way, work in ways.items():
            before, started = _cpu_seconds(), time.perf_counter()
            work()
            wall[way].append(time.perf_counter() - started)
            cpu[way] += _cpu_seconds() - before
    for way, times in wall.items():
        numbers = {"median": float(np.median(times)), "least": min(times), "CPU": cpu[way] / rounds}
        yield way, {name: round(1e3 * number, 1) for name, number in numbers.items()}


def _cpu_seconds() -> float:
    """Of this process and of its workers; Linux only."""
    total = time.process_time()
    for child in multiprocessing.active_children():
        for task in Path(f"/proc/{child.pid}/task").glob("*/schedstat"):
            total += int(task.read_text().split()[0]) / 1e9
    return total


if __name__ == "__main__":
    sys.exit(main())
