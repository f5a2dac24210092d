"""Whether threads can be had."""

from __future__ import annotations

import threading


def can_start(number: int) -> bool:
    """Whether this process may start so many threads: a limit of processes, which counts threads, may forbid it."""
    leave, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range(number):
            probe = threading.Thread(target=leave.wait)
            probe.start()
            started.append(probe)
    except RuntimeError:
        return False
    finally:
        leave.set()
        for probe in started:
            probe.join()
    return True
