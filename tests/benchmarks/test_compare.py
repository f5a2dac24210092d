"""What is compared gives the same result on either side; the timing itself is not tested."""

from __future__ import annotations

import numpy as np
from torch import nn

from benchmarks.compare import alternate, coders, pillow, pixels, tensor, unpillow
from benchmarks.lowerings import measure, session
from ugicm import Codec
from ugicm.export.source import ImageOutput
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.measures.pictures import generated_image


def test_works_alternate_and_the_first_round_does_not_count() -> None:
    order: list[str] = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert "".join(order) == "ababab"
    assert [len(values) for values in times.values()] == [2, 2]


def test_both_coders_round_trip_the_sparse_symbols() -> None:
    groups = coders(Codec.from_bundle(threads=1))  # checks that each decodes what it encoded
    decode = groups["entropy decode, 491,520 sparse symbols"]
    theirs = decode["CompressAI"]().numpy().ravel().astype(np.int32)
    assert theirs.size == decode["here"]().size == 491_520


def test_pictures_pass_unchanged_to_the_rivals_and_back() -> None:
    image = generated_image(50, 70)
    x = tensor(image, 64)
    assert x.shape == (1, 3, 64, 128)
    assert np.array_equal(pixels(x, image.shape), image)
    assert np.array_equal(unpillow(pillow(image, "PNG")), image)


def test_a_lowering_is_measured_by_pairs() -> None:
    tail = nn.Sequential(nn.Conv2d(4, 192, 1), nn.PixelShuffle(8), ImageOutput())
    x = np.random.default_rng(0).random((1, 4, 8, 16), np.float32)
    before, after = (session(OnnxRuntime(threads=1), tail, x, general) for general in (True, False))
    spent, ratio, difference = measure(before, after, 5)
    assert before().shape == (1, 64, 128, 3)
    assert spent > 0 and ratio > 0 and difference <= 1 / 255
