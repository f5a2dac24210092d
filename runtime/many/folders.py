"""A folder of files through several processes: found, named, worked on, reported; a run that was killed goes on.

An output appears under its name when it is whole (`output.write_atomically`), so that what exists and is not older than
its source is done: what a run left undone is what the next one does.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any, Protocol

from ugicm.runtime.commands.cli import printable
from ugicm.runtime.errors import DiskError, OutputError, UgicError, UsageError
from ugicm.runtime.files.output import remove_stale
from ugicm.runtime.files.tree import Task, find_tasks, is_done

_LINE_EVERY = 5.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Figures:
    """What working on one file took and gave.

    Attributes:
        bytes_in, bytes_out: of the input and of all outputs.
        pixels: of the image.
        carried: bytes of `bytes_out` that hold transparency and metadata.
    """

    bytes_in: int
    bytes_out: int
    pixels: int
    carried: int = 0


Work = Callable[[Path, tuple[Path, ...]], Figures]


class Recipe(Protocol):
    """What each process is told once; picklable."""

    def open(self) -> Work:
        """Opens the codec. What it returns works on one file and raises UgicError."""
        ...


@dataclass(frozen=True)
class _Outcome:
    figures: Figures | None
    error: str = ""
    fatal: bool = False
    warnings: tuple[str, ...] = ()


@dataclass
class Summary:
    """What a run did: `done`, `skipped` and `failed` count files, `failures` says why by file.

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


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """What a verb understands where its input is a folder."""
    group = parser.add_argument_group("where the input is a folder")
    group.add_argument("--jobs", type=int, metavar="N", help="processes; default: one for each CPU")
    group.add_argument("--force", action="store_true", help="do files again whose outputs are up to date")
    group.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def folder_mode(options: argparse.Namespace, inputs: Sequence[Path]) -> bool:
    """Whether the input is a folder. Raises UsageError for a mixture, and for options that only folders have."""
    folders = [path for path in inputs if path.is_dir()]
    if folders and len(inputs) > 1:
        raise UsageError(f"{folders[0]}: is a folder among several inputs; give one folder, or files")
    given = [f"--{name}" for name in ("jobs", "force", "json") if getattr(options, name)]
    if given and not folders:
        raise UsageError(f"{given[0]} is for a folder of inputs; leave it out")
    if folders and options.entropy_workers:
        raise UsageError("--entropy-workers is for files; those of a folder are spread over --jobs")
    return bool(folders)


def run_folder(
    verb: str,
    folder: Path,
    recipe: Recipe,
    suffixes: Sequence[str],
    suffix: str,
    labels: Sequence[str],
    options: argparse.Namespace,
    made_so: Callable[[Path], bool] | None = None,
) -> int:
    """Works on every file below a folder and prints a summary.

    Args:
        verb: of the command line, for people.
        folder: the input; the output folder is among the options and may not exist yet, but its parent has to.
        recipe: opened once by each process.
        suffixes: of inputs, lower case, with the dot.
        suffix, labels: of outputs; see `output.output_names`.
        options: `output`, `suffix`, and what `add_folder_options` adds.
        made_so: whether an output that exists is what this run would make; None where only its age can tell.

    Returns:
        0, or 2 if any file failed.

    Raises:
        UsageError, OutputError: the folders or the number of jobs make no sense.
        KeyboardInterrupt: after the summary of what was done until then.
    """
    if not options.output:
        raise UsageError("the output name is empty: give -o a folder")
    out, jobs = Path(options.output), options.jobs
    if (out.exists() and not out.is_dir()) or (not out.exists() and out.suffix.lower() in (*suffixes, suffix)):
        raise OutputError(f"{out}: is a file, or named like one; a folder of inputs needs a folder of outputs")
    if not out.exists() and not out.absolute().parent.is_dir():
        raise OutputError(f"{out}: cannot be created: its own parent folder does not exist; create that first")
    if jobs is not None and not 1 <= jobs <= 1024:
        raise UsageError(f"--jobs {jobs}: use a number from 1 to 1024")
    found = find_tasks(folder, out, suffixes, suffix, labels, options.suffix == "add")
    tasks, clashes, notes = found.tasks, found.clashes, found.notes
    if not tasks and not clashes:
        raise UsageError(f"{folder}: no file in it ends in {', '.join(sorted(suffixes))}")
    targets = {output.parent for task in tasks for output in task.outputs}
    if stale := sum(map(remove_stale, targets)):
        notes.append(f"{stale} unfinished file{'s' * (stale > 1)} of a killed run removed")

    ignored = {printable(kind): count for kind, count in sorted(found.ignored.items())}
    summary = Summary(verb, files=len(tasks) + len(clashes), ignored=ignored)
    started = time.perf_counter()
    wanted = [task for task in tasks if options.force or not is_done(task, made_so)]
    summary.skipped = len(tasks) - len(wanted)
    if summary.skipped:
        notes.append(f"{summary.skipped} skipped, their outputs are up to date (--force does them again)")
    summary.jobs = min(jobs or _processors(), max(len(wanted), 1))
    interrupted = False
    with _progress(verb, len(wanted)) as (say, advance):
        if notes:
            say(f"{printable(folder)}: {'; '.join(notes)}")
        for source, error in clashes:
            _record(summary, source, _Outcome(None, error), say)
        try:
            for task, outcome in _work(wanted, recipe, summary.jobs):
                _record(summary, task.source, outcome, say)
                advance()
                if outcome.fatal:
                    break
        except KeyboardInterrupt:
            interrupted = True
    for target in targets:  # of workers that were killed in this run
        remove_stale(target)
    summary.seconds = time.perf_counter() - started
    summary.not_tried = summary.files - summary.done - summary.skipped - summary.failed
    print(_as_json(summary) if options.json else _as_table(summary), end="\n" if options.json else "")
    if summary.not_tried:
        print(f"{summary.not_tried} not tried; the same command goes on from here", file=sys.stderr)
    if interrupted:
        raise KeyboardInterrupt
    return 2 if summary.failed else 0


