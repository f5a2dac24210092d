"""Three writers of one bundle, one of them killed again and again; for `python -m benchmarks.kills --export N`.

Each writer gives a precision of its own to the same bundle and writes it, as export does, without end. After a random
while one is killed by SIGKILL, the others are stopped, and the bundle is opened with all its hashes compared: it has to
be whole, every time. Beside it lie folders that look like leftovers and are somebody's.
"""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ugicm.export.write import write_bundle
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UgicError
from ugicm.runtime.manifest import Manifest

WRITERS = 3
LEFT = "leftovers after the next run"
LONGEST = 0.6  # seconds between two kills
MADE = ("format", "codec_id", "part", "graphs", "proof", "files", "precision")  # by `write_bundle`, or by a writer


def write(source: Bundle, name: str, folder: Path) -> None:
    graphs = {n: (source.graph(n)[1], e.inputs, e.outputs) for n, e in source.manifest.graphs.items()}
    more = {f.name: getattr(source.manifest, f.name) for f in fields(Manifest) if f.name not in MADE}
    write_bundle(folder, graphs, source.arrays("tables.npz"), source.exact, source.golden, {**more, "precision": name})


def start(source: Bundle, name: str, folder: Path) -> int:
    """The process id of a writer that ends by a signal only, or with status 1 where it fails."""
    child = os.fork()
    if child:
        return child
    try:
        while True:
            write(source, name, folder)
    finally:
        os._exit(1)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def kill_exports(bundle: Path, kills: int, seed: int, console: Console) -> int:
    """Prints how many kills left what; returns 1 where a bundle was not whole or anything foreign was touched."""
    source, rng = Bundle.open(bundle), random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "bundle"
        foreign = {"mine": {"thesis.txt": b"x"}, f".ugicm-{0:016x}": {"new/thesis.txt": b"x"}, ".ugicm-mine": {}}
        for name, files in foreign.items():
            (Path(parent) / name / "new").mkdir(parents=True)
            for file, data in files.items():
                (Path(parent) / name / file).write_bytes(data)
        before = {name: contents(Path(parent) / name) for name in foreign}
        begin: Callable[[int], int] = lambda i: start(source, f"writer {i}", folder)  # noqa: E731
        writers = [begin(i) for i in range(WRITERS)]
        while not folder.exists():
            time.sleep(0.01)
        stood = ""
        for number in range(kills):
            time.sleep(rng.uniform(0, LONGEST))
            who = rng.randrange(WRITERS)
            os.kill(writers[who], signal.SIGKILL)
            found["a writer that had failed by itself"] += os.waitpid(writers[who], 0)[1] != signal.SIGKILL
            others = [pid for pid in writers if pid != writers[who]]
            for pid in others:
                os.kill(pid, signal.SIGSTOP)
                os.waitpid(pid, os.WUNTRACED)
            found["kills"] += 1
            try:
                precision = Bundle.open(folder).manifest.precision
                found["another bundle than after the kill before"] += precision != stood
                stood = precision
            except UgicError as error:
                found["no whole bundle"] += 1
                console.print(str(error))
            found["largest number of unfinished folders beside it"] = max(
                found["largest number of unfinished folders beside it"],
                sum(p.name.startswith(".ugicm-") for p in Path(parent).iterdir()) - 2,
            )
            found["foreign folders touched"] += sum(contents(Path(parent) / n) != b for n, b in before.items())
            for pid in others:
                os.kill(pid, signal.SIGCONT)
            writers[who] = begin(who)
            if number % 50 == 49:
                console.print(f"{number + 1} kills")
        for pid in writers:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        write(source, "the next run", folder)
        found[LEFT] = len(set(os.listdir(parent)) - {"bundle", *foreign})
    table = Table(show_header=False)
    for name, count in found.items():
        table.add_row(name, str(count))
    console.print(table)
    wrong = ("a writer that had failed by itself", "no whole bundle", "foreign folders touched", LEFT)
    return 1 if any(found[name] for name in wrong) else 0
