"""The problem that the integer network solves, on the shipped weights, and that it is solved."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.exactness import torch_runner
from ugicm import Codec
from ugicm.export.graphs import export_graph
from ugicm.export.source import GraphSource
from ugicm.models.entropy import SCALE_ROWS
from ugicm.runtime.admission import graph_runner
from ugicm.runtime.backends.onnxruntime import LEVELS, OnnxRuntime
from ugicm.runtime.bundle import DEFAULT, Bundle
from ugicm.runtime.exact_reference import reference_runner
from ugicm.training.checkpoint import rebuild

CHECKPOINT = Path(__file__).parents[3] / "checkpoints" / "ugicm-fast.pt"
SIZE = (1, 64, 32, 64)  # `z` of a picture of 4096×2048


@pytest.fixture(scope="module")
def z() -> np.ndarray:
    return np.rint(np.random.default_rng(0).normal(0, 2, SIZE)).astype(np.float32)


def test_float_scale_indexes_differ_between_runtimes(z: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    """One different index of millions would be enough to garble a file; there are some."""
    h_s = rebuild(torch.load(CHECKPOINT, weights_only=True)).h_s
    source = GraphSource(
        h_s, ("z",), ("out",), lambda h, w, n: (torch.zeros(n, 64, h, w),), ({0: "n", 2: "h", 3: "w"},), 1.0
    )
    z = np.concatenate([z, z[:, ::-1], z[:, :, ::-1]])
    graph = OnnxRuntime(threads=1).load(export_graph("h_s", source).SerializeToString(), "h_s")
    with torch.no_grad():
        outputs = {
            "PyTorch float32": h_s(torch.from_numpy(z)).numpy(),
            "PyTorch float64": h_s.double()(torch.from_numpy(z).double()).numpy(),
            "ONNX Runtime": graph({"z": z})[0],
        }
    rows = {
        name: np.rint(out[:, : out.shape[1] // 2]).clip(0, SCALE_ROWS - 1).astype(np.uint8)
        for name, out in outputs.items()
    }
    reference = rows["PyTorch float32"]
    counts = {name: int(np.count_nonzero(r != reference)) for name, r in rows.items()}
    with capsys.disabled():
        print(f"\nfloat h_s, {reference.size:,} scale indexes, different from PyTorch float32: {counts}")
    assert counts["ONNX Runtime"] > 0
    assert counts["PyTorch float64"] > 0


def test_integer_scale_indexes_and_means_do_not(z: np.ndarray) -> None:
    bundle = Bundle.open(DEFAULT)
    assert bundle.exact is not None
    expected = reference_runner(bundle.exact)(z.astype(np.int32))
    for level, threads in product(LEVELS, (1, 2)):
        found = graph_runner(bundle, OnnxRuntime(threads=threads, level=level))(z.astype(np.int32))
        for a, b in zip(found, expected, strict=True):
            assert np.array_equal(a, b), (level, threads)


def test_files_of_each_backend_decode_on_every_other() -> None:
    """Encoded under each runtime, optimisation level and precision, decoded under each: the same symbols."""
    bundle = Bundle.open(DEFAULT)
    assert bundle.exact is not None
    codecs = [Codec(bundle, OnnxRuntime(threads=n, level=level)) for n, level in product((1, 2), LEVELS)]
    for run in (
        reference_runner(bundle.exact),
        torch_runner(bundle.exact, torch.float32, 1, onednn=True),
        torch_runner(bundle.exact, torch.float64, 2, onednn=False),
    ):
        codecs.append(Codec(bundle, OnnxRuntime(threads=1)))
        codecs[-1].networks._opened.exact = run
    image = np.random.default_rng(3).integers(0, 256, (150, 200, 3), dtype=np.uint8)
    image[:, :100] = image[:1, :100] // 2  # something flat beside the noise
    for encoder in codecs:
        data = encoder.encode(image, 5)
        pictures = [decoder.decode(data).astype(int) for decoder in codecs]  # raises on any different symbol
        assert all(np.abs(p - pictures[0]).max() <= 1 for p in pictures)