# ---- processes


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(tasks: Sequence[Task], recipe: Recipe, jobs: int) -> Iterator[tuple[Task, _Outcome]]:
    """The outcome of each task, as they come.

    A process that dies takes its pool along: the tasks that were under way are tried again, each in a process of its
    own, and one that dies again has failed.
    """
    waiting = list(reversed(tasks))
    while waiting:
        suspects: list[Task] = []
        with _pool(recipe, jobs) as pool:
            running: dict[Future[_Outcome], Task] = {}
            while waiting or running:
                while waiting and len(running) < 2 * jobs and not suspects:
                    task = waiting.pop()
                    try:
                        running[pool.submit(_do, task)] = task
                    except BrokenProcessPool:
                        suspects.append(task)
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    try:
                        yield task, future.result()
                    except BrokenProcessPool:
                        suspects.append(task)
        for task in suspects:
            with _pool(recipe, 1) as pool:
                try:
                    yield task, pool.submit(_do, task).result()
                except BrokenProcessPool:
                    words = "the process that worked on it was killed; it may need more memory than there is"
                    yield task, _Outcome(None, f"{task.source}: {words}")


@contextmanager
def _pool(recipe: Recipe, jobs: int) -> Iterator[ProcessPoolExecutor]:
    # Not fork: a copy of a process in which an inference library runs threads may hang.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start, (recipe,))
    try:
        yield pool
    except BaseException:  # the user's interrupt, or the end of a run that a full disk stopped
        for process in multiprocessing.active_children():
            process.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_recipe: Recipe
_opened: Work | None = None
_messages: list[str] = []


class _Collector(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _messages.append(record.getMessage())


def _start(recipe: Recipe) -> None:
    """What a process does first."""
    global _recipe
    _recipe = recipe
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    logger = logging.getLogger("ugicm")
    logger.addHandler(_Collector())
    logger.propagate = False


def _die_with_parent() -> None:
    """A pool's processes would wait for ever for the tasks of a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait_for([parent.sentinel])
    os._exit(1)


def _do(task: Task) -> _Outcome:
    global _opened
    _messages.clear()
    try:
        if _opened is None:
            _opened = _recipe.open()
        return _Outcome(_opened(task.source, task.outputs), warnings=tuple(_messages))
    except UgicError as error:
        reason, fatal = str(error), isinstance(error, DiskError)
    except MemoryError:
        reason, fatal = f"{task.source}: not enough memory; use fewer --jobs or a smaller image", False
    if str(task.source) not in reason:
        reason = f"{task.source}: {reason}"
    return _Outcome(None, reason, fatal, tuple(_messages))


# ---- what people read


def _record(summary: Summary, source: Path, outcome: _Outcome, say: Callable[[str], None]) -> None:
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
def _progress(verb: str, total: int) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
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


def _as_json(summary: Summary) -> str:
    facts = {**asdict(summary), "bpp": summary.bpp, "reasons": dict(summary.reasons())}
    return json.dumps(facts, indent=1)


def _as_table(summary: Summary) -> str:
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
