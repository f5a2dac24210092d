"""`python -m tests.staged_codecs FOLDER [NAME…]`: random codecs with guarded scales, their checkpoints and bundles.

Their scales spread over the table and fit their latents. Benchmarks of exactness and damage run on the small ones, all
of which have contexts; `mbt2018-mean`, of its published width, has an `h_s` that no integers prove.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from tests.compressai_models import STAGED_WIDTHS, lively, lively_staged
from tests.mlic_models import lively_mlic
from tests.tcm_models import lively_tcm
from ugicm.export.to_onnx import main as export

NAMES = (*STAGED_WIDTHS, "ugicm-mlicpp", "tcm")
WIDE, WIDTHS = "mbt2018-mean", (192, 320)


def model(name: str) -> Any:
    """The random network of one of `NAMES`, or of `WIDE`."""
    if name == "ugicm-mlicpp":
        return lively_mlic("ugicm")
    if name == "tcm":
        return lively_tcm()
    return lively(WIDE, *WIDTHS) if name == WIDE else lively_staged(name, *STAGED_WIDTHS[name][0])


def save(name: str, folder: Path) -> Path:
    """Writes NAME.pth.tar and gives its path."""
    path = folder / f"{name}.pth.tar"
    torch.save({"state_dict": model(name).state_dict()}, path)
    return path


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    sys.exit(max(export([str(save(name, out)), "-o", str(out / name)]) for name in sys.argv[2:] or NAMES))
