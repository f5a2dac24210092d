"""How many CPUs this process may use, counted in one place: by affinity and by the quotas of its control groups."""

from __future__ import annotations

import math
import os

from ugicm.runtime.errors import UsageError


def machine() -> int:
    """The CPUs of the machine, whoever may use them."""
    return os.cpu_count() or 1


def processors() -> int:
    """How many CPUs this process may use, at least 1: a quota of one and a half counts as two."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else machine()
    from ugicm.runtime.processes.quota import quota

    return max(1, math.ceil(min(allowed, quota())))


def most_threads() -> int:
    """More threads than this only wait for each other."""
    return max(16, 2 * machine())


def threads(asked: int | None) -> int | None:
    """CPU threads of an operator for ONNX Runtime, where None leaves the number to the library.

    The library takes one thread for each core of the machine and binds them to these, whatever this process may use:
    where that is less, it is told. Its own variable ORT_INTRA_OP_NUM_THREADS stays in force. Raises UsageError.
    """
    if asked is not None:
        if isinstance(asked, bool) or not 1 <= asked <= most_threads():
            raise UsageError(f"{asked} threads: give 1 to {most_threads()}; this machine has {machine()} CPUs")
        return asked
    if "ORT_INTRA_OP_NUM_THREADS" in os.environ:
        return None
    from ugicm.runtime.processes.quota import may_start_threads

    usable = processors() if may_start_threads() else 1
    return usable if usable < machine() else None
