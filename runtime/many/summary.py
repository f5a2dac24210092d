"""The words on a folder's run: progress, errors by file, and the summary."""

from __future__ import annotations

import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ugicm.runtime.commands.cli import printable
from ugicm.runtime.many.jobs import Outcome

_LINE_EVERY = 5.0  # seconds between lines of progress where there is no terminal


@dataclass
class Summary:
    """The counts of a run: `done`, `skipped` and `failed` count files, `failures` says why by file.

    `ignored` counts the files of other suffixes.
    """

    verb: str
    files: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    not_tried: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    pixels: int = 0
    carried: int = 0
    seconds: float = 0.0
    jobs: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)

    @property
    def bpp(self) -> float | None:
        """Bits of .ugic files a pixel of the images that were worked on."""
        coded = self.bytes_out if self.verb == "encode" else self.bytes_in
        return 8 * coded / self.pixels if self.pixels else None

    def reasons(self) -> Counter[str]:
        """How many files failed for each reason."""
        return Counter(failure["reason"] for failure in self.failures)


def record(summary: Summary, source: Path, outcome: Outcome, say: Callable[[str], None]) -> None:
    for message in outcome.warnings:
        say(f"warning: {printable(message)}")
    if outcome.figures is None:
        summary.failed += 1
        say(f"error: {printable(outcome.error)}")
        # The reason without the names in it and without what only this file can have: up to the first mark.
        words = re.split(r"[:;(]", outcome.error.replace(str(source), "").lstrip(" :"))[0].strip()
        summary.failures.append(
            {"file": printable(source), "reason": printable(words), "error": printable(outcome.error)}
        )
        return
    summary.done += 1
    for name, value in asdict(outcome.figures).items():
        setattr(summary, name, getattr(summary, name) + value)


@contextmanager
def progress(verb: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """(print a line, count one file): a bar on a terminal, else a line now and then."""
    # Rich takes longer to import than one picture to decode, and one picture needs no bar.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(TextColumn):
        def render(self, task: Any) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed:.1f} files/s")

    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(show_speed=False), MofNCompleteColumn(),
            Rate("{task.speed}"), TimeRemainingColumn(), TextColumn("left"),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(verb, total=total)
            yield lambda line: console.print(Text(line), soft_wrap=True), lambda: bar.advance(task)
        return
    started = last = time.perf_counter()
    done = 0

    def advance() -> None:
        nonlocal done, last
        done += 1
        now = time.perf_counter()
        if now - last >= _LINE_EVERY or done == total:
            last = now
            rate = done / (now - started)
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate))
            print(f"{verb}: {done:,} of {total:,} files, {rate:.1f} files/s, {left} left", file=sys.stderr, flush=True)

    yield lambda line: print(line, file=sys.stderr, flush=True), advance


def as_json(summary: Summary) -> str:
    facts = {**asdict(summary), "bpp": summary.bpp, "reasons": dict(summary.reasons())}
    return json.dumps(facts, indent=1)


def as_table(summary: Summary) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(show_header=False, box=None)
    table.add_column()
    table.add_column(justify="right")
    rows: list[tuple[str, str]] = [("files", f"{summary.files:,}"), (f"{summary.verb}d", f"{summary.done:,}")]
    rows += [("skipped", f"{summary.skipped:,}")] * bool(summary.skipped)
    rows += [("failed", f"{summary.failed:,}")] * bool(summary.failed)
    rows += [(f"  {reason}", f"{count:,}") for reason, count in summary.reasons().most_common()]
    rows += [("not tried", f"{summary.not_tried:,}")] * bool(summary.not_tried)
    rows += [("bytes in", f"{summary.bytes_in:,}"), ("bytes out", f"{summary.bytes_out:,}")]
    rows += [("  of them metadata and transparency", f"{summary.carried:,}")] * bool(summary.carried)
    if summary.bpp is not None:
        rows.append(("bits a pixel", f"{summary.bpp:.3f}"))
    rate = summary.done / summary.seconds if summary.seconds else 0
    rows.append(("seconds", f"{summary.seconds:.1f}"))
    if summary.done:
        rows.append(("files a second", f"{rate:.1f}, {summary.jobs} process{'es' * (summary.jobs > 1)}"))
    for name, value in rows:
        table.add_row(Text(name), Text(value))
    console = Console(width=max(Console().width, 100), no_color=True)
    with console.capture() as captured:
        console.print(table)
    return captured.get()
