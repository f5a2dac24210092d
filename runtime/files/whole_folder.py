"""A bundle's folder, replaced whole or not at all, whoever else writes it and whatever ends this process.

A writer works in a hidden folder beside the bundle's, which it holds locked while it lives:

    .ugicm-HEX/new/        the new bundle; once that stands under its name, the old one
    .ugicm-HEX/old/NAME/   the old bundle, set aside, where a system cannot exchange two names
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ugicm.runtime.errors import BundleError, OutputError, VersionError
from ugicm.runtime.files.output import output_error
from ugicm.runtime.manifest import MANIFEST, read_manifest

try:
    import fcntl
except ImportError:  # Windows: what killed writers leave stays
    fcntl = None  # type: ignore[assignment]

ENGINES = "engines"
"""The folder in a bundle that its manifest does not name: what TensorRT made of it here, and can make again."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_WORKSHOP = re.compile(r"\.ugicm-[0-9a-f]{16}")
_NEW, _OLD = "new", "old"
_TRIES = 10_000
"""How often a folder is looked at again which other writers replace meanwhile."""
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


def check_replaceable(folder: Path) -> None:
    """Raises OutputError unless a bundle may be written there: nothing, an empty folder, or a bundle and nothing else.

    Of a bundle may go what its own manifest names, and `engines`; any other name is somebody's.
    """
    target = _target(folder)
    for _ in range(_TRIES):
        before, foreign, refused = _identity(target), None, None
        if before is None:
            return
        if not stat.S_ISDIR(before.st_mode):
            raise OutputError(f"{folder}: is a file; give another name with -o")
        try:
            foreign = _foreign(target)
        except FileNotFoundError:
            continue  # another writer has taken it away
        except OSError as error:
            refused = error
        if (foreign is None and refused is None) or _same(before, _identity(target)):
            break  # else another writer replaced it meanwhile
    else:
        raise OutputError(f"{folder}: changes whenever it is looked at; end what writes it, or give another -o")
    if refused is not None:
        raise output_error(folder, refused) from refused
    if foreign is not None:
        raise OutputError(
            f"{folder}: holds something that is no bundle or no part of it: {foreign[:200]!r}; "
            "give another name with -o, or move it away"
        )
    if _closed(target):
        raise output_error(folder, PermissionError(errno.EACCES, "no permission"))
    if os.path.ismount(target):
        raise OutputError(f"{folder}: a file system is mounted there, which has to stay; name a folder in it")


def replace_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes a bundle, all its files at once; a bundle that is there goes when the new one stands.

    On Linux the two exchange their names in one step, so that `folder` holds a whole bundle at every moment, also where
    several processes write it: the last one's stands. On other systems, and on file systems that cannot exchange names,
    `folder` is missing between two renames; if a process is killed there, the next run puts the old bundle back before
    it begins. The next run removes what a killed one left.

    Args:
        folder: a symbolic link is followed. Its parent exists.
        contents: file name → bytes, the manifest among them.

    Raises:
        OutputError: see `check_replaceable`; or the disk refuses. What was there before is there still.
    """
    check_replaceable(folder)
    target = _target(folder)
    try:
        remove_leftovers(target.parent)
        with _workshop(target.parent) as workshop:
            new = workshop / _NEW
            new.mkdir()
            for name in sorted(contents, key=lambda name: name != MANIFEST):  # it says whose the others are
                with (new / name).open("xb") as file:
                    file.write(contents[name])
                    file.flush()
                    os.fsync(file.fileno())
            _swap(workshop, target, folder)
    except OSError as error:
        raise output_error(folder, error) from error


def remove_leftovers(parent: Path) -> int:
    """Removes what killed writers left in a folder, and puts an old bundle back where none stands; how many it removed.

    A living writer's is locked. One that holds anything but bundles is not touched.
    """
    removed = 0
    with suppress(OSError):
        for path in sorted(parent.glob(".ugicm-*")) if fcntl else ():
            if _WORKSHOP.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
                lock = _lock(path, wait=False)
                if lock is not None:
                    with suppress(OSError):
                        _remove_workshop(path)
                    os.close(lock)
                    removed += not path.exists()
    return removed


def _target(folder: Path) -> Path:
    try:
        return Path(os.path.realpath(folder))
    except ValueError:  # NUL
        raise OutputError(f"{str(folder)!r}: is no name of a folder; give another one with -o") from None


def _closed(folder: Path) -> bool:
    """Whether a folder that stands admits no writing; one that is missing may be between two renames of another's."""
    return not any(os.access(folder, os.W_OK | os.X_OK) or not os.path.lexists(folder) for _ in range(3))


