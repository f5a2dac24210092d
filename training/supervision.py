"""Semantic supervision without labels: frozen encoders that compare a decoded picture with its original."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ugicm.training.config import ConfigError, Supervision
from ugicm.training.encoders import Encoder


def open_encoder(settings: Supervision) -> Encoder | None:
    """The encoder that a configuration names, frozen, in evaluation mode; None for kind "none".

    Raises:
        ConfigError: its file is missing or is not such an encoder.
    """
    if settings.kind == "none" or settings.weights is None:
        return None
    if not settings.weights.is_file():
        raise ConfigError(f"{settings.weights}: no such file; supervision.weights takes the weights of an encoder")
    if settings.kind == "clip":
        from ugicm.training.clip import ClipEncoder

        encoder: Encoder = ClipEncoder(settings.weights, settings.model, settings.depths)
    else:
        from ugicm.training.mobilenet import ImagenetEncoder

        encoder = ImagenetEncoder(settings.weights, settings.depths)
    return encoder.requires_grad_(False).eval()


class SemanticDistance(nn.Module):
    """How differently a frozen encoder sees two pictures.

    Args:
        encoder: the encoder.
        settings: sizes and weights.

    Raises:
        ConfigError: not one weight a depth.
    """

    def __init__(self, encoder: Encoder, settings: Supervision) -> None:
        super().__init__()
        self.encoder = encoder
        self.settings = settings
        if settings.depth_weights and len(settings.depth_weights) != settings.depths:
            raise ConfigError(f"supervision.depth_weights: {settings.depths} numbers are needed, one a depth")
        self.depth_weights = settings.depth_weights or [1.0] * settings.depths

    def forward(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """(N,) distances of (N, 3, H, W) pictures from their originals; 0 for equal ones.

        The weighted mean over depths of the squared distance of unit feature vectors, averaged over positions
        (Zhang et al. 2018, without its learned weights), plus 1 - cosine of the embeddings (UG-ICM's term), plus the
        Kullback-Leibler divergence of the class probabilities where the encoder has classes and a weight is given.
        """
        s = self.settings
        if s.size:
            x_hat, x = (F.interpolate(v, (s.size, s.size), mode="bilinear", antialias=True) for v in (x_hat, x))
        x_hat, x = (v.contiguous(memory_format=torch.channels_last) for v in (x_hat, x))  # half the time on a CPU
        with torch.no_grad():
            original = self.encoder(x)
        found = self.encoder(x_hat)
        total = torch.zeros(len(x), device=x.device)
        for weight, a, b in zip(self.depth_weights, found.maps, original.maps, strict=True):
            total = total + weight / sum(self.depth_weights) * map_distance(a.to(x.dtype), b.to(x.dtype))
        if s.embedding_weight:
            cosine = F.cosine_similarity(found.embedding.to(x.dtype), original.embedding.to(x.dtype))
            total = total + s.embedding_weight * (1 - cosine)
        if s.logits_weight and found.logits is not None and original.logits is not None:
            a, b = (F.log_softmax(v.to(x.dtype), 1) for v in (found.logits, original.logits))
            total = total + s.logits_weight * F.kl_div(a, b, reduction="none", log_target=True).sum(1)
        return total


def map_distance(a: Tensor, b: Tensor) -> Tensor:
    """(N,) mean over positions of the squared distance of unit feature vectors, both (N, C, h, w); 0 to 4."""
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean((1, 2))
