"""`python -m benchmarks.writing IMAGE…`: milliseconds and bytes of every lossless way out, of decoded pictures."""

from __future__ import annotations

import argparse
import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ugicm import Codec
from ugicm.runtime.files.images import read_image

# zlib's strategies by number: 1 filtered, 2 Huffman only, 3 run lengths, 4 fixed codes.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"PNG level {n}": ("PNG", {"compress_level": n}) for n in (0, 1, 2, 3, 4, 6)},
    **{f"PNG level 1, strategy {n}": ("PNG", {"compress_level": 1, "compress_type": n}) for n in (1, 2, 3, 4)},
    "PNG level 6, strategy 3": ("PNG", {"compress_level": 6, "compress_type": 3}),
    "WebP method 0": ("WEBP", {"lossless": True, "method": 0, "quality": 0}),
    "WebP method 4": ("WEBP", {"lossless": True, "method": 4, "quality": 80}),
    "QOI": ("QOI", {}),
    "TIFF": ("TIFF", {}),
    "TIFF deflate": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    "TIFF LZW": ("TIFF", {"compression": "tiff_lzw"}),
    "BMP": ("BMP", {}),
    "PPM": ("PPM", {}),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--quality", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    codec = Codec.from_bundle(threads=1)
    pictures = [codec.decode(codec.encode(read_image(path), options.quality)) for path in options.images]
    pixels = sum(p.shape[0] * p.shape[1] for p in pictures)
    print(f"{'way':24} {'ms/MP':>8} {'bytes/pixel':>12}   {len(pictures)} pictures, {pixels / 1e6:.2f} MP, one thread")
    for way, (form, arguments) in WAYS.items():
        times, size = [], 0
        for _ in range(options.runs):
            size, spent = 0, 0.0
            for picture in pictures:
                started = time.thread_time()
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, form, **arguments)
                spent += time.thread_time() - started
                size += len(buffer.getvalue())
            times.append(spent)
        print(f"{way:24} {1e3 * float(np.min(times)) / (pixels / 1e6):8.1f} {size / pixels:12.3f}", flush=True)


if __name__ == "__main__":
    main()