def _identity(folder: Path) -> os.stat_result | None:
    """What tells a folder from another that takes its name, and from itself before a name in it or its own changed."""
    with suppress(OSError):
        return os.lstat(folder)
    return None


def _same(one: os.stat_result, other: os.stat_result | None) -> bool:
    names = "st_ino", "st_mtime_ns", "st_ctime_ns"
    return other is not None and all(getattr(one, name) == getattr(other, name) for name in names)


def _foreign(folder: Path) -> str | None:
    """The first name in a folder that is no part of a bundle; None if there is none, as in an empty folder."""
    found = sorted(os.scandir(folder), key=lambda entry: entry.name)
    if not found:
        return None
    try:
        named = {MANIFEST, *read_manifest(folder).files}
    except (BundleError, VersionError):
        return found[0].name
    for entry in found:
        known = entry.is_dir if entry.name == ENGINES else entry.is_file
        if entry.name not in {*named, ENGINES} or not known(follow_symlinks=False):
            return entry.name
    return None


def _swap(workshop: Path, target: Path, folder: Path) -> None:
    """Gives the new bundle of a workshop the name `target`; one that was there lies in the workshop after it."""
    new, old = workshop / _NEW, workshop / _OLD
    while True:
        try:
            new.rename(target)  # where nothing is, or an empty folder
            return
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
        if _exchange(new, target):
            if _foreign(new) is not None:  # somebody put it there in this moment
                _exchange(new, target)
                check_replaceable(folder)
            return
        try:
            old.mkdir()
            target.rename(old / target.name)
            check_replaceable(old / target.name)
            new.rename(target)
            return
        except OSError as error:
            if error.errno not in (*_TAKEN, errno.ENOENT):  # those of a race with another writer
                raise
        _settle(workshop)


def _exchange(one: Path, other: Path) -> bool:
    """Gives two folders each other's name in one step; False where that cannot be done here, or one is missing.

    Raises:
        OSError: it was refused.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if not rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM, errno.ENOENT):
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _workshop(parent: Path) -> Iterator[Path]:
    """A new hidden folder, locked; it is removed in the end."""
    while True:
        path = parent / f".ugicm-{secrets.token_hex(8)}"
        path.mkdir(mode=0o700)
        lock = _lock(path)
        try:
            if lock is not None and path.exists():  # else it was taken for a leftover before it was locked
                yield path
                return
        finally:
            with suppress(OSError):  # the next run tries again
                _remove_workshop(path)
            if lock:
                os.close(lock)


def _lock(path: Path, wait: bool = True) -> int | None:
    """Locks a folder until what this returns is closed; 0 where there are no locks.

    None where the folder is missing, or `wait` is False and another process has it.
    """
    if not fcntl:
        return 0
    try:
        handle = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        if not wait:
            os.close(handle)
            return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def _remove_workshop(path: Path) -> None:
    if not {*os.listdir(path)} <= {_NEW, _OLD}:
        return
    _settle(path)
    _remove_bundle(path / _NEW)
    path.rmdir()


def _settle(workshop: Path) -> None:
    """Puts a bundle that was set aside back, or removes it where another stands by now."""
    old = workshop / _OLD
    for bundle in list(old.iterdir()) if old.is_dir() else ():
        target = workshop.parent / bundle.name
        if not os.path.lexists(target):
            with suppress(OSError):
                bundle.rename(target)
        _remove_bundle(bundle)
    with suppress(FileNotFoundError):
        old.rmdir()


def _remove_bundle(folder: Path) -> None:
    """Removes a bundle or a part of one, the manifest last; nothing where a name in it is no bundle's."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    if names != [MANIFEST] and _foreign(folder) is not None:  # a manifest alone may have been cut short
        return
    if ENGINES in names:
        shutil.rmtree(folder / ENGINES)
    for name in sorted(names, key=lambda name: name == MANIFEST):
        if name != ENGINES:
            (folder / name).unlink()
    folder.rmdir()
