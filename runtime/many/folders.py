"""A folder of files: options, a run through several processes, and a run that was killed goes on.

An output appears under its name when it is whole (`output.write_atomically`), so that what exists and is not older than
its source is done: what a run left undone is what the next one does.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ugicm.runtime.commands.cli import elsewhere, printable
from ugicm.runtime.errors import BackendError, OutputError, UsageError
from ugicm.runtime.files.output import remove_stale
from ugicm.runtime.files.tree import find_tasks, is_done
from ugicm.runtime.many.jobs import Outcome, Recipe, work
from ugicm.runtime.many.summary import Summary, as_json, as_table, progress, record
from ugicm.runtime.processes.cpus import processors


def add_folder_options(parser: argparse.ArgumentParser) -> None:
    """The options of a verb whose input is a folder."""
    group = parser.add_argument_group("where the input is a folder")
    group.add_argument(
        "--jobs", type=int, metavar="N", help="processes; default: one for each usable CPU; 1: none beside this"
    )
    group.add_argument("--force", action="store_true", help="do files again whose outputs are up to date")
    group.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    group.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="let a Ray cluster do it, which sees the same folders (needs the extra ray): HOST:PORT, ray://HOST:PORT, "
        "auto, or local for one that is started here; --jobs is the number of its actors",
    )


def folder_mode(options: argparse.Namespace, inputs: Sequence[Path]) -> bool:
    """Whether the input is a folder. Raises UsageError for a mixture, and for options that only folders have."""
    folders = [path for path in inputs if os.path.isdir(path)]
    if folders and len(inputs) > 1:
        raise UsageError(f"{folders[0]}: is a folder among several inputs; give one folder, or files")
    given = [f"--{name}" for name in ("jobs", "force", "json", "ray") if getattr(options, name)]
    if given and not folders:
        raise UsageError(f"{given[0]} is for a folder of inputs; leave it out")
    if folders and options.entropy_workers:
        raise UsageError("--entropy-workers is for files; those of a folder are spread over --jobs")
    if options.ray and options.preserve:
        raise UsageError("--preserve is not for --ray; leave one of them out")
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
        KeyboardInterrupt, BackendError: the latter if processes cannot be started; both after the summary of what was
            done until then.
    """
    if not options.output:
        raise UsageError("the output name is empty: give -o a folder")
    out, jobs = Path(options.output), options.jobs
    there = os.path.exists(out)
    if (there and not os.path.isdir(out)) or (not there and out.suffix.lower() in (*suffixes, suffix)):
        raise OutputError(f"{out}: is a file, or named like one; a folder of inputs needs a folder of outputs")
    if not there and not os.path.isdir(out.absolute().parent):
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
    summary.jobs = min(jobs or processors(), max(len(wanted), 1))
    engine = work if options.ray is None else elsewhere("ugicm.adapters.ray", "--ray", "ray").work(options.ray)
    ended: BaseException | None = None
    with progress(verb, len(wanted)) as (say, advance):
        if notes:
            say(f"{printable(folder)}: {'; '.join(notes)}")
        for source, error in clashes:
            record(summary, source, Outcome(None, error), say)
        try:
            for task, outcome in engine(wanted, recipe, summary.jobs):
                record(summary, task.source, outcome, say)
                advance()
                if outcome.fatal:
                    break
        except (KeyboardInterrupt, BackendError) as error:
            ended = error
    for target in targets:  # of workers that were killed in this run
        remove_stale(target)
    summary.seconds = time.perf_counter() - started
    summary.not_tried = summary.files - summary.done - summary.skipped - summary.failed
    print(as_json(summary) if options.json else as_table(summary), end="\n" if options.json else "")
    if summary.not_tried:
        print(f"{summary.not_tried} not tried; the same command goes on from here", file=sys.stderr)
    if ended is not None:
        raise ended
    return 2 if summary.failed else 0
