"""Single steps of coding, for tests that look between them."""

from __future__ import annotations

from unittest import mock

import numpy as np

from ugicm import Codec


def decoded_latents(codec: Codec, data: bytes) -> np.ndarray:
    """float32 (1, M, H/16, W/16) `y_hat` of a file."""
    with mock.patch.object(codec.networks, "synthesised", wraps=codec.networks.synthesised) as asked:
        codec.decode(data)
    ((y_hat, _, _),) = asked.call_args.args[0]
    return np.asarray(y_hat)
