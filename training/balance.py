"""Weights of an objective's terms against each other: fixed, or adjusting themselves while training.

Rate and distortion always share one weight: their balance is what lambda, and so a quality, means. Left to an
uncertainty weight each, they would minimise log(rate) + log(distortion), which has no minimum between nothing and
everything: rate falls about linearly as the logarithm of the distortion grows, so the stationary point is a maximum.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ugicm.training.config import Balance

GROUPS = {"rate": "pixels", "distortion": "pixels", "global": "global", "instance": "instance"}
BOUND = 3.0
SMOOTHING = 0.9
LARGEST_FACTOR = 100.0


class Fixed(nn.Module):
    """The weights as they are given (the paper's choice).

    Args:
        weights: term → weight.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights

    def backward(self, terms: dict[str, Tensor], x_hat: Tensor) -> dict[str, float]:
        """Back-propagates the weighted sum of the terms; the weights that were used."""
        torch.stack([self.weights[name] * term for name, term in terms.items()]).sum().backward()
        return {name: self.weights[name] for name in terms}


class Uncertainty(Fixed):
    """A learned log-variance s for each group of terms: exp(-s) * term + s (Kendall, Gal and Cipolla, CVPR 2018).

    The s stay within ±3 and start at 0, that is at the fixed weights. A group without a term in a batch keeps its s.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__(weights)
        self.log_variance = nn.ParameterDict(
            {group: nn.Parameter(torch.zeros(())) for group in dict.fromkeys(GROUPS.values())}
        )

    def backward(self, terms: dict[str, Tensor], x_hat: Tensor) -> dict[str, float]:
        with torch.no_grad():
            for s in self.log_variance.values():
                s.clamp_(-BOUND, BOUND)
        used = {name: self.weights[name] * torch.exp(-self.log_variance[GROUPS[name]]) for name in terms}
        groups = dict.fromkeys(GROUPS[name] for name in terms)
        loss = torch.stack([used[name] * term for name, term in terms.items()]).sum()
        (loss + torch.stack([self.log_variance[group] for group in groups]).sum()).backward()
        return {name: float(weight.detach()) for name, weight in used.items()}


class GradientNorm(Fixed):
    """Semantic terms weighted so that their gradients at the reconstruction are as long as the distortion's.

    The factor of a term is |d distortion / d x_hat| / |d term / d x_hat| (Esser, Rombach and Ommer, CVPR 2021, there at
    the last layer; with equal target rates this is what GradNorm, Chen et al. 2018, tends to), both norms averaged
    exponentially, times its fixed weight, which so becomes the ratio of the gradients. The rate keeps weight 1.
    """

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__(weights)
        for name in ("distortion", "global", "instance"):
            self.register_buffer(f"norm_{name}", torch.zeros(()))

    def backward(self, terms: dict[str, Tensor], x_hat: Tensor) -> dict[str, float]:
        used, gradient = {}, torch.zeros_like(x_hat)
        for name in sorted(terms, key=list(GROUPS).index):
            if name == "rate":
                used[name] = self.weights[name]
                continue
            # Each term's own graph is freed by its only pass; what lies before x_hat is walked once, below.
            (found,) = torch.autograd.grad(terms[name], x_hat)
            norm = self._smooth(name, found.float().norm())
            reference = self.get_buffer("norm_distortion")
            factor = 1.0
            if name != "distortion" and reference > 0 and norm > 0:
                factor = float((reference / norm).clamp(max=LARGEST_FACTOR))
            used[name] = self.weights[name] * factor
            gradient = gradient + used[name] * found
        tensors, gradients = [x_hat], [gradient]
        if "rate" in terms:
            tensors, gradients = [*tensors, terms["rate"]], [*gradients, torch.tensor(used["rate"]).to(terms["rate"])]
        torch.autograd.backward(tensors, gradients)
        return used

    def _smooth(self, name: str, norm: Tensor) -> Tensor:
        kept = self.get_buffer(f"norm_{name}")
        kept.copy_(norm if kept == 0 else SMOOTHING * kept + (1 - SMOOTHING) * norm)
        return kept


def make_balance(settings: Balance, weights: dict[str, float]) -> Fixed:
    """The weighting that a configuration names."""
    return {"fixed": Fixed, "uncertainty": Uncertainty, "gradient-norm": GradientNorm}[settings.method](weights)
