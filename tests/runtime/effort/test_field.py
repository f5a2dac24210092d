"""Mean-field annealing of latents: means of symbols, curvature of the distortion, and what they save."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.effort import search
from ugicm.runtime.effort.distortion import Distortion, distortion_graph
from ugicm.runtime.effort.field import expected
from ugicm.runtime.effort.rate import Rate
from ugicm.runtime.effort.sessions import derived
from ugicm.runtime.graphs.tiles import Span, Tile, tiles


def test_a_cold_symbol_is_the_cheapest_and_a_hot_one_the_middle_of_all(codec: Codec) -> None:
    tables = codec.bundle.y_tables
    rows = np.full(400, int(np.argmax(tables.lengths)))
    bits = Rate(tables).of(rows)
    wanted = np.linspace(-3, 3, 400).astype(np.float32)
    curvature = np.float32(3)

    def cost(symbols: np.ndarray) -> np.ndarray:
        return bits(symbols.astype(np.float32))[0] + curvature / 2 * np.square(symbols - wanted)

    near = [np.rint(wanted) + aside for aside in (-1, 0, 1)]
    best = np.array(near)[np.argmin([cost(symbols) for symbols in near], 0), np.arange(400)]
    cold = expected(wanted, curvature, bits, 1e-3)
    assert np.mean(np.abs(cold - best) < 1e-3) > 0.98  # not where two cost the same
    assert np.abs(expected(wanted, curvature, bits, 1e5) - np.rint(wanted)).max() < 1e-3


def test_the_curvature_is_that_of_the_distortion(codec: Codec, photograph: np.ndarray) -> None:
    """Second differences along a channel's latents, so few at once that they hardly meet."""
    image = photograph[:128, :192]
    found = search.Search(codec.networks, codec.answer, image)
    y, _ = search.Analysis(codec.networks, image)(5)
    graph = derived(codec.networks, "distortion", partial(distortion_graph, codec.bundle, found.views[0][1]))
    parts = [Tile(Span(0, 8, 0, 8), Span(0, 12, 0, 12))], tiles(8, 12, 2, 40)
    target, weight = found.padded.astype(np.float32), found.inside * np.float32(0.01)
    whole, pieces = (
        Distortion(target, weight, codec.bundle.inverse_gain[4:5], [(1.0, graph)], windows) for windows in parts
    )
    gradient, loss = whole(y)
    curvature = whole.curvature(y, gradient)
    assert curvature.shape == (1, y.shape[1], 1, 1) and (curvature > 0).all()
    assert pieces.curvature(y, pieces(y)[0]) == pytest.approx(curvature, rel=1e-3)
    signs = np.random.default_rng(3).choice(np.float32([-0.3, 0.3]), y.shape)
    for channel in np.argsort(curvature.ravel())[[-20, -90]]:
        second = 0.0
        for row, column in np.ndindex(4, 4):
            step = np.zeros_like(y)
            part = (0, channel, slice(row, None, 4), slice(column, None, 4))
            step[part] = signs[part]
            second += (whole(y + step)[1] + whole(y - step)[1] - 2 * loss) / 0.09
        assert second / signs[0, channel].size == pytest.approx(curvature[0, channel, 0, 0], rel=0.2)


@pytest.mark.parametrize("quality", [2, 7])
def test_settling_saves_more_than_the_steps_after_it_alone(codec: Codec, photograph: np.ndarray, quality: int) -> None:
    found = search.Search(codec.networks, codec.answer, photograph)
    y, z = search.Analysis(codec.networks, photograph)(quality)
    context = found.context(z, quality)
    plain = context.written(y)
    bits, distance = found.cost(plain, z, quality)
    price = 0.1 * bits / distance
    schedule = search.SCHEDULES[2]
    assert schedule.settling
    alone = replace(schedule, settling=0)
    costs = [bits + price * distance]
    for each in (alone, schedule):
        other = found.searched(y, plain.rows, context, quality, each, price)
        more = found.cost(context.written(other), z, quality)
        costs.append(more[0] + price * more[1])
    assert costs[2] < costs[1] < costs[0]
