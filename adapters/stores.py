"""Folders wherever pyarrow reaches, a disk or a bucket: files found, read, and written whole."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.fs as pafs

from ugicm.runtime.errors import OutputError, UsageError
from ugicm.runtime.files.output import make_folder, names_in_folder, write_atomically
from ugicm.runtime.files.tree import Task, find_tasks, is_done

# Stores in which an object appears once all of it was sent.
_WHOLE = ("s3", "gcs", "abfs")


def resolve(place: str | Path, filesystem: Any = None) -> tuple[Any, str]:
    """(file system, path in it) of a path or URI, `s3://bucket/pictures` for one. Raises UsageError."""
    if filesystem is not None:
        return filesystem, str(place)
    if isinstance(place, Path) or "://" not in place:
        return pafs.LocalFileSystem(), os.path.abspath(place)
    try:
        return pafs.FileSystem.from_uri(place)
    except (OSError, ValueError) as error:
        raise UsageError(f"{place}: cannot be reached: {_line(error)}") from error


def is_local(filesystem: Any) -> bool:
    return isinstance(filesystem, pafs.LocalFileSystem)


def find(
    filesystem: Any, folder: str, suffixes: Sequence[str], targets: Any, out: str, suffix: str, labels: Sequence[str]
) -> tuple[list[Task], list[tuple[Path, str]]]:
    """Tasks of the files below a folder, hidden ones left out; and files that share an output's name, each its error.

    Raises:
        UsageError: no such folder.
    """
    if is_local(filesystem) and is_local(targets):
        found = find_tasks(Path(folder), Path(out), suffixes, suffix, labels)
        return found.tasks, found.clashes
    tasks: list[Task] = []
    for info in _below(filesystem, folder):
        inside = PurePosixPath(info.path).relative_to(folder)
        if any(part.startswith(".") for part in inside.parts) or inside.suffix.lower() not in suffixes:
            continue
        target = Path(out) / inside.parent
        tasks.append(Task(Path(info.path), tuple(target / n for n in names_in_folder(Path(inside), suffix, labels))))
    claims: dict[Path, list[Task]] = {}
    for task in tasks:
        claims.setdefault(task.outputs[0], []).append(task)
    clashes = {
        task.source: f"{task.source}: another file has the same output name; rename one of them"
        for group in claims.values()
        if len(group) > 1
        for task in group
    }
    return [task for task in tasks if task.source not in clashes], sorted(clashes.items())


def left(
    filesystem: Any, folder: str, tasks: Sequence[Task], targets: Any, out: str, made_so: Any = None
) -> list[Task]:
    """The tasks whose outputs are missing or older than their sources, or on a disk not `made_so`."""
    if is_local(filesystem) and is_local(targets):
        return [task for task in tasks if not is_done(task, made_so)]
    changed = {Path(info.path): info.mtime_ns for info in _below(filesystem, folder)}
    made = {Path(info.path): info.mtime_ns for info in _below(targets, out, missing=True)}
    return [
        task for task in tasks if any(made.get(output, -1) < changed.get(task.source, 0) for output in task.outputs)
    ]


def read(filesystem: Any, path: str) -> bytes:
    """The bytes of a file. Raises OSError."""
    if is_local(filesystem) and os.path.exists(path) and not os.path.isfile(path):
        raise OSError(None, "not a regular file", path)
    with filesystem.open_input_stream(path) as stream:
        return stream.read()


def write(filesystem: Any, path: str, data: bytes) -> None:
    """Writes a file so that its name holds all of it or what it held before. Raises OutputError."""
    if is_local(filesystem):
        make_folder(Path(path).parent, parents=True)
        write_atomically(Path(path), data)
        return
    try:
        if filesystem.type_name in _WHOLE:
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        parent = PurePosixPath(path).parent
        filesystem.create_dir(str(parent), recursive=True)
        temporary = str(parent / f".ugic-{secrets.token_hex(8)}.part")
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(data)
        filesystem.move(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {_line(error)}") from error


def _below(filesystem: Any, folder: str, missing: bool = False) -> list[Any]:
    try:
        found = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=missing))
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read: {_line(error)}") from error
    return sorted((info for info in found if info.type == pafs.FileType.File), key=lambda info: info.path)


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
