"""The files of a pipeline, as they are given."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ugicm.runtime.errors import ImageError, UsageError
from ugicm.runtime.files.keeping import Keeping
from ugicm.runtime.files.picture import Picture

Source = Path | str | bytes | np.ndarray


def file_bytes(source: Source, name: str) -> bytes:
    """The bytes of a .ugic file. Raises UsageError."""
    if isinstance(source, np.ndarray):
        raise UsageError(f"{name}: is an array; give the path or the bytes of a .ugic file")
    if isinstance(source, bytes):
        return source
    path = Path(source)
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{name}: is not a regular file; name the .ugic files themselves")
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        raise UsageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def picture_of(source: Source, keeping: Keeping) -> Picture:
    """The picture of a file, or of an array, which holds nothing but pixels. Raises ImageError."""
    if isinstance(source, np.ndarray):
        return Picture(source)
    if isinstance(source, bytes):
        raise ImageError("an image is given by its path or as an array; these are bytes")
    return keeping.read(Path(source), str(source))
