"""`python -m tests.golden.make`: writes the golden files of every format version; refuses to replace any.

Files of every released version stay here and decode for ever.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.compressai_models import lively_raster, lively_staged
from tests.mlic_models import narrow_ugicm
from tests.small import lively
from ugicm import Codec
from ugicm.export.checkpoint import load
from ugicm.export.to_onnx import export_bundle
from ugicm.export.ugicm import ugicm_source
from ugicm.runtime import bitstream
from ugicm.runtime.additions import Section
from ugicm.runtime.encoder import container
from ugicm.runtime.files import sections
from ugicm.runtime.files.picture import Picture

HERE = Path(__file__).parent
SIZES = ((1, 1, 1), (50, 70, 2), (64, 128, 1), (200, 90, 2))


def picture(height: int, width: int) -> np.ndarray:
    """A drawn (height, width, 3) uint8 image, the same everywhere: integer arithmetic only."""
    y, x = np.mgrid[:height, :width].astype(np.int64)
    channels = [(x * 3 + y) % 256, (x * y // 7) % 256, ((x - 40) ** 2 + (y - 30) ** 2) // 20 % 256]
    return np.stack(channels, 2).astype(np.uint8)


def main() -> int:
    """Writes the folders that are missing. Returns 2 where none is."""
    makers = {
        "v1": make_version_1,
        "v2": make_sections,
        "v2-checkerboard": make_staged,
        "v2-raster": make_staged,
        "v2-ugicm": make_staged,
    }
    missing = [name for name in makers if not (HERE / name).exists()]
    if not missing:
        print(f"error: {HERE} is complete; golden files are never replaced", file=sys.stderr)
        return 2
    for name in missing:
        makers[name](HERE / name)
    return 0


def make_version_1(folder: Path) -> None:
    """Files of a small `fast` codec."""
    export_bundle(ugicm_source(lively("fast")), folder / "bundle")
    codec = Codec.from_bundle(folder / "bundle", threads=1)
    write(folder, codec, {f"{h}x{w}-q{q}": codec.encode(picture(h, w), q) for h, w, q in SIZES})


def make_sections(folder: Path) -> None:
    """A file of the codec of version 1 with every known section, and one that nobody knows."""
    codec = Codec.from_bundle(HERE / "v1" / "bundle", threads=1)
    extras = sections.sections_of(Picture(picture(50, 70), picture(50, 70)[..., 0], b"icc", b"MM\0*exif", b"<x/>"))
    stream = bitstream.parse(codec.encode(picture(50, 70), 2))
    data = container.pack(dataclasses.replace(stream, sections=(*extras, Section(98, b"unknown"))))
    write(folder, codec, {"50x70-q2-sections": data})


def make_staged(folder: Path) -> None:
    """Files of a small codec with context: a checkerboard, wavefronts, or UG-ICM's network with both conditions."""
    import torch

    model: Any
    if folder.name == "v2-ugicm":
        model = narrow_ugicm()
    else:
        raster = folder.name == "v2-raster"
        model = lively_raster("mbt2018", 6, 9) if raster else lively_staged("cheng2020-anchor-checkerboard", 8)
        model.update(force=True)
    with tempfile.TemporaryDirectory() as work:
        torch.save({"state_dict": model.state_dict()}, Path(work) / "checkpoint.pth")
        export_bundle(load(Path(work) / "checkpoint.pth"), folder / "bundle")
    codec = Codec.from_bundle(folder / "bundle", threads=1)
    write(folder, codec, {f"{h}x{w}-q{q}": codec.encode(picture(h, w), q) for h, w, q in ((1, 1, 1), (80, 130, 1))})


def write(folder: Path, codec: Codec, files: dict[str, bytes]) -> None:
    """Files and what is to come out of them."""
    folder.mkdir(exist_ok=True)
    expected = {}
    for name, data in files.items():
        (folder / f"{name}.ugic").write_bytes(data)
        means = {f"mean_{c}": float(codec.decode(data, c).mean()) for c in codec.conditions}
        expected[f"{name}.ugic"] = {
            "symbol_checksum": bitstream.parse(data).symbol_checksum,
            **(means or {"mean": float(codec.decode(data).mean())}),
            "sha256": hashlib.sha256(data).hexdigest(),
        }
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
