"""`python -m tests.adapters.cluster_run`: many pictures on a Ray cluster of two nodes; one is killed in mid-run.

Beside it `ugicm encode FOLDER` of the same folder in as many processes; prints both times and compares every byte.
Needs the extra ray.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.adapters.nodes import two_nodes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=300, help="of mixed sizes; default: 300")
    parser.add_argument("--whole", action="store_true", help="kill no node")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ray") as name:
        work = Path(name)
        draw(work / "in", options.pictures)
        command = [sys.executable, "-m", "ugicm", "encode", str(work / "in"), "-o", str(work / "alone"), "--jobs", "2"]
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        alone = time.perf_counter() - started
        with two_nodes(work) as (cluster, second):
            return on_cluster(work, options.pictures, alone, cluster, None if options.whole else second)


def on_cluster(work: Path, count: int, alone: float, cluster: Any, victim: Any) -> int:
    """Runs it and prints the facts. Returns 0 where every one is as it shall be."""
    from ugicm.adapters.ray import encode_dataset

    out, killed, began = work / "coded", [0], [0.0]

    def watch() -> None:
        while (made := sum(1 for _ in out.rglob("*.ugic")) if out.is_dir() else 0) < count // 3:
            time.sleep(0.05)
            began[0] = began[0] or (time.perf_counter() if made else 0.0)
        if victim is not None:
            killed[0] = made
            cluster.remove_node(victim, allow_graceful=False)

    watcher = threading.Thread(target=watch, daemon=True)
    started = time.perf_counter()
    watcher.start()
    rows = list(encode_dataset(work / "in", out).iter_rows())
    ended = time.perf_counter()
    paths = Counter(row["path"] for row in rows)
    coded, single = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (out, work / "alone")
    )
    wrong = [str(path) for path in single if coded.get(path) != single[path]]
    print(f"{len(rows)} rows, {len(paths)} pictures, {sum(1 for row in rows if row['error'])} errors")
    print(f"{len(coded)} files, {len(wrong)} other than those of one machine, {len(set(coded) - set(single))} others")
    print(f"a node was killed after {killed[0]} files" if victim is not None else "no node was killed")
    print(f"one machine {alone:.1f} s; cluster {ended - started:.1f} s, {ended - began[0]:.1f} s after its first file")
    fine = len(rows) == len(paths) == len(single) == count and not wrong and set(coded) == set(single)
    return 0 if fine else 1


def draw(folder: Path, count: int) -> None:
    """Pictures of 200 to 700 pixels a side in ten folders."""
    random = np.random.default_rng(0)
    for i in range(count):
        height, width = random.integers(200, 700, 2)
        y, x = np.mgrid[0:height, 0:width]
        waves = [np.sin(x / (9 + i % 7) + i), np.cos(y / (11 + i % 5)), np.sin((x + y) / 23)]
        pixels = np.stack([127 + 100 * wave for wave in waves], -1) + random.normal(0, 6, (height, width, 3))
        path = folder / str(i % 10) / f"{i}.{'png' if i % 3 else 'jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


if __name__ == "__main__":
    sys.exit(main())
