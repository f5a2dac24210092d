"""What workers do in these tests, and how tests see that one has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Any

from ugicm.runtime.errors import CorruptFileError
from ugicm.runtime.processes.shared import Placed, Shared
from ugicm.runtime.processes.worker import shared_memory


def begin(start: int) -> dict[str, int]:
    return {"count": start}


def fail(_: int) -> None:
    raise CorruptFileError("cannot begin")


def perish(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count(state: dict[str, int]) -> tuple[int, int]:
    state["count"] += 1
    return state["count"], os.getpid()


def refuse(state: dict[str, int], error: str) -> None:
    if error == "damaged":
        raise CorruptFileError("a.ugic is damaged")
    raise ValueError(error)


def die(state: dict[str, int]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def nap(state: dict[str, int]) -> None:
    time.sleep(60)


def unsendable(state: dict[str, int]) -> Any:
    return lambda: None


def square(state: dict[str, int], number: int) -> int:
    """A number's square; of 13 an error; 7 kills."""
    if number == 13:
        raise CorruptFileError("13")
    if number == 7:
        die(state)
    return number * number


def double(state: dict[str, int], placed: Placed, room: Shared | None) -> Placed:
    memory = shared_memory()
    return memory.put(room, memory.get(placed) * 2)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for has too."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def open_files(pid: int | str = "self") -> dict[int, str]:
    """What a process has open, by number."""
    found: dict[int, str] = {}
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile: the listing's own
            found[int(file.name)] = os.readlink(file)
    return found


def named_memory(*pids: int) -> list[str]:
    """Shared memory with a name that these processes have mapped or open; that of other processes is not theirs."""
    held: list[str] = []
    for pid in pids:
        held += [line.split(maxsplit=5)[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]
        held += open_files(pid).values()
    return [name for name in held if name.startswith("/dev/shm/") and not name.endswith(" (deleted)")]
