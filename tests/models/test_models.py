from __future__ import annotations

import math

import pytest
import torch

from tests.small import lively, small
from ugicm.models import fast
from ugicm.models.conditioning import Preference, fourier_features
from ugicm.models.entropy import SCALE_MAX, SCALE_MIN, SCALE_ROWS, LatentModel, bottleneck_probabilities, row_to_scale
from ugicm.models.macs import kmac_per_pixel
from ugicm.models.ugicm import UGICM, UGICMConfig, checkerboard


def test_fast_stays_within_its_budget() -> None:
    counts = kmac_per_pixel(UGICM(UGICMConfig.named("fast")))
    assert counts["encode"] <= 12
    assert counts["decode"] <= 10


def test_fast_uses_only_operators_that_quantise_well() -> None:
    allowed = {"Conv2d", "ReLU", "RevivingReLU", "PixelShuffle", "PixelUnshuffle", "Block", "Sequential", "ModuleList"}
    allowed |= {
        "Conditioned",
        "ConditionedBlock",
        "Analysis",
        "HyperAnalysis",
        "HyperSynthesis",
        "Context",
        "Synthesis",
    }
    model = UGICM(UGICMConfig.named("fast"))
    for part in (model.g_a, model.h_a, model.h_s, model.g_s, model.context):
        assert part is not None
        assert {type(m).__name__ for m in part.modules()} <= allowed


@pytest.mark.parametrize("backbone", ["fast", "bmshj2018"])
def test_a_pass_gives_the_right_shapes_and_finite_gradients(backbone: str) -> None:
    model = small(backbone).train()
    x = torch.rand(2, 3, 64, 128)
    out = model(x, torch.tensor([0, 2]), torch.tensor([0.0, 1.0]))
    assert out.x_hat.shape == x.shape
    assert out.bits.shape == (2,)
    assert out.y_hat.shape == (2, model.config.widths.latent, 4, 8)
    (out.bits.mean() + 100 * (out.x_hat - x).square().mean()).backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached >= {"g_a", "h_a", "h_s", "g_s", "bottleneck", "log_gain", "log_inverse_gain", "preference"}
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_configuration_survives_a_checkpoint() -> None:
    config = UGICMConfig.named("fast", 5, latent=16)
    assert UGICMConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown backbone 'slow'"):
        UGICMConfig.named("slow")


def test_the_human_condition_is_the_unconditioned_network() -> None:
    preference = Preference((4, 6), 8, (0.0, 1.0))
    torch.nn.init.normal_(preference.project.weight)
    vectors = preference(torch.tensor([0.0, 0.4, 1.0]))
    assert vectors.shape == (3, 10)
    assert not vectors[0].any()
    assert vectors[1].any() and vectors[2].any()
    assert [v.shape for v in preference.split(vectors)] == [(3, 4, 1, 1), (3, 6, 1, 1)]
    assert fourier_features(torch.tensor([0.25])).shape == (1, 21)


def test_scale_rows_are_log_spaced() -> None:
    scales = row_to_scale(torch.arange(SCALE_ROWS).double())
    assert math.isclose(scales[0], SCALE_MIN) and math.isclose(scales[-1], SCALE_MAX)
    ratios = scales[1:] / scales[:-1]
    assert torch.allclose(ratios, ratios[0].expand_as(ratios))


def test_latents_are_a_mixture_that_sums_to_one() -> None:
    model = LatentModel().double()
    values = torch.arange(-400, 401).double().expand(5, -1)
    rows = torch.tensor([0.0, 0.7, 2.0, 20.5, 40.0]).double()[:, None].expand_as(values)
    p = model(values, torch.full_like(values, 0.3), rows)
    assert torch.allclose(p.sum(1), torch.ones(5).double(), atol=1e-5)
    (share, narrow), (wide_share, wide) = model.components(rows[:, 0])
    assert torch.allclose(share + wide_share, torch.ones(5).double())
    assert wide_share[0] == 0 and math.isclose(narrow[0].item(), SCALE_MIN), "row 0 is the plain Gaussian"
    assert torch.all(wide[2:] > narrow[2:])


