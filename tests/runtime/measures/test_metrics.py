"""PSNR and MS-SSIM: what is known of them, and the reference implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ugicm.runtime.measures.metrics import ms_ssim, psnr

pairs = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: st.tuples(*[hnp.arrays(np.uint8, (*size, 3))] * 2)
)


def noisy(height: int, width: int, deviation: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A smooth picture and itself with noise."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = [128 + 90 * np.sin(rows / 9 + c) * np.cos(columns / (13 + c)) for c in range(3)]
    smooth = np.stack(waves, axis=2)
    noise = random.normal(0, deviation, smooth.shape)
    return smooth.astype(np.uint8), np.clip(smooth + noise, 0, 255).astype(np.uint8)


def test_psnr_of_known_errors() -> None:
    black = np.zeros((5, 7, 3), np.uint8)
    assert psnr(black, black) == math.inf
    assert psnr(black, black + np.uint8(255)) == 0
    assert psnr(black, black + np.uint8(1)) == pytest.approx(48.1308, abs=1e-4)
    one = black.copy()
    one[0, 0, 0] = 255
    assert psnr(black, one) == pytest.approx(10 * math.log10(5 * 7 * 3))


@settings(max_examples=60, deadline=None)
@given(pairs)
def test_both_are_symmetric_and_bounded(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = pair
    assert psnr(first, second) == psnr(second, first) >= 0
    value = ms_ssim(first, second)
    assert value == ms_ssim(second, first)
    assert 0 <= value <= 1 + 1e-6
    assert ms_ssim(first, first) == pytest.approx(1, abs=1e-9)


def test_turning_both_changes_nothing() -> None:
    first, second = noisy(96, 160, 20)
    turned = ms_ssim(np.rot90(first), np.rot90(second))
    assert turned == pytest.approx(ms_ssim(first, second), abs=1e-6)


def test_more_noise_is_less_alike() -> None:
    values = [ms_ssim(*noisy(180, 200, deviation)) for deviation in (0, 2, 8, 30)]
    assert values == sorted(values, reverse=True) and values[0] == pytest.approx(1)
    assert len(set(values)) == 4


@pytest.mark.parametrize("side", [1, 2, 10, 11, 12, 21, 22, 43, 44, 87, 88, 175, 176, 177])
def test_any_size_has_a_value(side: int) -> None:
    assert 0.1 < ms_ssim(*noisy(side, 200, 8)) < 1


def test_unusable_arrays_are_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    for other in (image.astype(float), image[..., 0], image[:3], image[:0]):
        with pytest.raises(ValueError):
            psnr(image, other)
        with pytest.raises(ValueError):
            ms_ssim(image, other)


@pytest.mark.parametrize(("height", "width", "deviation"), [(176, 256, 3), (192, 320, 15), (352, 176, 40)])
def test_ms_ssim_agrees_with_the_reference_implementation(height: int, width: int, deviation: float) -> None:
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("pytorch_msssim")
    first, second = noisy(height, width, deviation)
    tensors = [torch.from_numpy(image).double().permute(2, 0, 1)[None] for image in (first, second)]
    expected = float(reference.ms_ssim(*tensors, data_range=255))
    assert ms_ssim(first, second) == pytest.approx(expected, abs=2e-6)
