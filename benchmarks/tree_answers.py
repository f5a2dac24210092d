"""The child of `benchmarks.trees`: answers for the tree that PYTHONPATH names, which may be older than this file.

A line of JSON in, a line out: {"image", "quality"} codes a picture, decodes it in both views, and tells hashes and
milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image


def codec_type() -> Any:
    """The tree's `Codec`; in old trees the rooms had bare names."""
    name = "ugicm" if find_spec("ugicm") else "runtime.codec"
    return import_module(name).Codec


def answer(codec: Any, image: np.ndarray, quality: int) -> dict[str, Any]:
    """SHA-256 of the file and of each view; milliseconds of encode and of decode in one view."""
    started = time.perf_counter()
    data = codec.encode(image, quality)
    encoded = time.perf_counter()
    human = codec.decode(data, "human")
    decoded = time.perf_counter()
    parts = (data, human.tobytes(), codec.decode(data, "machine").tobytes())
    return {
        "encode": (encoded - started) * 1e3,
        "decode": (decoded - encoded) * 1e3,
        "sha256": [hashlib.sha256(part).hexdigest() for part in parts],
    }


def main() -> None:
    codec = codec_type().from_bundle(threads=int(sys.argv[1]))
    for line in sys.stdin:
        asked = json.loads(line)
        image = np.asarray(Image.open(asked["image"]).convert("RGB"))
        print(json.dumps(answer(codec, image, asked["quality"])), flush=True)


if __name__ == "__main__":
    main()