def test_rows_below_the_table_find_back() -> None:
    rows = torch.full((4,), -3.0, requires_grad=True)
    bits = -torch.log2(LatentModel()(torch.full((4,), 2.0), torch.zeros(4), rows)).sum()
    bits.backward()
    assert torch.isfinite(bits)
    surprised = torch.full((4,), 30.0, requires_grad=True)
    (-torch.log2(LatentModel()(torch.full((4,), 40.0), torch.zeros(4), surprised))).sum().backward()
    assert torch.all(surprised.grad < 0), "a wider row makes a large symbol cheaper"


def test_the_prior_of_z_is_a_distribution() -> None:
    model = small("fast")
    p = bottleneck_probabilities(model.bottleneck, 200)
    assert p.shape == (4, 401)
    assert (p >= 0).all()
    assert torch.allclose(p.sum(1), torch.ones(4).double(), atol=1e-3)


def test_context_never_sees_the_others_nor_changes_scales() -> None:
    """Refined means of non-anchors depend on anchors only; scale indexes depend on z alone."""
    model = small("fast").eval()
    y = torch.randn(1, 8, 4, 4) * 3
    means = torch.zeros_like(y)
    anchor = checkerboard(4, 4)
    _, first = model.quantise(y, means)
    _, second = model.quantise(y * anchor + 9 * (1 - anchor), means)
    assert torch.equal(first, second)
    assert torch.equal(anchor * first, anchor * means)


def test_estimated_bits_are_those_of_the_rounded_latents() -> None:
    model = small("fast").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        a = model(x, torch.tensor([1]), torch.tensor([0.0]))
        b = model(x, torch.tensor([1]), torch.tensor([1.0]))
    assert torch.equal(a.bits, b.bits)
    assert torch.equal(a.y_hat, b.y_hat)


def test_a_condition_folds_into_plain_blocks() -> None:
    model = lively("fast").eval()
    features = torch.randn(2, 8, 5, 6)
    views = []
    for beta in (0.0, 0.4, 1.0):
        with torch.no_grad():
            vectors = model.preference.split(model.preference(torch.tensor([beta])))
            views.append(model.g_s.head(features, vectors))
            found = model.g_s.folded_head(vectors)
            assert torch.allclose(found(features), views[-1], atol=1e-4)
        unchanged = torch.equal(found[0].expand.weight, model.g_s.blocks[0].expand.weight)
        assert unchanged == (beta == 0), "the human view is the unconditioned network, to the bit"
    assert (views[0] - views[1]).abs().max() > 0.01 and (views[1] - views[2]).abs().max() > 0.01


def test_a_channel_that_is_zero_all_over_a_batch_still_learns() -> None:
    relu = fast.RevivingReLU()
    x = torch.tensor([[-1.0, -3.0], [2.0, -1.0]]).reshape(1, 2, 2, 1).requires_grad_()
    out = relu.train()(x)
    (-out).sum().backward()
    assert torch.equal(out, torch.relu(x))
    assert x.grad is not None
    assert x.grad[0, 0].unique().tolist() == [pytest.approx(-fast.RevivingReLU.PUSH)]  # upwards, whatever the loss
    assert x.grad[0, 1].flatten().tolist() == [-1.0, 0.0]
    assert torch.equal(relu.eval()(x), torch.relu(x))


@pytest.mark.parametrize("backbone", ["fast", "bmshj2018"])
def test_training_leaves_out_what_a_batch_of_human_views_does_not_use(backbone: str) -> None:
    model = lively(backbone)
    y, quality = torch.randn(2, model.config.widths.latent, 4, 4), torch.zeros(2, dtype=torch.long)
    whole = model.eval().synthesise(y, quality, torch.zeros(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.preference, "split", None)
        torch.testing.assert_close(model.train().synthesise(y, quality, torch.zeros(2)), whole)
