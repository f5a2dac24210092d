"""Torch modules of a hyper-synthesis as the plain layers that calibration reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torch import nn

from ugicm.calibration.exact.integer import FloatLayer
from ugicm.export.lowering import lower


def float_layers(modules: Iterable[nn.Module]) -> list[FloatLayer]:
    """A chain of convolutions, activations and pixel shuffles, lowered, as `FloatLayer`s.

    Raises:
        ValueError: a module that has no exact integer form here; the message names it.
    """
    chain = _flatten(lower(modules))
    layers: list[FloatLayer] = []
    while chain:
        conv = chain.pop(0)
        if not isinstance(conv, nn.Conv2d) or conv.stride != (1, 1) or conv.groups != 1 or conv.bias is None:
            raise ValueError(f"the hyper-synthesis has a layer without an exact integer form: {conv}")
        activation: Literal["none", "relu", "leaky_relu"] = "none"
        slope, upsample = 0.0, 1
        # An elementwise activation and a pixel shuffle commute, so either order gives the same layer.
        while chain and isinstance(chain[0], nn.ReLU | nn.LeakyReLU | nn.PixelShuffle):
            module = chain.pop(0)
            if isinstance(module, nn.PixelShuffle):
                upsample = module.upscale_factor
            elif isinstance(module, nn.LeakyReLU):
                activation, slope = "leaky_relu", module.negative_slope
            else:
                activation = "relu"
        layers.append(
            FloatLayer(
                weight=conv.weight.detach().numpy().copy(),
                bias=conv.bias.detach().numpy().copy(),
                activation=activation,
                slope=slope,
                upsample=upsample,
            )
        )
    return layers


def _flatten(module: nn.Module) -> list[nn.Module]:
    if isinstance(module, nn.Sequential):
        return [leaf for child in module for leaf in _flatten(child)]
    return [module]
