"""Bundles of small models of CompressAI without context, each exported once in a run."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch

from tests.compressai_models import WIDTHS, lively
from tests.once import once


def exported(architecture: str, common: Path, widths: tuple[int, int] = WIDTHS[0]) -> Path:
    """`checkpoint.pth.tar` of a lively model; its bundle `checkpoint` and what export `printed` stand beside it.

    Tables are updated in the checkpoints of the first widths alone.
    """

    def make(folder: Path) -> None:
        from ugicm.export.to_onnx import main as export

        model = lively(architecture, *widths)
        if widths == WIDTHS[0]:
            model.update(force=True)
        torch.save({"epoch": 3, "state_dict": model.state_dict()}, folder / "checkpoint.pth.tar")
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert export([str(folder / "checkpoint.pth.tar")]) == 0
        (folder / "printed").write_text(printed.getvalue())

    return once(common, f"{architecture}-{widths[0]}", make) / "checkpoint.pth.tar"
