"""The time and the threads that the system grants this process."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_SYSTEM = Path("/")


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


def may_start_threads() -> bool:
    """Whether this process may start a thread: a limit of processes, which counts threads, may forbid it."""
    probe = threading.Thread(target=int)
    try:
        probe.start()
    except RuntimeError:
        return False
    probe.join()
    return True
