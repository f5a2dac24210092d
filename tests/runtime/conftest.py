from __future__ import annotations

import numpy as np
import pytest

from runtime import Codec


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The shipped codec, on one thread."""
    return Codec.from_bundle(threads=1)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, (128, 192, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[40:168, 130:322])
