"""Every rewrite gives what it replaced."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ugicm.export.lowering import LONGEST_SUM, ShortSums, fold_gdn, lower, short_sums_inside, shuffled, strided
from ugicm.models.entropy import gdn


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-9, rtol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 4, 8]), st.sampled_from([1, 3]), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_unshuffle_and_convolution_become_one_strided_convolution(
    factor: int, kernel: int, channels: int, out: int, bias: bool
) -> None:
    conv = nn.Conv2d(channels * factor**2, out, kernel, padding=kernel // 2, bias=bias).double()
    x = torch.randn(2, channels, 3 * factor, 2 * factor, dtype=torch.float64)
    assert close(strided(factor, conv).double()(x), conv(nn.functional.pixel_unshuffle(x, factor)))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_transposed_convolution_becomes_convolution_and_shuffle(
    channels: int, out: int, height: int, width: int, bias: bool
) -> None:
    deconv = nn.ConvTranspose2d(channels, out, 5, 2, padding=2, output_padding=1, bias=bias).double()
    x = torch.randn(1, channels, height, width, dtype=torch.float64)
    assert close(shuffled(deconv).double()(x), deconv(x))


def test_other_transposed_convolutions_are_refused() -> None:
    with pytest.raises(ValueError, match="another kind"):
        shuffled(nn.ConvTranspose2d(2, 2, 4, 2, padding=1))


@pytest.mark.parametrize("inverse", [False, True])
def test_gdn_is_folded(inverse: bool) -> None:
    torch.manual_seed(0)
    norm = gdn(6, inverse)
    norm.beta.data.uniform_(0.5, 2)
    norm.gamma.data.uniform_(0, 1)
    x = torch.randn(1, 6, 5, 4)
    assert torch.allclose(fold_gdn(norm)(x), norm(x), atol=1e-5)


def test_a_nested_chain_is_lowered_inside() -> None:
    chain = nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(8, 3, 3, padding=1),
        nn.Sequential(nn.ReLU(), nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 1)),
    ).double()
    lowered = lower(chain).double()
    x = torch.randn(1, 2, 8, 12, dtype=torch.float64)
    assert close(lowered(x), chain(x))
    assert not any(isinstance(m, nn.PixelUnshuffle) for m in lowered.modules())


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([1, 3, 5]), st.integers(1, 3), st.sampled_from([1, 2]), st.booleans())
def test_a_long_sum_becomes_short_ones(kernel: int, times: int, stride: int, bias: bool) -> None:
    channels = times * (LONGEST_SUM // kernel**2) + 3
    conv = nn.Conv2d(channels, 4, kernel, stride, kernel // 2, bias=bias).double()
    found = short_sums_inside(nn.Sequential(nn.Sequential(conv)))[0][0].double()
    assert isinstance(found, ShortSums) and len(found.parts) >= 2 * times
    assert all(part.weight[0].numel() <= LONGEST_SUM // 2 for part in found.parts)
    x = torch.randn(2, channels, 5, 6, dtype=torch.float64)
    assert close(found(x), conv(x))


def test_short_sums_and_convolutions_of_another_kind_stay() -> None:
    kept = [nn.Conv2d(LONGEST_SUM // 9, 2, 3), nn.Conv2d(2048, 2048, 3, groups=2048), nn.Conv2d(2048, 2, 1, dilation=2)]
    assert list(short_sums_inside(nn.Sequential(*kept))) == kept
