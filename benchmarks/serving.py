"""`python -m benchmarks.serving FOLDER`: what a server or a cluster costs beside the runtime, on the same pictures.

Triton: requests a second, latencies and CPU time (clients and server) of a real server with so many instances, asked by
as many clients as it takes to keep them busy, beside a pool of as many processes and `decode_many` in one process. Ray:
the folder run with `--ray local` beside the one without; the start, the work from the first file to the last, and the
end told apart. Each part needs its extra; one that is missing is left out with a line. Rounds alternate; the medians
are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from ugicm import Codec
from ugicm.runtime.commands import cli
from ugicm.runtime.files.images import read_image, readable_suffixes
from ugicm.runtime.processes.pool import Pool


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of pictures")
    parser.add_argument("--processes", type=int, default=2, help="of each side; default: 2")
    parser.add_argument("--repeat", type=int, default=4, help="times that every file is coded in a round; default: 4")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    paths = pictures_of(options.folder)
    if not paths:
        raise SystemExit(f"error: {options.folder}: no pictures in it")
    codec = Codec.from_bundle(threads=1)
    files = [codec.encode(read_image(path)) for path in paths]
    print(f"{len(files)} files, {options.processes} processes, median of {options.rounds} rounds")
    for name, work in (("pytriton", triton), ("ray", ray)):
        if importlib.util.find_spec(name) is None:
            print(f"{name} is not installed: left out")
        else:
            work(options, codec, files)
    return 0


def pictures_of(folder: Path) -> list[Path]:
    """The pictures below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in readable_suffixes())


# ---- Triton


def triton(options: argparse.Namespace, codec: Codec, files: list[bytes]) -> None:
    """Prints requests a second of a server and of the runtime, and the server's latencies."""
    from tests.adapters.triton_server import server

    work = files * options.repeat
    names = ("pool of processes", "decode_many", "Triton, gRPC")
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    latencies: list[float] = []

    def measured(name: str, decode: Callable[[], None]) -> None:
        started, before = time.perf_counter(), spent()
        decode()
        rates[name].append(len(work) / (time.perf_counter() - started))
        costs[name].append((spent() - before) / len(work))

    def by_pool() -> None:
        for answer in pool.each(_decode, work):
            assert answer.error is None

    def by_many() -> None:
        for outcome in codec.decode_many(work, workers=options.processes - 1):
            assert outcome.error is None

    def by_server() -> None:
        latencies.extend(asked(running.grpc, work, 2 * options.processes))

    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        if cli.main(["triton", "-o", str(repository), "--instances", str(options.processes)]):
            raise SystemExit(2)
        with server(repository, Path(name)) as running, Pool(options.processes, _open, files) as pool:
            pool.wait()
            asked(running.grpc, files, 2 * options.processes)  # sessions and tables are made
            for _ in range(options.rounds):
                for side, decode in zip(names, (by_pool, by_many, by_server), strict=True):
                    measured(side, decode)
    best = statistics.median(rates["pool of processes"])
    for name, found in rates.items():
        rate = statistics.median(found)
        cost = statistics.median(costs[name]) * 1e3
        print(f"{name:20} {rate:7.1f} pictures a second  {rate / best:5.2f}, {cost:4.0f} ms of a CPU each")
    marks = np.percentile(latencies, [50, 95, 99]) * 1e3
    print(
        "latency of a request, ms: " + ", ".join(f"{m:.0f} ({p} %)" for m, p in zip(marks, (50, 95, 99), strict=True))
    )


def spent() -> float:
    """CPU seconds of this process, and of those below it that still run."""
    tick, parents, seconds = os.sysconf("SC_CLK_TCK"), {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
                seconds[int(entry.name)] = sum(map(int, fields[11:15])) / tick
    below = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in below} - below:
        below |= more
    return sum(seconds.get(process, 0.0) for process in below)


def _open(files: list[bytes]) -> Codec:
    """A worker's codec, which has met every file."""
    codec = Codec.from_bundle(threads=1)
    for data in files:
        codec.decode(data)
    return codec


def _decode(codec: Codec, data: bytes) -> int:
    return int(codec.decode(data).size)


def asked(address: str, files: list[bytes], clients: int) -> list[float]:
    """Seconds of each request; so many are under way at once."""
    import tritonclient.grpc as grpc

    connection, waiting, seconds = grpc.InferenceServerClient(address), iter(files), []
    lock = threading.Lock()

    def taken() -> Iterator[bytes]:
        while True:
            with lock:
                data = next(waiting, None)
            if data is None:
                return
            yield data

    def client() -> None:
        for data in taken():
            tensor = grpc.InferInput("UGIC", [1, 1], "BYTES")
            tensor.set_data_from_numpy(np.array([[data]], dtype=object))
            started = time.perf_counter()
            connection.infer("ugicm_decode", [tensor]).as_numpy("IMAGE")
            seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(seconds) != len(files):
        raise SystemExit("error: a request failed")
    return seconds


# ---- Ray


@dataclass(frozen=True)
class Timed:
    """Seconds of a folder run: until its first output, from that to the last, and until its process ended."""

    start: float
    work: float
    end: float


def ray(options: argparse.Namespace, _: Codec, files: list[bytes]) -> None:
    """Prints the seconds of folder runs, alone and on a cluster that is started for them."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_worker_niceness", "0")
    runs: dict[str, list[Timed]] = {"ugicm encode DIR": [], "with --ray local": []}
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for i in range(options.repeat):
            for source in pictures_of(options.folder):
                shutil.copy(source, folder / f"{i}-{'-'.join(source.relative_to(options.folder).parts)}")
        for _round in range(options.rounds):
            for more, found in zip(([], ["--ray", "local"]), runs.values(), strict=True):
                found.append(timed(folder, Path(name), ["--jobs", str(options.processes), *more]))
    count = options.repeat * len(files)
    alone, cluster = (statistics.median(run.work for run in found) for found in runs.values())
    for name, found in runs.items():
        start, work, end = (statistics.median(values) for values in zip(*map(astuple, found), strict=True))
        print(
            f"{name:17} {start:6.1f} s to the first of {count} outputs, {work:6.1f} s to the last, {end:5.1f} s to end"
        )
    print(f"from the first output to the last Ray takes {cluster / alone:.2f} times as long")


def timed(folder: Path, work: Path, more: list[str]) -> Timed:
    """A folder run in a process of its own, by the times at which its outputs were written."""
    out = work / "out"
    command = [sys.executable, "-m", "ugicm", "encode", str(folder), "-o", str(out), *more]
    started = time.time()
    environment = {**os.environ, "RAY_TMPDIR": str(work)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    ended = time.time()
    if done.returncode:
        raise SystemExit(f"error: {' '.join(command)}: exit status {done.returncode}: {done.stderr[-300:]}")
    written = sorted(path.stat().st_mtime for path in out.rglob("*.ugic"))
    shutil.rmtree(out)
    return Timed(written[0] - started, written[-1] - written[0], ended - written[-1])


if __name__ == "__main__":
    sys.exit(main())
