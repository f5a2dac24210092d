"""Encoding with effort for a codec with context."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime import bitstream
from ugicm.runtime.effort import search
from ugicm.runtime.effort.staged import StagedContext
from ugicm.runtime.effort.steps import relax


def searching(codec: Codec, image: np.ndarray) -> tuple[search.Search, np.ndarray, np.ndarray, StagedContext]:
    """A search with the picture's `y`, `z` and context."""
    found = search.Search(codec.networks, codec.answer, image)
    y, z = search.Analysis(codec.networks, image)(1)
    context = found.context(z, 1)
    assert isinstance(context, StagedContext)
    return found, y, z, context


def test_what_would_be_written_is_what_the_encoder_writes(staged: Codec, photograph: np.ndarray) -> None:
    found, y, z, context = searching(staged, photograph[:70, :50])
    written, data = context.written(y), staged.encode(photograph[:70, :50])
    stream = bitstream.parse(data)
    assert bitstream.symbol_checksum(z, written.symbols) == stream.symbol_checksum
    bits, _ = found.cost(written, z, 1)
    assert bits / 8 < len(data) < bits / 8 + 200  # header, shifts and what the coder takes
    known = context.known(y)
    coded = known.coded > 0  # this codec predicts no residual
    assert np.allclose(known.y_hat, np.where(coded, y, known.mean), atol=1e-4) and coded.any()


def test_the_gradient_is_that_of_the_loss_where_no_stage_follows(staged: Codec, photograph: np.ndarray) -> None:
    """The last stage's latents are context of none, so that nothing is taken as given there."""
    _, y, _, context = searching(staged, photograph[:64, :64])
    rng = np.random.default_rng(0)
    wanted = rng.normal(0, 1, y.shape).astype(np.float32)

    def distort(y_hat: np.ndarray) -> tuple[np.ndarray, float]:
        return 2 * (y_hat - wanted), float(np.square(y_hat - wanted).sum(dtype=np.float64))

    y += rng.uniform(-0.2, 0.2, y.shape).astype(np.float32)
    of = partial(context.gradient, soften=partial(relax, temperature=0.08), distort=distort, haste=1.0)
    gradient, _ = of(y)
    direction = np.zeros_like(y)
    odd = np.add.outer(np.arange(y.shape[2]), np.arange(y.shape[3])) % 2 == 1
    direction[..., odd] = rng.normal(0, 1, direction[..., odd].shape)
    step = np.float32(1e-3)
    slope = (of(y + step * direction)[1] - of(y - step * direction)[1]) / (2e-3)
    assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02)


def test_effort_costs_less_at_its_price(staged: Codec, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    prices: list[float] = []
    searched = search.Search.searched

    def noted(*arguments: object) -> np.ndarray:
        prices.append(arguments[-1])
        return searched(*arguments)

    monkeypatch.setattr(search.Search, "searched", noted)
    files = [staged.encode(photograph, effort=effort) for effort in (0, 1, 2)]
    assert prices[0] == prices[1] > 0
    squares = [float(np.square(staged.decode(data).astype(float) - photograph).sum()) for data in files]
    costs = [8 * len(data) + prices[0] * square for data, square in zip(files, squares, strict=True)]
    assert costs[1] < 0.995 * costs[0] and costs[2] < 0.995 * costs[0]


def test_ugicms_own_network_is_searched_for_both_views(photograph: np.ndarray) -> None:
    """Residuals are predicted there after each half slice, and `g_s` has conditions."""
    codec = Codec.from_bundle(Path(__file__).parents[2] / "golden" / "v2-ugicm" / "bundle", threads=1)
    image = photograph[:128, :128]
    ways = (0, "psnr"), (2, "psnr"), (2, "machine")
    files = [codec.encode(image, effort=effort, tune=tune) for effort, tune in ways]
    views = [codec.decode_views(data, ["human", "machine"]) for data in files]
    human, machine = ([float(np.square(v[i].astype(float) - image).sum()) for v in views] for i in (0, 1))
    assert human[1] < 0.8 * human[0] and machine[2] < 0.8 * machine[0]
