"""What workers of data loaders give: digests of pictures, and the threads that decoding them started."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from ugicm.adapters import opened

ONE = 1  # that ONNX Runtime starts when it is imported, whatever it is told
_TASKS = Path("/proc/self/task")
_began = 0


class Told(NamedTuple):
    """Of one picture, wherever it was decoded.

    added: threads of that process that Python did not start, more than when it began.
    """

    digest: str
    process: int
    threads: int | None
    added: int


def digest(pixels: Any) -> str:
    """The same for a (3, H, W) tensor, a (H, W, 3) array and an image of Pillow's."""
    array = np.asarray(pixels)
    array = array if array.shape[-1] == 3 else array.transpose(1, 2, 0)
    return hashlib.sha256(np.ascontiguousarray(array).tobytes() + str(array.shape).encode()).hexdigest()


def tell(pixels: Any) -> Told:
    return Told(digest(pixels), os.getpid(), opened.threads(), _threads() - _began)


def tell_sample(sample: dict[str, Any]) -> Told:
    """Of a sample of WebDataset."""
    return tell(sample["ugic"])


def tell_row(row: dict[str, Any]) -> Told:
    """Of a row of Hugging Face's `datasets`."""
    return tell(row["image"])


def same(item: Any) -> Any:
    return item


def two_epochs(dataset: Any, method: str, shuffle: bool) -> list[list[Told]]:
    """What two workers give in two epochs."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_size=None,
        shuffle=shuffle or None,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=True,
        worker_init_fn=_begin,
        generator=torch.Generator().manual_seed(1),
    )
    epochs = [list(loader), list(loader)]
    del loader  # ends the workers
    return epochs


def _begin(_: int) -> None:
    global _began
    _began = _threads()


def _threads() -> int:
    return len(os.listdir(_TASKS)) - threading.active_count() if _TASKS.is_dir() else 0
