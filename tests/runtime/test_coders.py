"""Both coders write the same bytes and leave the same state; the one that runs is chosen in words, and named."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.coders import chosen
from tests.runtime.test_range_coder import random_frequencies
from ugicm.runtime import coders
from ugicm.runtime.commands.coder import coder_name
from ugicm.runtime.errors import BackendError

pytest.importorskip("numba")
BOTH = [importlib.import_module(f"ugicm.runtime.coders.by_{name}") for name in coders.NAMES]


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 400), max_size=6), st.data())
def test_same_words_and_entries_row_after_row(seed: int, counts: list[int], data: st.DataObject) -> None:
    rng = np.random.default_rng(seed)
    jobs = []
    for count in counts:
        row = random_frequencies(rng, int(rng.choice([2, 3, 19, 300])), rng.choice([0.01, 1.0, 50.0])).astype(np.uint32)
        likely = np.searchsorted(np.cumsum(row), rng.integers(0, 1 << 24, count), side="right")
        entries = np.where(rng.random(count) < 0.5, likely, rng.integers(0, row.size, count)).astype(np.int32)
        jobs.append((row, entries))
    words = []
    for module in BOTH:
        encoder = module.RangeEncoder()
        for row, entries in jobs:
            encoder.encode(entries, module.encoder_model(row))
        words.append(encoder.get_compressed())
    assert words[0].dtype == words[1].dtype and words[0].tolist() == words[1].tolist()
    read, at = words[0].copy(), data.draw(st.integers(-1, max(words[0].size - 1, -1)))
    if at >= 0:
        read[at] ^= data.draw(st.integers(1, 2**32 - 1))
    assert outcome(BOTH[0], read, jobs) == outcome(BOTH[1], read, jobs)
    read = read[: data.draw(st.integers(0, read.size))]
    assert outcome(BOTH[0], read, jobs) == outcome(BOTH[1], read, jobs)


def outcome(module, words, jobs):
    """What a coder reads from words, sound or not, and whether it may end there; or that it refuses."""
    decoder = module.RangeDecoder(words)
    found = []
    for row, entries in jobs:
        try:
            model = module.decoder_model(row) or module.encoder_model(row)
            found.append(decoder.decode(model, entries.size).tolist())
        except AssertionError:
            return found, "refused"
    return found, decoder.maybe_exhausted()


@pytest.mark.parametrize(
    "words", [(2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 2**24 - 1), (1, 2**32 - 1), (1, 2**32 - 2)]
)
def test_the_first_refused_quantile_and_the_last_allowed_end(words: tuple[int, int]) -> None:
    """A quantile of 2**24 and the one below; a difference of 2**33 - 1 at the end and the one below."""
    jobs = [(np.array([1 << 23, 1 << 23], np.uint32), np.zeros(1, np.int32))]
    found = [outcome(module, np.array(words, np.uint32), jobs) for module in BOTH]
    expected = {2**32 - 1: (([], "refused"), ([[1]], False)), 1: (([[0]], False), ([[0]], True))}[words[0]]
    assert found[0] == found[1] == expected[words[1] != 2**32 - 1]


def test_carries_reach_back_through_full_words() -> None:
    """Entries that push `lower` against the top of the interval: the longest runs of 0xffffffff, then a carry."""
    row = np.array([1, (1 << 24) - 2, 1], np.uint32)
    for tail in range(2, 40):
        entries = np.array([1] + [2] * tail + [1, 0] * (tail % 3) + [2, 1] * 3, np.int32)
        words = []
        for module in BOTH:
            encoder = module.RangeEncoder()
            encoder.encode(entries, module.encoder_model(row))
            words.append(encoder.get_compressed().tolist())
        assert words[0] == words[1]


def test_the_first_that_is_installed_runs_and_another_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    coders.coder.cache_clear()
    assert coder_name() == "constriction"
    with chosen("numba"):
        assert coder_name() == "numba"
    for wrong in ("zlib", "os.path"):
        with chosen(wrong), pytest.raises(BackendError, match=f"={wrong} names no range coder that is"):
            coders.coder()
    monkeypatch.setitem(sys.modules, "ugicm.runtime.coders.by_constriction", None)
    coders.coder.cache_clear()
    assert coder_name() == "numba"
    monkeypatch.setitem(sys.modules, "ugicm.runtime.coders.by_numba", None)
    coders.coder.cache_clear()
    with pytest.raises(BackendError, match="^no range coder that is installed; install constriction or numba"):
        coders.coder()
    monkeypatch.undo()
    coders.coder.cache_clear()
