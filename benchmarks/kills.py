"""`python -m benchmarks.kills`: thousands of small files encoded in one run that is killed again and again.

Each time after a random while, by SIGKILL: the run's own process, one of its workers, or all of them at once. After
each kill every output is looked at: it is absent, or the very bytes of an uninterrupted run. In the end the tree of the
killed runs must equal that of the uninterrupted one, file by file, with nothing beside it.

`--export N` kills exports to one bundle instead: see `benchmarks.export_kills`.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from ugicm.runtime.bundle import DEFAULT

SIDES = (8, 65)  # of the pictures, pixels


def make_pictures(folder: Path, count: int, seed: int) -> None:
    """Small pictures of smooth noise, a hundred in a folder."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        path = folder / f"{i // 100:03}" / f"{i:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = (int(n) for n in rng.integers(*SIDES, 2))
        coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(path)


def command(source: Path, out: Path, bundle: Path, jobs: int) -> list[str]:
    """The run that is killed."""
    verb = [sys.executable, "-m", "ugicm", "encode", str(source), "-o", str(out)]
    return [*verb, "--bundle", str(bundle), "--jobs", str(jobs)]


def start(line: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as handle:
        return subprocess.Popen(line, stdout=handle, stderr=handle, start_new_session=True)


def children(pid: int) -> list[int]:
    """Process ids of the workers; Linux only."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def kill(process: subprocess.Popen[bytes], whom: str, rng: random.Random) -> None:
    """SIGKILL to the run, to one worker of it, or to all; waits until all of what must end has ended."""
    workers = children(process.pid)
    if whom == "worker":
        if workers:
            with suppress(ProcessLookupError):
                os.kill(rng.choice(workers), signal.SIGKILL)
        return
    if whom == "run":
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    while any(Path(f"/proc/{pid}/exe").exists() for pid in workers):
        time.sleep(0.01)


def faults(out: Path, whole: Path) -> tuple[int, int, list[str]]:
    """(whole outputs, unfinished files under hidden names, names of what should not be there)."""
    done = hidden = 0
    wrong = []
    for path in out.rglob("*"):
        if path.is_dir():
            continue
        name = path.relative_to(out)
        if path.name.startswith(".ugic-"):
            hidden += 1
        elif (whole / name).is_file() and path.read_bytes() == (whole / name).read_bytes():
            done += 1
        else:
            wrong.append(str(name))
    return done, hidden, wrong


def main(arguments: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    p.add_argument("--files", type=int, default=10_000)
    p.add_argument("--bundle", type=Path, default=DEFAULT, help="default: the shipped one")
    p.add_argument("--jobs", type=int, default=2)
    p.add_argument("--longest", type=float, default=12.0, help="seconds a run may last before it is killed")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--export", type=int, metavar="N", help="SIGKILLs to three exports to one bundle, and nothing else")
    p.add_argument("--forked", action="store_true", help="with --export: exports without their start and their tracing")
    args = p.parse_args(arguments)
    console = Console()
    if args.export is not None:
        from benchmarks.export_kills import kill_exports  # it needs PyTorch

        return kill_exports(args.export, args.seed, console, args.forked)
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        source, whole, out, log = (Path(folder) / name for name in ("in", "whole", "out", "log"))
        make_pictures(source, args.files, args.seed)
        started = time.perf_counter()
        if start(command(source, whole, args.bundle, args.jobs), log).wait() != 0:
            console.print(log.read_text()[-2000:])
            return 1
        uninterrupted = time.perf_counter() - started
        out.mkdir()
        runs = 0
        counts: Counter[str] = Counter()
        bad: list[str] = []
        unfinished = 0
        finished = False
        while not finished:
            runs += 1
            process = start(command(source, out, args.bundle, args.jobs), log)
            end = time.monotonic() + rng.uniform(0.2, args.longest)
            while process.poll() is None:
                time.sleep(max(0.0, min(rng.expovariate(0.3), end - time.monotonic())))
                if process.poll() is None:
                    whom = rng.choice(("run", "all")) if time.monotonic() >= end else "worker"
                    counts[whom] += 1
                    kill(process, whom, rng)
            finished = process.returncode == 0
            done, hidden, wrong = faults(out, whole)
            unfinished += hidden
            bad += wrong
            console.print(f"run {runs}: {done:,} of {args.files:,} whole, {hidden} unfinished and hidden")
        done, hidden, wrong = faults(out, whole)
        table = Table(show_header=False)
        table.add_row("files", f"{args.files:,}")
        table.add_row("uninterrupted run", f"{uninterrupted:.0f} s, {args.jobs} processes")
        table.add_row("runs until all was done", str(runs))
        table.add_row("SIGKILL to the run / to all its processes", f"{counts['run']} / {counts['all']}")
        table.add_row("SIGKILL to one worker", str(counts["worker"]))
        table.add_row("unfinished files seen, all under hidden names", str(unfinished))
        table.add_row("outputs that were not whole", str(len(bad)))
        equal = done == args.files and not hidden and not wrong
        table.add_row("final tree equals the uninterrupted one", str(equal))
        console.print(table)
    return 0 if equal and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
