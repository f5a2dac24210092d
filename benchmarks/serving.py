"""`python -m benchmarks.serving FOLDER`: what a server or a cluster costs beside the runtime, on the same pictures.

Triton: requests a second and latencies of a real server with so many instances, asked by as many clients as it takes to
keep them busy, beside a pool of as many processes and `decode_many` in one process. Ray: the folder run with `--ray
local` beside the one without, start-up told apart. Each part needs its extra; one that is missing is left out with a
line. Rounds alternate; the medians are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ugicm import Codec
from ugicm.runtime.commands import cli
from ugicm.runtime.files.images import read_image, readable_suffixes
from ugicm.runtime.measures.throughput import throughput


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of pictures")
    parser.add_argument("--processes", type=int, default=2, help="of each side; default: 2")
    parser.add_argument("--repeat", type=int, default=4, help="times that every file is decoded in a round; default: 4")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    options = parser.parse_args()
    paths = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in readable_suffixes())
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


# ---- Triton


def triton(options: argparse.Namespace, codec: Codec, files: list[bytes]) -> None:
    """Prints requests a second of a server and of the runtime, and the server's latencies."""
    from tests.adapters.triton_server import server

    work = files * options.repeat
    rates: dict[str, list[float]] = {"pool of processes": [], "decode_many": [], "Triton, gRPC": []}
    latencies: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        repository = Path(name) / "repository"
        if cli.main(["triton", "-o", str(repository), "--instances", str(options.processes)]):
            raise SystemExit(2)
        with server(repository, Path(name)) as running:
            asked(running.grpc, files, 2 * options.processes)  # sessions and tables are made
            for _ in range(options.rounds):
                rates["pool of processes"].append(throughput(None, files, options.processes, options.repeat))
                started = time.perf_counter()
                for outcome in codec.decode_many(work, workers=options.processes - 1):
                    assert outcome.error is None
                rates["decode_many"].append(len(work) / (time.perf_counter() - started))
                started = time.perf_counter()
                latencies += asked(running.grpc, work, 2 * options.processes)
                rates["Triton, gRPC"].append(len(work) / (time.perf_counter() - started))
    best = statistics.median(rates["pool of processes"])
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"{name:20} {rate:7.1f} pictures a second  {rate / best:5.2f}")
    marks = np.percentile(latencies, [50, 95, 99]) * 1e3
    print(
        "latency of a request, ms: " + ", ".join(f"{m:.0f} ({p} %)" for m, p in zip(marks, (50, 95, 99), strict=True))
    )


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


def ray(options: argparse.Namespace, _: Codec, files: list[bytes]) -> None:
    """Prints the seconds of folder runs, and of those on a cluster from the first output on."""
    alone: list[float] = []
    cluster: list[tuple[float, float]] = []
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    os.environ.setdefault("RAY_worker_niceness", "0")
    for _round in range(options.rounds):
        alone.append(timed(options, [])[0])
        cluster.append(timed(options, ["--ray", "local"]))
    whole, after = (statistics.median(values) for values in zip(*cluster, strict=True))
    once = statistics.median(alone)
    print(f"ugicm encode DIR       {once:6.1f} s for {len(files)} pictures")
    print(f"with --ray local       {whole:6.1f} s; {after:.1f} s after the first output: {after / once:.2f} times")


def timed(options: argparse.Namespace, more: list[str]) -> tuple[float, float]:
    """Seconds of a folder run, and from its first output on."""
    import subprocess

    with tempfile.TemporaryDirectory(prefix="ray") as name:
        out = Path(name) / "out"
        command: list[Any] = [sys.executable, "-m", "ugicm", "encode", options.folder, "-o", out]
        environment = {**os.environ, "RAY_TMPDIR": name}
        started = time.perf_counter()
        run = [*command, "--jobs", str(options.processes), *more]
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
        first = 0.0
        while process.poll() is None:
            if not first and out.is_dir() and next(out.rglob("*.ugic"), None):
                first = time.perf_counter()
            time.sleep(0.02)
        ended = time.perf_counter()
    if process.returncode:
        raise SystemExit(f"error: {' '.join(map(str, run))}: exit status {process.returncode}")
    return ended - started, ended - first


if __name__ == "__main__":
    sys.exit(main())
