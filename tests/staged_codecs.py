"""`python -m tests.staged_codecs FOLDER [NAME[:WIDTHS]…]`: random codecs with guarded scales, and their bundles.

Their scales spread over the table and fit their latents. Benchmarks of exactness and damage run on the small ones, all
of which have contexts; `mbt2018-mean`, of its published width, has an `h_s` that no integers prove. Widths are the
arguments of the model's class: `cheng2020-anchor:128`, `mbt2018-mean-vbr:192,320`; `tcm:128` is as published.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.compressai_models import (
    RASTER_WIDTHS,
    STAGED_WIDTHS,
    VARIABLE_WIDTHS,
    lively,
    lively_raster,
    lively_staged,
    lively_variable,
)
from tests.mlic_models import lively_mlic
from tests.tcm_models import lively_tcm
from ugicm.export.compressai_zoo import EXACT
from ugicm.export.to_onnx import main as export
from ugicm.models.tcm import TCMConfig

NAMES = (*STAGED_WIDTHS, "ugicm-mlicpp", "tcm")
WIDE = (192, 320)
"""Widths of models with scales in integers, where none are given."""


def model(text: str) -> Any:
    """The random network of a name of `NAMES` or of CompressAI's, small where it does not end in widths."""
    name, _, numbers = text.partition(":")
    widths: tuple[Any, ...] = tuple(map(int, numbers.split(","))) if numbers else ()
    if name == "ugicm-mlicpp":
        return lively_mlic("ugicm")
    if name == "tcm":
        return lively_tcm(TCMConfig(width=widths[0])) if widths else lively_tcm()
    if name in VARIABLE_WIDTHS and name != "mbt2018-vbr" and len(widths) == 2:
        widths = (*widths, False)  # `z` has no step of its own
    makers: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        **{k: (lively, WIDE) for k in EXACT},
        **{k: (lively_staged, v[0]) for k, v in STAGED_WIDTHS.items()},
        **{k: (lively_raster, v[0]) for k, v in RASTER_WIDTHS.items()},
        **{k: (lively_variable, v[0]) for k, v in VARIABLE_WIDTHS.items()},
    }
    make, default = makers[name]
    return make(name, *(widths or default))


def save(text: str, folder: Path) -> Path:
    """Writes NAME.pth.tar, or NAME-WIDTH-….pth.tar, and gives its path."""
    path = folder / f"{text.replace(':', '-').replace(',', '-')}.pth.tar"
    torch.save({"state_dict": model(text).state_dict()}, path)
    return path


def made(text: str, folder: Path) -> int:
    """Writes a checkpoint and its bundle; the exit status of the export."""
    path = save(text, folder)
    return export([str(path), "-o", str(path.with_name(path.name.removesuffix(".pth.tar")))])


if __name__ == "__main__":
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    sys.exit(max([made(text, out) for text in sys.argv[2:] or NAMES]))
