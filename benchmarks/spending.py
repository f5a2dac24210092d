"""Time, processor time and memory of a process, from its start to its end."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Spent:
    """The costs of one process.

    Attributes:
        wall_s: seconds from its start to its end.
        cpu_s: seconds of all its threads, user and system.
        peak_mb: its largest resident memory, in 10^6 bytes; never less than what its parent held when it began.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float


def spend(command: list[str], environment: dict[str, str] | None = None) -> Spent:
    """Runs a command to its end, in an environment (None: this process's). Raises SystemExit where it fails."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    return Spent(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6)
