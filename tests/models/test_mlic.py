"""MLIC++ and UG-ICM's network: stages know what a decoder knows, and the numbers are the authors'."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.mlic_models import KINDS, picture, published_numbers, small_mlic
from ugicm.models.mlic import MLIC, MLICConfig
from ugicm.models.mlic_contexts import EVEN, ODD, half, linear_attention, side_of_window, whole


@pytest.fixture(scope="module", params=KINDS)
def model(request: pytest.FixtureRequest) -> MLIC:
    return small_mlic(request.param).double()


def even_of(x: Tensor) -> Tensor:
    rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])[None, :]
    return ((rows + columns + 1) % 2).to(x)[None, None]


@given(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from([EVEN, ODD]))
@settings(max_examples=20, deadline=None)
def test_a_half_is_the_positions_of_one_parity(n: int, channels: int, h: int, w: int, parity: int) -> None:
    x = torch.rand(n, channels, 2 * h, 2 * w) + 1
    mask = even_of(x) if parity == EVEN else 1 - even_of(x)
    assert torch.equal(whole(half(x, parity), parity), x * mask)
    assert not whole(half(x, parity), parity)[(mask == 0).expand_as(x)].any()


@torch.no_grad()
def test_stages_decode_what_one_pass_coded(model: MLIC) -> None:
    """From `z` and the symbols alone, a stage after the other."""
    coded = model.encode(picture().double())
    assert coded.symbols.abs().sum() > 100 and len(torch.unique(coded.symbols)) > 3
    hyper_odd, hyper_even, hyper_mean = model.hyper_synthesis()(coded.z)
    even = even_of(coded.symbols)
    y_hat, size, index = torch.zeros_like(coded.symbols), model.config.slice, nn.Identity()
    for i in range(model.config.slices):
        at = slice(i * size, (i + 1) * size)
        scale, mean, *kept = model.anchors(i, index)(*([y_hat] if i else []), hyper_odd)
        for parity, mask in ((ODD, 1 - even), (EVEN, even)):
            if parity == EVEN:
                scale, mean = model.others(i, index)(y_hat, even, hyper_even, *kept)
            assert torch.equal(scale * mask, coded.scales[:, at] * mask)
            y_hat[:, at] += (coded.symbols[:, at] + mean) * mask
            if model.config.residual:
                y_hat[:, at] += model.residual(i, parity)(hyper_mean, y_hat) * mask
    assert torch.equal(y_hat, coded.y_hat)


@torch.no_grad()
def test_a_stage_looks_at_nothing_that_is_not_decoded(model: MLIC) -> None:
    c, generator = model.config, torch.Generator().manual_seed(1)
    y_hat = torch.randn(1, c.latent, 8, 4, generator=generator, dtype=torch.float64)
    hyper = torch.randn(1, 2 * c.latent, 8, 2, generator=generator, dtype=torch.float64)
    even, index = even_of(y_hat), nn.Identity()
    for i in range(c.slices):
        unknown = torch.ones_like(y_hat)
        unknown[:, : i * c.slice] = 0
        if i:
            *found, kept = model.anchors(i, index)(y_hat, hyper)
            *again, kept_again = model.anchors(i, index)(y_hat + unknown, hyper)
            assert all(map(torch.equal, [*found, kept], [*again, kept_again]))
        unknown[:, i * c.slice : (i + 1) * c.slice] *= even
        given = (kept,) if i else ()
        found = model.others(i, index)(y_hat, even, hyper, *given)
        assert all(map(torch.equal, found, model.others(i, index)(y_hat + unknown, even, hyper, *given)))
        anchors = torch.zeros_like(y_hat)
        anchors[:, i * c.slice : (i + 1) * c.slice] = 1 - even
        changed = model.others(i, index)(y_hat + anchors * torch.randn_like(y_hat), even, hyper, *given)
        assert not torch.allclose(found[0], changed[0])


@torch.no_grad()
def test_stages_say_nothing_of_positions_that_they_do_not_decode(model: MLIC) -> None:
    coded = model.encode(picture().double())
    hyper_odd, hyper_even, _ = model.hyper_synthesis()(coded.z)
    even, index = even_of(coded.y_hat), nn.Identity()
    scale, mean, kept = model.anchors(1, index)(coded.y_hat, hyper_odd)
    assert not (scale * even).any() and not (mean * even).any()
    scale, mean = model.others(1, index)(coded.y_hat, even, hyper_even, kept)
    assert not (scale * (1 - even)).any() and not (mean * (1 - even)).any()


@torch.no_grad()
def test_a_batch_is_its_pictures_one_by_one(model: MLIC) -> None:
    pictures = torch.cat([picture(), picture().flip(3)]).double()
    together = model.encode(pictures)
    for i in range(2):
        alone = model.encode(pictures[i : i + 1])
        assert torch.allclose(together.y_hat[i], alone.y_hat[0], atol=1e-9)


def test_linear_attention_is_attention_without_a_square() -> None:
    q, k, v = (torch.randn(2, 6, 4, 2, dtype=torch.float64) for _ in range(3))
    found = linear_attention(q, k, v, 3)
    for n in range(2):
        for head in range(2):
            of_head = slice(3 * head, 3 * head + 3)
            query, key, value = (t[n, of_head].reshape(3, 8) for t in (q, k, v))
            expected = value @ (torch.softmax(key, 1).T @ torch.softmax(query, 0))
            assert torch.allclose(found[n, of_head].reshape(3, 8), expected)


@torch.no_grad()
def test_the_local_context_is_attention_in_windows_around_each_position(model: MLIC) -> None:
    """Against windows cut out one at a time, with the mask as an explicit matrix."""
    local, size = model.local_context[0], model.config.slice
    generator = torch.Generator().manual_seed(2)
    even = even_of(torch.zeros(1, 1, 4, 6, dtype=torch.float64))
    anchors = torch.randn(1, size, 4, 6, generator=generator, dtype=torch.float64) * (1 - even)
    found = whole(local(anchors, even), EVEN)
    head = size // 2
    q, k, v = local.qkv_proj(local.norm1(anchors[0].permute(1, 2, 0))).permute(2, 0, 1).split(size)
    padded = [nn.functional.pad(t, (2, 2, 2, 2)) for t in (q, k, v)]
    known = nn.functional.pad(1 - even[0, 0], (2, 2, 2, 2))
    for i, j in ((0, 0), (1, 3), (2, 4), (3, 5)):
        query, key, value = (t[:, i : i + 5, j : j + 5].reshape(head, 2, 25) for t in padded)
        there = known[i : i + 5, j : j + 5].reshape(25)
        answers = []
        for h in range(2):
            scores = query[:, h].T @ key[:, h] / head**0.5
            for a in range(25):
                for b in range(25):
                    apart = (a // 5 - b // 5 + 4) * 9 + a % 5 - b % 5 + 4
                    scores[a, b] += local.relative_position_table[apart, h] - (0 if there[a] and there[b] else 100)
            answers.append((torch.softmax(scores, 1) @ value[:, h].T).T)
        told = (local.fusion.weight * torch.cat(answers).reshape(size, 5, 5)).sum((1, 2, 3)) + local.fusion.bias
        x = local.proj(told)
        assert torch.allclose(found[0, :, i, j], x + local.mlp(local.norm2(x)), atol=1e-10)


def test_a_configuration_is_read_from_shapes() -> None:
    for kind in KINDS:
        for slices in (2, 3):
            model = small_mlic(kind, slices)
            shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
            assert MLICConfig.of(shapes) == model.config
    assert MLICConfig.of(shapes).latent == 96


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("g_a.analysis_transform.6.weight", None, "g_a.analysis_transform.6.weight is missing"),
        ("g_a.analysis_transform.6.weight", (66, 8, 3, 3), "66 latent channels do not make 2 slices"),
        ("local_context.0.relative_position_table", (80, 2), "no window has 80 relative positions"),
        ("local_context.0.relative_position_table", (81, 3), "slices of 32 channels do not make 3 heads"),
        ("h_s.increase.0.weight", (10**9, 8, 3, 3), "a layer is wider than"),
    ],
)
def test_shapes_of_no_such_network_are_refused(name: str, shape: tuple[int, ...] | None, words: str) -> None:
    shapes = {k: tuple(v.shape) for k, v in small_mlic("plain").state_dict().items()}
    shapes.pop(name)
    if shape:
        shapes[name] = shape
    with pytest.raises(ValueError, match=words):
        MLICConfig.of(shapes)


def test_windows_have_odd_sides() -> None:
    assert [side_of_window(n) for n in (1, 25, 81)] == [1, 3, 5]
    for n in (0, 9, 49, 80):
        with pytest.raises(ValueError):
            side_of_window(n)


@torch.no_grad()
def test_the_second_vector_of_a_block_joins_the_sum_and_the_preference_changes_the_picture() -> None:
    model = small_mlic("ugicm")
    vectors = model.condition(torch.tensor([0.0, 1.0]))
    assert vectors.shape == (2, sum(model.g_s.widths)) and len(model.g_s.widths) == 8
    block = model.g_s.synthesis_transform[2]
    x, second = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 1, 1)
    assert torch.allclose(block(x, second * 0, second), block(x) + second, atol=1e-5)
    human, machine = model(picture(), torch.tensor([0.0])), model(picture(), torch.tensor([1.0]))
    assert human.shape == (1, 3, 128, 64) and (human - machine).abs().max() > 0.01


def published_weights(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("weights_of_cases", folder / "weights.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@torch.no_grad()
def test_the_numbers_are_those_of_the_authors_code() -> None:
    folder = published_numbers()
    weights, expected = published_weights(folder), np.load(folder / "expected.npz")
    state = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in weights.weights().items()}
    model = MLIC(MLICConfig.of({k: tuple(v.shape) for k, v in state.items()})).double().eval()
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    found = model.encode(torch.from_numpy(weights.picture()))
    parity = np.add.outer(np.arange(found.y_hat.shape[2]), np.arange(found.y_hat.shape[3])) % 2
    largest = {"z": np.abs(found.z.numpy() - expected["z_symbols"]).max()}
    for i in range(model.config.slices):
        at = slice(i * model.config.slice, (i + 1) * model.config.slice)
        for half_of, there in (("anchor", parity == 1), ("nonanchor", parity == 0)):
            for name, total in (("scale", found.scales), ("mean", found.means), ("symbols", found.symbols)):
                difference = total[:, at].numpy() - expected[f"{name}_{i}_{half_of}"]
                largest[f"{name}_{i}_{half_of}"] = np.abs(difference[..., there]).max()
    largest["y_hat"] = np.abs(found.y_hat.numpy() - expected["y_hat"]).max()
    assert max(largest.values()) <= 1e-9, largest
    for beta in (0.0, 0.3, 1.0):  # pictures are stored in single precision
        x_hat = model.g_s(found.y_hat, model.condition(torch.tensor([beta], dtype=torch.float64))).numpy()
        kept = expected[f"x_hat_beta_{beta}"]
        assert np.abs(x_hat - kept).max() <= 1e-9 + np.spacing(np.abs(kept).max())
    print("largest deviations:", {k: float(v) for k, v in largest.items() if v})
