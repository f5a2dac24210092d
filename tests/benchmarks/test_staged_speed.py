"""What is compared decodes the same picture; how long it takes is not tested."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.staged_speed import Eager, works
from ugicm import Codec
from ugicm.export.checkpoint import load


def test_ours_and_theirs_decode_the_same_picture(
    staged_checkpoint: Path, photograph: np.ndarray, tmp_path: Path
) -> None:
    name = "cheng2020-anchor-checkerboard"
    (tmp_path / f"{name}.pth.tar").symlink_to(staged_checkpoint)
    (tmp_path / name).symlink_to(staged_checkpoint.with_name("bundle"))
    with torch.no_grad():
        found = works(tmp_path, name, photograph, 1)
        theirs, ours = (np.asarray(work()).astype(int) for work in found[f"{name}, decode"].values())
        assert list(found[f"{name}, encode"]) == ["CompressAI", "here"]
    assert theirs.shape == ours.shape and np.abs(theirs - ours).max() <= 1


def test_pytorch_as_a_backend_reads_the_runtimes_files(staged_checkpoint: Path, photograph: np.ndarray) -> None:
    codec = Codec.from_bundle(staged_checkpoint.with_name("bundle"), threads=1)
    eager = Codec(codec.bundle, Eager(load(staged_checkpoint)))  # type: ignore[arg-type]
    with torch.no_grad():
        for one, other in ((codec, eager), (eager, codec)):
            data = one.encode(photograph)
            assert np.abs(one.decode(data).astype(int) - other.decode(data)).max() <= 1
