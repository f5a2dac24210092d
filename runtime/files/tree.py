"""Files of a tree and what each becomes: found, named, and done again where their outputs are out of date."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ugicm.runtime.errors import OutputError, UsageError
from ugicm.runtime.files.output import names_in_folder


@dataclass(frozen=True)
class Task:
    """One input and where its results go."""

    source: Path
    outputs: tuple[Path, ...]


@dataclass
class Found:
    """The finds of a walk through a folder.

    tasks: in the order of their names.
    clashes: files that share an output's name with another, each with its error.
    ignored: how many files have each other suffix (lower case; an empty string is none); hidden files are not counted.
    notes: what was left out, in words.
    """

    tasks: list[Task] = field(default_factory=list)
    clashes: list[tuple[Path, str]] = field(default_factory=list)
    ignored: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)


def find_tasks(
    folder: Path, out: Path, suffixes: Sequence[str], suffix: str, labels: Sequence[str], add: bool = False
) -> Found:
    """The files below a folder with one of some suffixes.

    Hidden files and folders and the output folder are left out. Links to files are followed, links to folders are not:
    they may lead back.

    Args:
        suffix, labels, add: of outputs; see `output.output_names`.

    Raises:
        UsageError: a folder cannot be read.
    """
    found = Found()
    links = 0
    avoided = os.path.realpath(out)
    inside = avoided != os.path.realpath(folder)

    def fail(error: OSError) -> None:
        if error.errno == errno.ENOENT and error.filename != os.fspath(folder):
            return  # it was removed in this moment, and its files with it
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}")

    for at, folders, files in os.walk(folder, onerror=fail):
        here = Path(at)
        links += sum((here / name).is_symlink() for name in folders)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (inside and os.path.realpath(here / name) == avoided)
        )
        for name in sorted(files):
            if name.startswith("."):
                continue
            source = here / name
            if source.suffix.lower() not in suffixes:
                found.ignored[source.suffix.lower()] += 1
                continue
            target = out / here.relative_to(folder)
            found.tasks.append(Task(source, tuple(target / n for n in names_in_folder(source, suffix, labels, add))))

    claims: dict[str, list[Task]] = {}
    for task in found.tasks:
        for output in task.outputs:
            claims.setdefault(os.path.normcase(output), []).append(task)
    clashes: dict[Path, str] = {}
    for tasks in claims.values():
        for task in tasks if len(tasks) > 1 else ():
            other = next(t for t in tasks if t is not task)
            clashes[task.source] = (
                f"{task.source}: another file has the same output name: {other.source}; rename one of them"
                + ("" if add else ", or give --suffix add")
            )
    found.tasks = [task for task in found.tasks if task.source not in clashes]
    found.clashes = sorted(clashes.items())
    if links:
        found.notes.append(f"{links} linked folder{'s' * (links > 1)} not followed")
    if found.ignored:
        others = found.ignored.total()
        kinds = ", ".join(f"{count} {kind or 'without a suffix'}" for kind, count in found.ignored.most_common())
        found.notes.append(f"{others} other file{'s' * (others > 1)} ignored ({kinds})")
    return found


def is_done(task: Task, made_so: Callable[[Path], bool] | None = None) -> bool:
    """Whether every output of a task exists, is not older than its source, and satisfies `made_so`."""
    try:
        changed = os.stat(task.source).st_mtime_ns
        return all(
            os.path.isfile(output) and os.stat(output).st_mtime_ns >= changed and (made_so is None or made_so(output))
            for output in task.outputs
        )
    except OSError:
        return False


def keep_times(source: Path, outputs: Sequence[Path]) -> None:
    """Give outputs the times of their source. Raises OutputError."""
    try:
        times = os.stat(source)
        for output in outputs:
            os.utime(output, ns=(times.st_atime_ns, times.st_mtime_ns))
    except OSError as error:
        raise OutputError(f"{outputs[0]}: the times of {source} cannot be given to it: {error.strerror}") from error


def size_of(source: Path) -> int:
    """Bytes of a file; 0 where it cannot be asked, which reading it will say better."""
    try:
        return os.stat(source).st_size
    except OSError:
        return 0
