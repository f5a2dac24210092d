"""One bitstream: what a file will be decoded for changes nothing in it, nor does training the machine view."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.small import lively_exported
from tests.training.test_training import arguments
from ugicm import Codec
from ugicm.export import to_onnx
from ugicm.training import train as loop


def test_files_are_the_same_whatever_they_will_be_decoded_for(
    pictures: Path, tmp_path: Path, teacher: Path, common: Path
) -> None:
    (before, bundle), run = lively_exported("fast", common), tmp_path / "run"
    changes = ["optimisation.steps=3", "supervision.kind=imagenet", "supervision.depths=3"]
    more = ["--init", str(before), "--teacher", str(teacher)]
    assert loop.main([*arguments(pictures, run, "stage2", *changes), *more]) == 0
    assert to_onnx.main([str(run / "checkpoint.pt"), "-o", str(tmp_path / "after")]) == 0
    codecs = [Codec.from_bundle(folder, threads=1) for folder in (bundle, tmp_path / "after")]
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    data = codecs[0].encode(image, 1)
    for codec in codecs:
        views = []
        for condition in ("human", 0.3, "machine"):
            assert codec.encode(image, 1) == data
            views.append(codec.decode(data, condition))
        assert not np.array_equal(views[0], views[2]) and not np.array_equal(views[1], views[2])
    assert codecs[0].codec_id == codecs[1].codec_id
    assert not np.array_equal(codecs[0].decode(data, "machine"), codecs[1].decode(data, "machine"))
    assert torch.load(run / "checkpoint.pt", weights_only=True)["supervision"].startswith("ImageNet")
