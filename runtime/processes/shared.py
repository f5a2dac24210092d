"""Memory that a process shares with one worker: without a name, so that nothing of it outlives the two.

It is Linux's memfd, which needs no /dev/shm. Reserved memory is there: too little is an error when it is asked for,
not a SIGBUS when it is written. Where the system has no such memory, arrays pass through the pipe.
"""

from __future__ import annotations

import errno
import mmap
import os
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any

import numpy as np

from ugicm.runtime.errors import BackendError

_ALIGNED = 64  # bytes


@dataclass(frozen=True)
class Shared:
    """Where an array lies in shared memory; small, to be sent."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def end(self) -> int:
        return self.offset + int(np.prod(self.shape)) * self.dtype.itemsize


Placed = Shared | np.ndarray
"""An array as it is sent: its place, or itself where no memory is shared."""


class Memory:
    """One end. It is sent to the worker when that starts; this process reserves, and may do so again for more."""

    def __init__(self) -> None:
        self._file = _anonymous()
        self._map: mmap.mmap | None = None
        self._used = 0

    def __getstate__(self) -> Any:
        return None if self._file is None else reduction.DupFd(self._file)

    def __setstate__(self, file: Any) -> None:
        self._file = None if file is None else file.detach()
        self._map = None
        self._used = 0

    def reserve(self, nbytes: int, arrays: int = 1) -> None:
        """Forgets what was placed and makes room for so many arrays of so many bytes in all.

        Raises:
            BackendError: there is not as much memory.
        """
        self._used = 0
        needed = nbytes + _ALIGNED * max(1, arrays)
        if self._file is None or (self._map is not None and len(self._map) >= needed):
            return
        try:
            os.posix_fallocate(self._file, 0, needed)
            self._map = mmap.mmap(self._file, 0)  # views of the one before keep that
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BackendError(
                f"no memory to share with a worker process ({needed / 1e6:.0f} MB: {reason}); use 0 workers, fewer, "
                "or smaller images"
            ) from error

    def room(self, shape: tuple[int, ...], dtype: np.dtype) -> Shared | None:
        """A place for an array, reserved before; None where arrays pass through the pipe."""
        if self._file is None:
            return None
        shared = Shared(self._used, shape, dtype)
        self._used = -(-shared.end // _ALIGNED) * _ALIGNED
        return shared

    def place(self, array: np.ndarray) -> Placed:
        """An array, copied to where the other process finds it."""
        return self.put(self.room(array.shape, array.dtype), array)

    def put(self, room: Shared | None, array: np.ndarray) -> Placed:
        """An array, copied to a room of this shape; the array where there is none."""
        if room is None:
            return array
        self.get(room)[...] = array
        return room

    def get(self, placed: Placed) -> np.ndarray:
        """The placed array: a view, to be used before the next `reserve`."""
        if not isinstance(placed, Shared):
            return placed
        assert self._file is not None
        if self._map is None or len(self._map) < placed.end:  # the other process has reserved more
            self._map = mmap.mmap(self._file, 0)
        return np.ndarray(placed.shape, placed.dtype, self._map, placed.offset)

    def close(self) -> None:
        self._map = None  # unmapped with the last view
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _anonymous() -> int | None:
    """A file descriptor of memory without a name, or None where the system has none. Raises OSError: no more files."""
    if not hasattr(os, "memfd_create") or not hasattr(os, "posix_fallocate"):
        return None
    try:
        return os.memfd_create("ugicm", os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None  # an old kernel, or a sandbox that forbids it
