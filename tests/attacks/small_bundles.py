"""`python -m tests.attacks.small_bundles FOLDER`: bundles with views, stages and a wavefront, of small networks."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from tests.compressai_models import lively_raster, lively_staged
from tests.small import lively
from ugicm.export.checkpoint import load
from ugicm.export.to_onnx import export_bundle
from ugicm.export.ugicm import ugicm_source


def main() -> None:
    """Writes them."""
    folder = Path(sys.argv[1])
    export_bundle(ugicm_source(lively("fast")), folder / "views")
    for name, model in (
        ("stages", lively_staged("cheng2020-anchor-checkerboard", 8)),
        ("wavefront", lively_raster("mbt2018", 8, 8)),
    ):
        checkpoint = folder / f"{name}.pth.tar"
        torch.save(model.state_dict(), checkpoint)
        export_bundle(load(checkpoint), folder / name)
        checkpoint.unlink()


if __name__ == "__main__":
    main()
