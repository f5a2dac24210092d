from __future__ import annotations

import math

import pytest
import torch

from ugicm.training.balance import GradientNorm, Uncertainty, make_balance
from ugicm.training.config import Balance

WEIGHTS = {"rate": 1.0, "distortion": 1.0, "global": 2.0, "instance": 0.5}


def quadratic(x: torch.Tensor, scales: dict[str, float]) -> dict[str, torch.Tensor]:
    return {name: scale * (x - i).square().sum() for i, (name, scale) in enumerate(scales.items())}


@pytest.mark.parametrize("method", ["fixed", "uncertainty", "gradient-norm"])
def test_the_first_gradient_is_that_of_the_weighted_sum(method: str) -> None:
    """And one term alone is simply minimised, whichever method."""
    base = torch.tensor([1.0, -2.0], requires_grad=True)
    x_hat = base * 3
    balance = make_balance(Balance(method=method), WEIGHTS)
    terms = quadratic(x_hat, {"rate": 1.0, "distortion": 2.0})
    used = balance.backward(terms, x_hat)
    assert used == {"rate": 1.0, "distortion": 1.0}
    expected = torch.tensor([1.0, -2.0], requires_grad=True)
    sum(quadratic(expected * 3, {"rate": 1.0, "distortion": 2.0}).values()).backward()
    # The rate of a real codec does not depend on x_hat; here it does, and reaches the same leaf.
    assert torch.allclose(base.grad, expected.grad)


def test_uncertainty_settles_where_every_weighted_term_is_one() -> None:
    balance = Uncertainty({"distortion": 1.0, "global": 1.0, "instance": 1.0, "rate": 1.0})
    optimiser = torch.optim.Adam(balance.parameters(), lr=0.05)
    values = {"rate": 0.5, "distortion": 1.5, "global": 0.2, "instance": 8.0}
    for _ in range(600):
        optimiser.zero_grad()
        used = balance.backward({n: torch.tensor(v, requires_grad=True) for n, v in values.items()}, torch.zeros(1))
        optimiser.step()
    assert used["rate"] == used["distortion"] == pytest.approx(1 / 2.0, rel=0.05)
    assert used["global"] == pytest.approx(5.0, rel=0.05) and used["instance"] == pytest.approx(1 / 8, rel=0.05)


def test_uncertainty_is_bounded_and_leaves_an_absent_group_alone() -> None:
    balance = Uncertainty(WEIGHTS)
    optimiser = torch.optim.Adam(balance.parameters(), lr=0.5)
    for _ in range(40):
        optimiser.zero_grad()
        used = balance.backward({"global": torch.tensor(0.0, requires_grad=True)}, torch.zeros(1))
        optimiser.step()
    assert used["global"] == pytest.approx(2 * math.exp(3), rel=1e-4)
    assert balance.log_variance["instance"] == 0 and balance.log_variance["pixels"] == 0


def test_gradient_norms_become_the_fixed_weights_times_the_distortions() -> None:
    balance = GradientNorm(WEIGHTS)
    base = torch.randn(6, requires_grad=True)
    for _ in range(3):
        base.grad = None
        x_hat = base * 2
        terms = {"global": 40 * x_hat.square().sum(), "distortion": (x_hat - 1).square().sum()}
        used = balance.backward(terms, x_hat)
    point = (base * 2).detach()
    ratio = used["global"] * (80 * point).norm() / (2 * (point - 1)).norm()
    assert ratio.item() == pytest.approx(WEIGHTS["global"], rel=1e-4)
    expected = 2 * (used["global"] * 80 * point + 2 * (point - 1))
    assert torch.allclose(base.grad, expected, rtol=1e-4)


def test_a_batch_without_the_reference_or_with_a_flat_term_keeps_finite_weights() -> None:
    balance = GradientNorm(WEIGHTS)
    x_hat = torch.randn(4, requires_grad=True) * 1
    assert balance.backward({"global": x_hat.square().sum()}, x_hat) == {"global": 2.0}
    x_hat = torch.randn(4, requires_grad=True) * 1
    used = balance.backward({"distortion": x_hat.square().sum(), "instance": (0 * x_hat).sum()}, x_hat)
    assert used == {"distortion": 1.0, "instance": 0.5}


def test_norms_survive_a_state_dict() -> None:
    balance, again = GradientNorm(WEIGHTS), GradientNorm(WEIGHTS)
    x_hat = torch.randn(4, requires_grad=True) * 1
    balance.backward({"distortion": x_hat.square().sum()}, x_hat)
    again.load_state_dict(balance.state_dict())
    assert again.norm_distortion == balance.norm_distortion > 0
