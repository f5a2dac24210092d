"""Three exports to one bundle, one of them killed again and again; for `python -m benchmarks.kills --export N`.

Each is `python -m ugicm.export.to_onnx` of a small checkpoint of its own, which begins anew when it has ended. Half
of the kills fall at a random moment of an export's life, from the start of the interpreter to its end; half in the
moments after it has begun to write. After a kill the others are stopped, and the bundle is opened with all its hashes
compared: it has to be whole, every time. Beside it lie folders that look like leftovers and are somebody's.
`--forked` makes the exports cheaper: see `benchmarks.export_forks`.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.export_forks import Fork, make_smallest, trace_once
from ugicm.models.ugicm import UGICM, UGICMConfig
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import UgicError
from ugicm.training.checkpoint import save, weights_of

WRITERS = 3
LEFT = "leftovers after the next run"
WRITING = 0.05  # seconds after its first write in which a writer is killed; it writes for some 10 ms
FAILED = "exports that had failed by themselves"
WRONG = (FAILED, "no whole bundle", "foreign folders touched", LEFT)


def make_checkpoint(path: Path, seed: int) -> None:
    """One with random weights, and so with a codec id of its own."""
    torch.manual_seed(seed)
    save(path, weights_of(UGICM(UGICMConfig.named("bmshj2018", 2, width=8, latent=12, preference_hidden=8))))


class Program(subprocess.Popen[str]):
    """An export as a process of its own, from the start of the interpreter on."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        line = [sys.executable, "-m", "ugicm.export.to_onnx", str(checkpoint), "-o", str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(checkpoint.parent)}
        super().__init__(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def words(self) -> str:
        """What it complained of."""
        return self.communicate()[1]


Start = Callable[[Path, Path], Program | Fork]


class Writer:
    """An export that runs, and when it is to be killed."""

    def __init__(self, start: Start, checkpoint: Path, folder: Path, life: float, rng: random.Random) -> None:
        self.process = start(checkpoint, folder)
        self.started = time.monotonic()
        self._delay = rng.uniform(0, WRITING)
        self._at = None if rng.random() < 0.5 else self.started + rng.uniform(0, 1.1 * life)

    @property
    def age(self) -> float:
        return time.monotonic() - self.started

    def is_due(self, workshops: list[str]) -> bool:
        """Whether its moment has come; `workshops` are the hidden folders of all that write now."""
        if self._at is None and workshops and self.writes():
            self._at = time.monotonic() + self._delay
        return self._at is not None and time.monotonic() >= self._at

    def writes(self) -> bool:
        """Whether it holds a hidden folder."""
        with suppress(OSError):
            for handle in os.scandir(f"/proc/{self.process.pid}/fd"):
                with suppress(OSError):
                    if Path(os.readlink(handle.path)).name.startswith(".ugicm-"):
                        return True
        return False

    def stop(self) -> None:
        """Stops it, or waits until it has ended if it does just now."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in folder.rglob("*")}


def kill_exports(kills: int, seed: int, console: Console, forked: bool = False) -> int:
    """Prints how many kills left what; returns 1 where a bundle was not whole or anything foreign was touched."""
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        parent = Path(place) / "parent"
        folder = parent / "bundle"
        checkpoints = [Path(place) / f"{i}" / "small.pt" for i in range(WRITERS)]
        for i, checkpoint in enumerate(checkpoints):
            checkpoint.parent.mkdir()
            (make_smallest if forked else make_checkpoint)(checkpoint, i)
        start: Start = Fork if forked else Program
        if forked:
            trace_once(checkpoints)
        foreign = {"mine": {"thesis.txt": b"x"}, f".ugicm-{0:016x}": {"new/thesis.txt": b"x"}, ".ugicm-mine": {}}
        for name, files in foreign.items():
            (parent / name / "new").mkdir(parents=True)
            for file, data in files.items():
                (parent / name / file).write_bytes(data)
        before = {name: contents(parent / name) for name in foreign}

        def whole_run() -> float:
            """Seconds that an export by itself takes."""
            writer = Writer(start, checkpoints[0], folder, 1, rng)
            found[FAILED] += writer.process.wait() != 0
            return writer.age

        life = whole_run()
        writers = [Writer(start, checkpoint, folder, life, rng) for checkpoint in checkpoints]
        stood = ""
        while found["kills"] < kills:
            time.sleep(0.002)
            workshops = [name for name in os.listdir(parent) if name.startswith(".ugicm-") and name not in foreign]
            for i, writer in enumerate(writers):
                if writer.process.poll() is not None:
                    if writer.process.returncode:
                        found[FAILED] += 1
                        console.print(writer.process.words()[-500:])
                    life = writer.age
                    found["exports that came through"] += 1
                elif writer.is_due(workshops):
                    others = [other for other in writers if other is not writer]
                    found["of them while it wrote"] += writer.writes()
                    writer.process.kill()
                    writer.process.wait()
                    found["kills"] += 1
                    found[f"of them in the {'first' if writer.age < life / 2 else 'second'} half of its life"] += 1
                    for other in others:
                        other.stop()
                    try:
                        codec_id = Bundle.open(folder).manifest.codec_id
                        found["another bundle than after the kill before"] += codec_id != stood
                        stood = codec_id
                    except UgicError as error:
                        found["no whole bundle"] += 1
                        console.print(str(error))
                    found["foreign folders touched"] += sum(contents(parent / n) != b for n, b in before.items())
                    for other in others:
                        other.process.send_signal(signal.SIGCONT)
                    if found["kills"] % 50 == 0:
                        console.print({name: found[name] for name in ("kills", *WRONG)})
                else:
                    continue
                writers[i] = Writer(start, checkpoints[i], folder, life, rng)
        for writer in writers:
            writer.process.kill()
            writer.process.wait()
        whole_run()
        found[LEFT] = len(set(os.listdir(parent)) - {"bundle", *foreign})
        found["files left in their temporary folders"] = sum(len(os.listdir(c.parent)) - 1 for c in checkpoints)
    table = Table(show_header=False)
    for name, count in found.items():
        table.add_row(name, str(count))
    console.print(table)
    return 1 if any(found[name] for name in WRONG) else 0
