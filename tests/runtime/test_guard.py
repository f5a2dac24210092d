"""Whatever the indexes and whatever noise within the band, the decoder's rows are the encoder's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm.runtime.additions import MIN_BLOCK, Guard
from ugicm.runtime.errors import BackendError, CorruptFileError
from ugicm.runtime.guard import SHIFTS, CrowdedError, Rounding, halved

ORDER = [(j + 1) // 2 if j % 2 else -(j // 2) for j in range(SHIFTS)]


def same_meaning(a, b, skipped):
    """Rows that are equal, or both skipped."""
    return (a == b) | (skipped[a] & skipped[b])


@st.composite
def staged_indexes(draw, blocks=(32, 63)):
    """(indexes, skipped, guard): anywhere, and often within a few bands of an edge, some exactly at its ends."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from([1, 2, 5, 64, 256, 300]))
    skipped = rng.random(rows) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    guard = Guard(draw(st.integers(8, 20)), draw(st.integers(*blocks)))
    size = draw(st.integers(0, 300))
    eps = 2.0**-guard.band_bits
    edges = rng.integers(-1, rows + 1, size) + 0.5
    near = edges + rng.choice([rng.uniform(-70, 70, size), rng.integers(-70, 71, size).astype(float)]) * eps
    s = np.where(rng.random(size) < draw(st.sampled_from([0.0, 0.02, 0.3, 1.0])), near, rng.uniform(-3, rows + 3, size))
    s[rng.random(size) < 0.02] = draw(st.sampled_from([0.5, -0.0, 1e30, -1e30, 1e-40]))
    return s.astype(draw(st.sampled_from([np.float32, np.float64]))), skipped, guard


