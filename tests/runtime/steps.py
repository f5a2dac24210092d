"""Single steps of coding, for tests that look between them."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np

from ugicm import Codec
from ugicm.runtime.graphs.run import Networks


def decoded_latents(codec: Codec, data: bytes) -> np.ndarray:
    """float32 (1, M, H/16, W/16) `y_hat` of a file."""
    kept: list[Any] = []
    plain = Networks.images

    def keeping(networks: Networks, y_hat: Any, *more: Any) -> Any:
        kept.append(y_hat)
        return plain(networks, y_hat, *more)

    with mock.patch.object(Networks, "images", keeping):
        codec.decode(data)
    (y_hat,) = kept
    return np.asarray(y_hat)
