"""How many CPUs this process may use, counted in one place: by affinity and by the quotas of its control groups."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ugicm.runtime.errors import UsageError

_SYSTEM = Path("/")


def machine() -> int:
    """The CPUs of the machine, whoever may use them."""
    return os.cpu_count() or 1


def processors() -> int:
    """How many CPUs this process may use, at least 1: a quota of one and a half counts as two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine()
    return max(1, math.ceil(min(allowed, quota())))


def quota(root: Path = _SYSTEM) -> float:
    """CPUs' worth of time that control groups grant this process; infinite where nothing limits it.

    Version 2 says it in `cpu.max`, version 1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`. The least of a group and
    those above it counts. In a container the path may name a group of the host: then the topmost file is its own.

    Args:
        root: where `proc` and `sys` lie.
    """
    least = math.inf
    for folder in _groups(root):
        with suppress(OSError, ValueError, IndexError):
            given, period = (folder / "cpu.max").read_text().split()
            if given != "max":
                least = min(least, int(given) / int(period))
        with suppress(OSError, ValueError):
            granted = int((folder / "cpu.cfs_quota_us").read_text())
            if granted > 0:
                least = min(least, granted / int((folder / "cpu.cfs_period_us").read_text()))
    return least if least > 0 else math.inf


def _groups(root: Path) -> Iterator[Path]:
    """The folders that may hold this process's quota: its groups and those above."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        places = [controllers, "cpu"] if controllers else ["", "unified"]
        for top in (root / "sys/fs/cgroup" / place for place in places):
            folder = top / path.strip("/")
            yield folder
            while folder != top and top in folder.parents:
                folder = folder.parent
                yield folder


def most_threads() -> int:
    """More threads than this only wait for each other."""
    return max(16, 2 * machine())


def threads(asked: int | None) -> int | None:
    """CPU threads of an operator for ONNX Runtime, where None leaves the number to the library.

    The library takes one thread for each core of the machine and binds them to these, whatever this process may use:
    where that is less, it is told. Its own variable ORT_INTRA_OP_NUM_THREADS stays in force.

    Raises:
        UsageError: a number that makes no sense.
    """
    if asked is not None:
        if isinstance(asked, bool) or not 1 <= asked <= most_threads():
            raise UsageError(f"{asked} threads: give 1 to {most_threads()}; this machine has {machine()} CPUs")
        return asked
    if "ORT_INTRA_OP_NUM_THREADS" in os.environ:
        return None
    usable = processors() if _more_threads() else 1
    return usable if usable < machine() else None


def _more_threads() -> bool:
    """Whether this process may start a thread: a limit of processes, which counts threads, may forbid it."""
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        return False
    return True