@settings(deadline=None, max_examples=400)
@given(staged_indexes(), st.integers(0, 2**32))
def test_noise_within_the_band_changes_no_row(case, seed):
    s, skipped, guard = case
    rounding = Rounding(guard, skipped)
    shifts = rounding.shifts(s)
    assert shifts.size == -(-s.size // guard.block)
    rows = rounding.rows(s, shifts)
    assert rows.dtype == (np.uint8 if skipped.size <= 256 else np.uint16)
    eps, exact = 2.0**-guard.band_bits, s.astype(np.float64)
    rng = np.random.default_rng(seed)
    for noise in (eps, -eps, rng.uniform(-eps, eps, s.size), rng.choice([-eps, eps], s.size)):
        other = exact + noise
        # Adding rounds; a decoder within the band is never beyond it.
        other = np.where(other - exact > eps, np.nextafter(other, -np.inf), other)
        other = np.where(exact - other > eps, np.nextafter(other, np.inf), other)
        assert np.all(same_meaning(rounding.rows(other, shifts), rows, skipped))


@settings(deadline=None, max_examples=100)
@given(staged_indexes())
def test_shifts_are_the_first_that_fit_and_rows_are_those_of_plain_rounding(case):
    """By exhaustion: rows of the moved indexes at both ends of the band, in float64."""
    s, skipped, guard = case
    rounding = Rounding(guard, skipped)
    shifts, eps = rounding.shifts(s), 2.0**-guard.band_bits
    v = np.floor(np.clip(s.astype(np.float64), -1, skipped.size) / eps)
    top = skipped.size - 1
    rows = rounding.rows(s, shifts)
    for i, chosen in enumerate(shifts):
        part = slice(i * guard.block, (i + 1) * guard.block)

        def fits(k, v=v[part]):
            low, high = (np.floor((v + d + 2 * k) * eps + 0.5).clip(0, top).astype(int) for d in (-1, 1))
            return bool(np.all(same_meaning(low, high, skipped)))

        assert [fits(k) for k in ORDER[: int(chosen) + 1]] == [False] * int(chosen) + [True]
        moved = np.floor(s[part].astype(np.float64) + 2 * ORDER[chosen] * eps + 0.5).clip(0, top)
        assert np.all(same_meaning(rows[part], moved.astype(int), skipped))


@settings(deadline=None, max_examples=200)
@given(staged_indexes(), st.data())
def test_a_shift_that_no_encoder_chooses_is_refused(case, data):
    """Later than one that was free beyond doubt, by a decoder whose indexes are the encoder's."""
    s, skipped, guard = case
    rounding = Rounding(guard, skipped)
    shifts = rounding.shifts(s)
    if not s.size:
        return
    block = data.draw(st.integers(0, shifts.size - 1))
    part = s[block * guard.block : (block + 1) * guard.block].astype(np.float64)
    edges = np.arange(skipped.size - 1)[~(skipped[:-1] & skipped[1:])] + 0.5
    eps = 2.0**-guard.band_bits
    moved = part + 2 * eps * ORDER[shifts[block]]
    clear = bool(np.all(np.abs(moved[:, None] - edges) > 2 * eps))
    forged = shifts.copy()
    forged[block] = data.draw(st.integers(int(shifts[block]), SHIFTS - 1))
    if clear and forged[block] > shifts[block]:
        with pytest.raises(CorruptFileError, match=r"^a\.ugic is damaged: a shift"):
            rounding.rows(s, forged, "a.ugic")


def test_an_edge_between_skipped_rows_does_not_matter():
    s = np.full(40, 1.5, np.float32)
    for skipped, first in (([1, 1, 1, 0], 0), ([0, 1, 1, 0], 0), ([0, 1, 0, 0], 1), ([1, 0, 1, 0], 1)):
        assert Rounding(Guard(12, 40), np.array(skipped, bool)).shifts(s).tolist() == [first], skipped


@pytest.mark.parametrize(("rows", "index", "first"), [(2, 1.5, 0), (2, -0.5, 0), (2, 0.5, 1), (3, 1.5, 1), (1, 0.5, 0)])
def test_edges_beyond_the_table_do_not_matter(rows, index, first):
    rounding = Rounding(Guard(12, 32), np.zeros(rows, bool))
    assert rounding.shifts(np.array([index])).tolist() == [first]


def test_the_band_is_closed_below_and_open_above():
    """An index at edge - eps may reach the edge, which belongs to the upper row; one at edge + eps cannot leave it."""
    rounding, eps = Rounding(Guard(12, 32), np.zeros(4, bool)), 2.0**-12
    below = np.nextafter(1.5 - eps, 0)
    assert [rounding.shifts(np.array([s]))[0] for s in (below, 1.5 - eps, 1.5, 1.5 + eps)] == [0, 1, 1, 0]
    assert rounding.rows(np.array([1.5]), np.array([1], np.uint8)).tolist() == [2]


def test_blocks_are_of_positions_and_the_last_is_shorter():
    s = np.zeros((2, 5, 7))
    s[1, 4, 6] = 0.5
    shifts = Rounding(Guard(12, 32), np.zeros(2, bool)).shifts(s)
    assert shifts.tolist() == [0, 0, 1]


def test_a_crowded_block_asks_for_smaller_ones():
    rounding = Rounding(Guard(12, 64), np.zeros(2, bool))
    s = 0.5 + np.arange(-32, 32) * 2.0**-11
    with pytest.raises(CrowdedError):
        rounding.shifts(s)
    assert Rounding(halved(Guard(12, 64)), np.zeros(2, bool)).shifts(s).tolist() == [0, 1]
    assert halved(Guard(9, MIN_BLOCK)).block == MIN_BLOCK < SHIFTS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_indexes_that_are_no_numbers(value):
    rounding, s = Rounding(Guard(12, 32), np.zeros(2, bool)), np.array([0.0, value], np.float32)
    with pytest.raises(BackendError, match="no numbers"):
        rounding.shifts(s)
    with pytest.raises(BackendError, match=r"a\.ugic: a stage"):
        rounding.rows(s, np.zeros(1, np.uint8), "a.ugic")
