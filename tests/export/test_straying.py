"""Distances of indexes: those that were met, and those that follow from errors of scales elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ugicm.calibration.exact.ranges import default_scales
from ugicm.export.staged_source import ScaleIndex
from ugicm.export.straying import Strays

TABLES = {"standard": default_scales(), "uneven": np.array([0.11, 0.2, 0.9, 1.0, 40.0])}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_an_error_at_a_large_scale_tells_of_the_smallest(table: np.ndarray) -> None:
    """The first channel errs at scale 30 and has 0.15 elsewhere; the second errs as much and never comes down."""
    index_of, error = ScaleIndex(table), 1e-5
    right = np.full((1, 2, 1, 3), 30.0)
    right[0, 0, 0, 1] = 0.15
    wrong = right.copy()
    wrong[0, :, 0, 0] += error
    expected, found = (index_of(torch.from_numpy(s)).numpy() for s in (right, wrong))
    strays = Strays(table, 2)
    strays.add(expected, found)
    largest, possible, _, *scale_error = strays.straying()
    assert scale_error == pytest.approx([30, error], rel=1e-3)
    assert largest == np.abs(found - expected).max() < 1e-5
    there = index_of(torch.tensor([0.15, 0.15 + error], dtype=torch.float64)).diff().item()
    assert possible == pytest.approx(there, rel=1e-2) and possible > 10 * largest
    strays = Strays(table, 1)
    strays.add(expected[:, 1:], found[:, 1:])
    assert strays.straying().possible == pytest.approx(strays.straying().largest, rel=1e-2)


def test_scales_below_the_table_count_as_its_foot() -> None:
    table = default_scales()
    strays, index_of = Strays(table, 1), ScaleIndex(table)
    expected = index_of(torch.tensor([-3.0, 1e-9, 5.0, 1e5], dtype=torch.float64)).numpy().reshape(1, 1, 2, 2)
    found = expected.copy()
    found[0, 0, 1, 0] = index_of(torch.tensor([5.001], dtype=torch.float64)).item()
    strays.add(expected, found)
    step = np.log(table[1] / table[0])
    assert strays.straying().possible == pytest.approx(0.001 / (index_of.least * step), rel=1e-2)


def test_it_says_where_the_largest_distance_was_met() -> None:
    strays, index_of = Strays(default_scales(), 3), ScaleIndex(default_scales())
    right = torch.full((1, 3, 2, 2), 5.0, dtype=torch.float64)
    right[0, 1, 1, 0] = 0.15
    wrong = right.clone()
    wrong[0, 1, 1, 0] += 1e-4  # more rows than the next error, at a larger scale
    wrong[0, 2, 0, 1] += 1e-3
    for error in (wrong, right):
        strays.add(index_of(right).numpy(), index_of(error).numpy())
    assert strays.straying().where == "single precision gets a scale of 0.15 in latent channel 1 wrong by 0.0001"
