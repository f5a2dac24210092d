"""`python -m benchmarks.browser`: what travels to a browser, and how long headless Chromium takes for a photograph.

The site of the shipped codec, gzipped by parts as a server would; then scikit-image's photograph of a cup, made
768×512, quality 4, human view, with 1 and 2 threads, several starts of the browser in turns. The checksum of its
symbols has to be the file's. Needs Chromium, and onnxruntime-web in node_modules or NODE_PATH.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from tests.adapters.web.page import decode
from ugicm import Codec
from ugicm.adapters.web.library import found
from ugicm.adapters.web.site import site_files, write_site
from ugicm.runtime import bitstream

PARTS = {"onnxruntime-web": "onnxruntime-web/", "graphs, tables, golden vectors": "bundle/", "the page itself": ""}
FALLBACK = "bundle/exact.npz"  # for browsers whose graph is not exact


def main(arguments: list[str] | None = None) -> int:
    """Prints one JSON object. Returns 1 where the browser read other symbols."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.browser", description=__doc__)
    parser.add_argument("--starts", type=int, default=3, help="of the browser, with each number of threads; default: 3")
    parser.add_argument("--times", type=int, default=8, help="that it decodes the file in one start; default: 8")
    options = parser.parse_args(arguments)
    from skimage.data import coffee

    library, codec = found(), Codec.from_bundle()
    if library is None:
        raise SystemExit("error: no onnxruntime-web in node_modules or NODE_PATH")
    files = site_files(codec.bundle, library)
    photograph = Image.fromarray(coffee()).resize((768, 512), Image.Resampling.LANCZOS)
    data = codec.encode(np.asarray(photograph), 4)
    checksum = bitstream.parse(data).symbol_checksum
    facts: dict[str, object] = {"travels": _sizes(files), "file": len(data)}
    seconds: dict[str, list[dict[str, float]]] = {}
    for _ in range(options.starts):
        for threads in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                write_site(Path(folder) / "site", files)
                answer = decode(Path(folder) / "site", {"cup.ugic": data}, [0], threads, True, options.times)
            (result,) = answer["results"]
            if answer["threads"] != threads or result.get("checksum") != checksum:
                print(f"{answer['threads']} threads: {result}", file=sys.stderr)
                return 1
            first, *warm = result["milliseconds"]
            later = warm[len(warm) // 3 :]
            seconds.setdefault(f"{threads} threads", []).append(
                {
                    "first": round(first["all"] / 1e3, 2),
                    "warm": round(float(np.median([run["all"] for run in later])) / 1e3, 2),
                    "warm, range coder": round(float(np.median([run["entropy"] for run in later])) / 1e3, 3),
                }
            )
    print(json.dumps(facts | {"seconds": seconds}, indent=1))
    return 0


def _sizes(files: dict[str, bytes]) -> dict[str, dict[str, int]]:
    """Bytes of each part, and gzipped file by file; of the fallback apart."""
    left = {name: data for name, data in files.items() if name != FALLBACK}
    table = {}
    for part, prefix in PARTS.items():
        chosen = [left.pop(name) for name in list(left) if name.startswith(prefix)]
        table[part] = {"bytes": sum(map(len, chosen)), "gzipped": sum(len(gzip.compress(one, 6)) for one in chosen)}
    table["only where h_s is not exact"] = {
        "bytes": len(files[FALLBACK]),
        "gzipped": len(gzip.compress(files[FALLBACK], 6)),
    }
    return table


if __name__ == "__main__":
    sys.exit(main())
