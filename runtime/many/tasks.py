"""The files of a folder, and where the result of each goes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ugicm.runtime.errors import UsageError


@dataclass(frozen=True)
class Task:
    """One input and where its results go."""

    source: Path
    outputs: tuple[Path, ...]


def find_tasks(
    folder: Path, out: Path, suffixes: Sequence[str], suffix: str, labels: Sequence[str]
) -> tuple[list[Task], list[tuple[Path, str]], list[str]]:
    """The files below a folder with one of some suffixes, in the order of their names.

    Hidden files and folders and the output folder are left out. Links to files are followed, links to folders are not:
    they may lead back.

    Returns:
        the tasks; the files that share an output's name with another, each with its error; what was left out, in words.

    Raises:
        UsageError: a folder cannot be read.
    """
    found: list[Task] = []
    links = others = 0
    avoided = os.path.realpath(out)
    inside = avoided != os.path.realpath(folder)

    def fail(error: OSError) -> None:
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
            if name.startswith(".") or Path(name).suffix.lower() not in suffixes:
                others += 1
                continue
            target = out / here.relative_to(folder)
            stem = Path(name).stem
            names = [f"{stem}.{label}{suffix}" for label in labels] or [f"{stem}{suffix}"]
            found.append(Task(here / name, tuple(target / name for name in names)))

    claims: dict[str, list[Task]] = {}
    for task in found:
        for output in task.outputs:
            claims.setdefault(os.path.normcase(output), []).append(task)
    clashes: dict[Path, str] = {}
    for tasks in claims.values():
        for task in tasks if len(tasks) > 1 else ():
            other = next(t for t in tasks if t is not task)
            clashes[task.source] = (
                f"{task.source}: another file has the same output name: {other.source}; rename one of them"
            )
    notes = []
    if links:
        notes.append(f"{links} linked folder{'s' * (links > 1)} not followed")
    if others:
        notes.append(f"{others} other file{'s' * (others > 1)} ignored")
    return [t for t in found if t.source not in clashes], sorted(clashes.items()), notes
