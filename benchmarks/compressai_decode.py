"""`python -m benchmarks.compressai_decode STATE FILE OUT.png`: what a script that decodes with CompressAI does.

STATE is the state dict of an mbt2018-mean after `update()`, so that no table is computed here. FILE is what `pack`
gives: CompressAI makes strings, not files, so that each script has a container of its own.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

_HEADER = struct.Struct("<HHHHII")  # width, height, rows and columns of z, bytes of y and of z


def pack(width: int, height: int, shape: tuple[int, int], y: bytes, z: bytes) -> bytes:
    """A file of the two strings of `compress` for an image of that size."""
    return _HEADER.pack(width, height, *shape, len(y), len(z)) + y + z


def main(state: Path, file: Path, out: Path) -> None:
    import numpy as np
    import torch
    from PIL import Image

    from ugicm.models.entropy import compressai_module

    data = file.read_bytes()
    width, height, rows, columns, y, z = _HEADER.unpack_from(data)
    strings = [[data[-y - z : -z]], [data[-z:]]]
    weights = torch.load(state, weights_only=True, mmap=True)
    model = compressai_module("models.google").MeanScaleHyperprior.from_state_dict(weights).eval()
    with torch.no_grad():
        x = model.decompress(strings, (rows, columns))["x_hat"][0, :, :height, :width]
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(out, compress_level=3)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
