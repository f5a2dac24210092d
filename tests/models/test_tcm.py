"""TCM: attention in windows gives the authors' numbers, and stages know what a decoder knows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tcm_models import NARROW, WIDE, lively_tcm, picture
from ugicm.models.tcm import TCM, TCMConfig
from ugicm.models.tcm_blocks import MixedBlock, Transformer, WindowGate, side_of_windows


@pytest.fixture(scope="module", params=[NARROW, WIDE], ids=["narrow", "wide"])
def model(request: pytest.FixtureRequest) -> TCM:
    return lively_tcm(request.param).double()


@torch.no_grad()
def named(module: nn.Module) -> nn.Module:
    """A module in double precision whose weights follow from their names."""
    for name, parameter in module.double().named_parameters():
        wave = torch.sin(0.7 * torch.arange(parameter.numel(), dtype=torch.float64) + len(name))
        size = 1.0 if "relative" in name else 0.5 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        parameter.copy_(wave.reshape(parameter.shape) * size)
    return module


def wave(channels: int, height: int, width: int) -> Tensor:
    places = torch.arange(channels * height * width, dtype=torch.float64)
    return torch.sin(0.37 * places).reshape(1, channels, height, width)


# What the authors' ConvTransBlock(8, 8, 4, 4, 0, "SW") and SWAtten(6, 6, 4, 4, 0, inter_dim=8) make of `named` weights
# and a `wave`, in double precision (jmliu206/LIC_TCM, commit 6c6d7a3): some of the values.
MIXED = [-0.9061029, -0.16779342, -1.679049372, -1.39229913, -0.428640255, -1.452271186, 1.174037042, -0.336620869]
MIXED += [-0.908572362, 0.903104149, -0.376228957, -1.033713954, 0.643405433, -0.070497946, 1.26679017, 0.710542002]
MIXED += [-0.500386919, 1.126660672, 0.034411384, 1.639496362, 1.491024024, -0.217079038, 1.140714202, 1.906446172]
GATE = [-0.928332228, -0.630801962, -0.616188108, -0.721714639, 0.510056254, 0.271454324, 0.201714566, 0.292541707]


@torch.no_grad()
@pytest.mark.parametrize(
    ("block", "given", "expected"),
    [(MixedBlock(8, 2, 4, True), wave(16, 8, 12), MIXED), (WindowGate(6, 8, 2, 4), wave(6, 12, 8), GATE)],
    ids=["mixed", "gate"],
)
def test_blocks_give_the_authors_numbers(block: nn.Module, given: Tensor, expected: list[float]) -> None:
    found = named(block)(given)[0, ::5, ::7, ::5].flatten()
    assert (found - torch.tensor(expected, dtype=torch.float64)).abs().max() < 1e-8


@torch.no_grad()
@pytest.mark.parametrize("shifted", [False, True])
def test_a_place_sees_its_window_alone(shifted: bool) -> None:
    """Of 3×3 windows of 4: a change is seen within its window, which the border cuts where windows are shifted."""
    block, x = named(Transformer(6, 3, 4, shifted)), wave(6, 12, 12).permute(0, 2, 3, 1)
    seen = {0: (0, 2), 5: (2, 6), 11: (10, 12)} if shifted else {0: (0, 4), 5: (4, 8), 11: (8, 12)}
    for row, rows in seen.items():
        other = x.clone()
        other[0, row, 5, 0] += 1  # of all channels the normalisation would take it away again
        changed = (block(other) != block(x))[0].any(2)
        expected = torch.zeros(12, 12, dtype=torch.bool)
        expected[slice(*rows), slice(*((2, 6) if shifted else (4, 8)))] = True
        assert torch.equal(changed, expected), (row, changed.int())


def test_sides_of_windows() -> None:
    assert [side_of_windows(n) for n in (3, 7, 15)] == [2, 4, 8]
    for bad in (0, 1, 2, 5, 14):
        with pytest.raises(ValueError, match="no window"):
            side_of_windows(bad)


def test_a_configuration_is_told_by_names_and_shapes(model: TCM) -> None:
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert TCMConfig.of(shapes) == model.config
    assert TCMConfig().stride == model.config.stride == 128
    less = {k: v for k, v in shapes.items() if k != "atten_mean.0.0.in_conv.weight"}
    with pytest.raises(ValueError, match=r"atten_mean.0.0.in_conv.weight is missing"):
        TCMConfig.of(less)
    with pytest.raises(ValueError, match="slices of"):
        TCMConfig.of({**shapes, "h_a.0.conv1.weight": (1, 31, 3, 3)})
    with pytest.raises(ValueError, match="wider"):
        TCMConfig.of({**shapes, "h_a.0.conv1.weight": (1, 5000, 3, 3)})


@torch.no_grad()
def test_stages_decode_what_one_pass_coded(model: TCM) -> None:
    """From `z` and the symbols alone; a stage reads no channel that is not decoded, as those hold noise here."""
    coded = model.encode(picture(128, 256).double())
    assert coded.symbols.abs().max() > 3 and len(torch.unique(coded.symbols)) > 10
    hyper, size, index = model.hyper_synthesis()(coded.z), model.config.slice, nn.Identity()
    y_hat = torch.randn_like(coded.symbols)
    for i in range(model.config.slices):
        at = slice(i * size, (i + 1) * size)
        scale, mean, context = model.stage(i, index)(*([y_hat] if i else []), *hyper)
        assert torch.equal(scale, coded.scales[:, at]) and torch.equal(mean, coded.means[:, at])
        y_hat[:, at] = coded.symbols[:, at] + mean
        y_hat[:, at] += model.residual(i)(y_hat, context)
    assert torch.equal(y_hat, coded.y_hat)


@torch.no_grad()
def test_residuals_are_predicted_as_in_one_network(model: TCM) -> None:
    """The first layer of a prediction is cut in two: together they are the whole."""
    i, size = model.config.slices - 1, model.config.slice
    support = model.config.latent + size * min(i, model.config.support)
    read, decoded = wave(support, 8, 8), wave(model.config.latent, 8, 8)
    part = model.stage(i, nn.Identity()).networks.prediction(read)
    whole = model.lrp_transforms[i](torch.cat([read, decoded[:, i * size :]], 1))
    assert (model.residual(i)(decoded, part) - 0.5 * torch.tanh(whole)).abs().max() < 1e-12
