"""Where results go: a name for every output, and writes that happen whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from ugicm.runtime.errors import DiskError, OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows: unfinished files of killed runs stay, under names that nothing reads
    fcntl = None  # type: ignore[assignment]

_REMEDIES = {
    errno.ENOENT: "its folder does not exist; create it first",
    errno.ENOTDIR: "its folder is a file; choose another name",
    errno.EISDIR: "it is a folder; add a file name",
    errno.EACCES: "no permission to write there; choose another folder",
    errno.EPERM: "no permission to write there; choose another folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "the disk is full; free some space or choose another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


def output_folder(inputs: Sequence[Path], out: str) -> Path | None:
    """The folder that `out` names, or None where it names a file.

    `out` is a file for exactly one input, where it neither ends with a slash nor is an existing folder.
    Nothing is created here.

    Raises:
        UsageError: `out` is empty, or is an existing file although there are several inputs.
    """
    if not out:
        raise UsageError("the output name is empty: give -o a file or a folder")
    if out.endswith(("/", os.sep)) or os.path.isdir(out):
        return Path(out)
    if len(inputs) == 1:
        return None
    if os.path.exists(out):
        raise UsageError(f"{out}: is a file, and there are {len(inputs)} inputs; give -o a folder")
    return Path(out)


def output_names(
    inputs: Sequence[Path], out: str, suffix: str, labels: Sequence[str] = (), add: bool = False
) -> list[tuple[Path, ...]]:
    """Name the outputs of every input: one each, or one for each label.

    In a folder they are called after the input (`photo.jpg` gives `photo.ugic`); with labels,
    `photo.human.png` and `photo.machine.png`. Where `out` is a file the labels go before its own suffix.

    Args:
        inputs: the input files, at least one.
        out: what the user gave as output (see `output_folder`).
        suffix: suffix of names in a folder, with its dot.
        labels: a word for each of several outputs of one input.
        add: keep the suffix of the input in those names: `photo.jpg` gives `photo.jpg.ugic`.

    Raises:
        UsageError: two inputs would share an output, or an output would replace an input.
    """
    folder = output_folder(inputs, out)
    if folder is None:
        target = Path(out)
        names = [tuple(target.with_name(name) for name in names_in_folder(target, target.suffix, labels))]
    else:
        names = [tuple(folder / name for name in names_in_folder(path, suffix, labels, add)) for path in inputs]

    sources = {os.path.normcase(os.path.realpath(path)) for path in inputs}
    claimed: dict[str, Path] = {}
    for path, outputs in zip(inputs, names, strict=True):
        for output in outputs:
            key = os.path.normcase(os.path.realpath(output))
            if key in sources:
                raise UsageError(f"{output}: this output would replace an input; choose another name or folder")
            if key in claimed:
                remedy = "give them separate folders" + ("" if add else ", or give --suffix add")
                raise UsageError(f"{path} and {claimed[key]} would both be written to {output}; {remedy}")
            claimed[key] = path
    return names


def names_in_folder(source: Path, suffix: str, labels: Sequence[str] = (), add: bool = False) -> list[str]:
    """The names of an input's outputs in their folder; see `output_names`. Standard input is called `stdin`."""
    stem = "stdin" if source == Path("-") else source.name if add else source.stem
    return [f"{stem}.{label}{suffix}" for label in labels] or [f"{stem}{suffix}"]


def make_folder(folder: Path, parents: bool = False) -> None:
    """Create `folder` where it is missing; without `parents`, its own parent has to exist. Raises OutputError."""
    try:
        folder.mkdir(parents=parents, exist_ok=True)
    except FileExistsError:
        raise OutputError(f"{folder}: is a file, not a folder; choose another output folder") from None
    except OSError as error:
        raise output_error(folder, error) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either all of `data` or what it held before.

    The bytes go to a file without a name in the same folder, to the disk, and only then to `path`; where the system
    has no such files, to a temporary name, which `remove_stale` removes after SIGKILL. A symbolic link is followed.

    Raises:
        OutputError: missing or read-only folder, full disk, or `path` is a folder or a device.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError:  # NUL
        raise OutputError(f"{str(path)!r}: is no name of a file; choose another one") from None
    if os.path.isdir(target):
        raise OutputError(f"{path}: cannot be written: it is a folder; add a file name")
    if os.path.exists(path) and not os.path.isfile(target):
        raise OutputError(f"{path}: cannot be written: it is not a regular file; choose another name")
    try:
        if not _written_unnamed(target, data):
            _write_beside(target, data)
    except OSError as error:
        raise output_error(path, error) from error


def _written_unnamed(target: Path, data: bytes) -> bool:
    """Whether a file without a name could be written and then named: whatever ends this process, nothing is left.

    Linux has such files, on most file systems; the kernel removes one that was never named.
    """
    if not fcntl or not hasattr(os, "O_TMPFILE"):
        return False
    try:
        file = os.open(target.parent, os.O_TMPFILE | os.O_WRONLY, 0o666)
    except OSError:  # not here; or the folder is at fault, which the other way says too
        return False
    with open(file, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(file)
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)  # against `remove_stale`, while it has the temporary name
        unnamed, temporary = f"/proc/self/fd/{file}", target.with_name(f".ugic-{secrets.token_hex(8)}.part")
        try:
            os.link(unnamed, target, src_dir_fd=file, follow_symlinks=True)
            return True
        except FileExistsError:
            pass
        except OSError:  # no /proc
            return False
        os.link(unnamed, temporary, src_dir_fd=file, follow_symlinks=True)
        try:
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        return True


def _write_beside(target: Path, data: bytes) -> None:
    """Writes to a temporary name, which an end that Python does not see leaves behind; then renames it."""
    handle, temporary = _locked(target)
    try:
        with handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
            if fcntl:
                os.replace(temporary, target)  # while it is locked
        if not fcntl:
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def remove_stale(folder: Path) -> int:
    """Remove what killed writers left in a folder; how many files that were. A file still being written is locked.

    What only has such a name, a pipe or a device, stays and is not opened.
    """
    removed = 0
    found: list[Path] = []
    with suppress(OSError):
        found += folder.glob(".ugic-*.part") if fcntl else ()
    for path in found:
        with suppress(OSError):
            if not stat.S_ISREG(os.lstat(path).st_mode):
                continue
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
                removed += 1
    return removed


def _locked(target: Path) -> tuple[BinaryIO, Path]:
    """A new file beside `target`, locked against `remove_stale`, and its name."""
    while True:
        temporary = target.with_name(f".ugic-{secrets.token_hex(8)}.part")
        # Not tempfile: it creates files that nobody but the owner may read, whatever the umask says.
        handle = open(temporary, "xb")  # noqa: SIM115
        with suppress(OSError):  # a file system without locks
            if fcntl:
                fcntl.flock(handle, fcntl.LOCK_EX)
        if not fcntl or os.fstat(handle.fileno()).st_nlink:
            return handle, temporary
        handle.close()  # removed between its creation and the lock


def output_error(path: Path, error: OSError) -> OutputError:
    remedy = _REMEDIES.get(error.errno or 0) or f"{error.strerror or error}; choose another place"
    kind = DiskError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else OutputError
    return kind(f"{path}: cannot be written: {remedy}")
