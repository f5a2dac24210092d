"""What is dear to make and the same for all: made once in a run, however many processes it has."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Callable
from pathlib import Path


def once(common: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder `common/name`, which the first that asks fills; others wait for it.

    Args:
        common: of the fixture of that name.
        make: fills an empty folder, which takes its name when that is done.
    """
    path = common / name
    with (common / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            part = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=common))
            make(part)
            part.rename(path)
    return path
