"""`.ugic` files in the tar files of WebDataset.

    import webdataset
    from ugicm.adapters.webdataset import Decoder

    samples = webdataset.WebDataset("train-{000000..000127}.tar").shuffle(1000).decode(Decoder("machine"))

gives uint8 arrays (H, W, 3) under the key `ugic`. Workers may be forked or spawned; each opens a codec of its own
(`ugicm.adapters.opened`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ugicm.adapters import opened


@dataclass(frozen=True)
class Decoder:
    """A handler for WebDataset's `decode`: the pixels of members that end in .ugic; it leaves others to the rest.

    Attributes:
        condition: the view, as for `Codec.decode`.
    """

    condition: str | float | None = None

    def __call__(self, key: str, data: bytes) -> np.ndarray | None:
        """uint8 (H, W, 3) RGB, None for a member of another kind. Raises UgicError for a damaged file."""
        if key.lower().rpartition(".")[2] != "ugic":
            return None
        return opened.decode(data, self.condition)
