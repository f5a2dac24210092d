"""How many pictures a second several processes decode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ugicm.runtime.processes.pool import Pool

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec


def throughput(bundle: Path | None, files: Sequence[bytes], workers: int, repeat: int) -> float:
    """Images a second that so many processes of one thread each decode, their start not counted.

    Raises:
        BackendError: as many processes cannot be started, or one dies.
    """
    with Pool(workers, _open, bundle, list(files)) as pool:
        pool.wait()
        work = list(files) * repeat
        started = time.perf_counter()
        for answer in pool.each(_decode, work):
            if answer.error is not None:
                raise answer.error
        return len(work) / (time.perf_counter() - started)


# ---- what runs in workers


def _open(bundle: Path | None, files: list[bytes]) -> Codec:
    """A codec that has met every file: sessions and tables are made once."""
    from ugicm.runtime.codec import Codec

    codec = Codec.from_bundle(bundle, threads=1)
    for data in files:
        codec.decode(data)
    return codec


def _decode(codec: Codec, data: bytes) -> int:
    return int(codec.decode(data).size)
