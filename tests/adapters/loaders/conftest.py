"""A folder of small .ugic files of mixed sizes, and what the codec says they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.adapters.loaders.epochs import digest
from ugicm import Codec


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory, codec: Codec, photograph: np.ndarray) -> Path:
    """Eight files, two of them in a folder of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    for i in range(8):
        crop = photograph[8 * i : 64 + 3 * i, : 80 - 5 * i]
        (folder / ("more" if i > 5 else "") / f"{i}.ugic").write_bytes(codec.encode(np.ascontiguousarray(crop), 1))
    return folder


@pytest.fixture(scope="session")
def expected(folder: Path, codec: Codec) -> list[str]:
    """Digests of the machine views, sorted."""
    return sorted(digest(codec.decode(path.read_bytes(), "machine")) for path in folder.rglob("*.ugic"))
