"""`python -m tests.staged_codecs FOLDER`: small random codecs with context, their checkpoints and bundles.

Their scales spread over the table and fit their latents. Benchmarks of exactness and damage run on them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.compressai_models import STAGED_WIDTHS, lively_staged
from tests.mlic_models import lively_mlic
from ugicm.export.to_onnx import main as export

NAMES = (*STAGED_WIDTHS, "ugicm-mlicpp")


def save(name: str, folder: Path) -> Path:
    """Writes NAME.pth.tar, one of `NAMES`, and gives its path."""
    model = lively_mlic("ugicm") if name == "ugicm-mlicpp" else lively_staged(name, *STAGED_WIDTHS[name][0])
    path = folder / f"{name}.pth.tar"
    torch.save({"state_dict": model.state_dict()}, path)
    return path


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    sys.exit(max(export([str(save(name, out)), "-o", str(out / name)]) for name in NAMES))
