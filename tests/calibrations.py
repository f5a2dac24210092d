"""The shipped codec in INT8 and FP8, calibrated on small photographs once in a run for each form."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.once import once
from ugicm.calibration.int8 import command as int8
from ugicm.runtime.bundle import DEFAULT
from ugicm.runtime.files.images import write_image

TOLERANCE = 0.15


def photographs() -> list[np.ndarray]:
    """Two of (128, 128, 3) uint8."""
    from skimage import data

    return [
        np.ascontiguousarray(data.astronaut()[40:168, 130:258]),
        np.ascontiguousarray(data.coffee()[100:228, 200:328]),
    ]


def calibrated(form: str, common: Path) -> Path:
    """The bundle in a form, to be read only, of one photograph in FP8; times of its transforms are not compared."""

    def make(folder: Path) -> None:
        for i, image in enumerate(photographs()[: 1 if form == "fp8" else 2]):
            write_image(folder / f"{i}.png", image)
        arguments = [str(DEFAULT), str(folder), "-o", str(folder / "int8"), "--form", form, "--size", "128"]
        assert int8.main([*arguments, "--threads", "1", "--repeat", "0", "--tolerance", str(TOLERANCE)]) == 0

    return once(common, f"int8-{form}", make) / "int8"
