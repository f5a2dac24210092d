"""`python -m tests.golden.make`: writes the golden files of format version 1; refuses to replace any.

Files of every released version stay here and decode for ever.
"""

from __future__ import annotations

import json
import sys
import zlib
from pathlib import Path

import numpy as np

from tests.small import lively
from ugicm import Codec
from ugicm.export.to_onnx import export_bundle
from ugicm.export.ugicm import ugicm_source
from ugicm.runtime import bitstream

HERE = Path(__file__).parent


def picture(height: int, width: int) -> np.ndarray:
    """A drawn (height, width, 3) uint8 image, the same everywhere: integer arithmetic only."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    channels = [(x * 3 + y) % 256, (x * y // 7) % 256, ((x - 40) ** 2 + (y - 30) ** 2) // 20 % 256]
    return np.stack(channels, 2).astype(np.uint8)


def main() -> int:
    folder = HERE / "v1"
    if folder.exists():
        print(f"error: {folder} exists; golden files are never replaced", file=sys.stderr)
        return 2
    export_bundle(ugicm_source(lively("fast")), folder / "bundle")
    codec = Codec.from_bundle(folder / "bundle", threads=1)
    expected = {}
    for height, width, quality in ((1, 1, 1), (50, 70, 2), (64, 128, 1), (200, 90, 2)):
        name = f"{height}x{width}-q{quality}.ugic"
        data = codec.encode(picture(height, width), quality)
        (folder / name).write_bytes(data)
        expected[name] = {
            "symbol_checksum": bitstream.parse(data).symbol_checksum,
            "mean_human": float(codec.decode(data).mean()),
            "mean_machine": float(codec.decode(data, "machine").mean()),
            "crc32": zlib.crc32(data),
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
