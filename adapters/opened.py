"""Codecs that the adapters share: each bundle's opened once a process, on as many threads as is said in one place.

The environment variable UGICM_THREADS is the number of CPU threads of an operator. Without it a worker process, of
PyTorch's `DataLoader` for one, has a single thread, since workers share the CPUs already; any other process leaves the
number to the backend. A codec is opened in the process that uses it: sessions of a parent hang in its forks.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ugicm.runtime import catalogue
from ugicm.runtime.bitstream import HEADER_BYTES, read_header
from ugicm.runtime.errors import UsageError

if TYPE_CHECKING:
    from ugicm.runtime.codec import Codec

THREADS = "UGICM_THREADS"


def threads() -> int | None:
    """CPU threads of an operator for codecs of this process; None leaves the number to the backend.

    Raises:
        UsageError: UGICM_THREADS is no number from 1 to 1024.
    """
    text = os.environ.get(THREADS)
    if not text:
        return 1 if in_worker() else None
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise UsageError(f"{THREADS}: '{text}' is no number of threads; use 1 to 1024")
    return int(text)


def in_worker() -> bool:
    """Whether `multiprocessing` started this process, or `multiprocess`, which Hugging Face uses in its place."""
    modules = [sys.modules.get(f"{name}.process") for name in ("multiprocessing", "multiprocess")]
    return any(module.parent_process() is not None for module in modules if module)


def open_bundle(bundle: Path | None = None) -> Codec:
    """The codec of a bundle (None: the shipped one). Raises UsageError, and what `Codec.from_bundle` raises."""
    return _opened(None if bundle is None else bundle.absolute(), threads(), os.getpid())


def codec_for(data: bytes, name: str = "<bytes>") -> Codec:
    """The codec that a .ugic file names, among the shipped ones and those of UGICM_BUNDLES.

    Raises:
        NotUgicError, VersionError, TruncatedError, CorruptFileError: of its header.
        CodecMismatchError: no such bundle is known.
    """
    header = read_header(data[:HEADER_BYTES], name)
    return open_bundle(_found(header.codec_id, os.environ.get(catalogue.VARIABLE)))


def decode(data: bytes, condition: str | float | None = None, name: str = "<bytes>") -> np.ndarray:
    """The RGB pixels of a .ugic file, uint8 (H, W, 3); opacity, profile and metadata are left out.

    Args:
        condition: as for `Codec.decode`.
        name: what errors call the file.

    Raises:
        UgicError: see `codec_for` and `Codec.decode`.
    """
    return codec_for(data, name).decode(data, condition, name)


@cache
def _found(codec_id: bytes, _: str | None) -> Path:
    return catalogue.find_bundle(codec_id)


@cache
def _opened(bundle: Path | None, number: int | None, process: int) -> Codec:
    from ugicm.runtime.codec import Codec  # a backend is loaded only once there are pixels to code

    return Codec.from_bundle(bundle, threads=number)
