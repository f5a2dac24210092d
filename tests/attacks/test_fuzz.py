"""What fuzzing found worth keeping, replayed without the fuzzer."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.attacks.target import KINDS, attack, seeds

CORPUS = sorted((Path(__file__).parent / "corpus").iterdir())


def test_every_input_of_the_corpus_ends_well() -> None:
    ends = Counter(attack(path.read_bytes()) for path in CORPUS)
    assert ends["fine"] > 0 and len(ends) > 4, f"the corpus reaches little: {ends}"
    assert {path.read_bytes()[0] % len(KINDS) for path in CORPUS} == set(range(len(KINDS)))
    assert sum(path.stat().st_size for path in CORPUS) < 300_000


def test_every_seed_ends_well() -> None:
    for seed in seeds():
        attack(seed)


def test_a_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The target lets no exception pass that is not a UgicError."""
    from ugicm.runtime import bitstream

    def fault(*_: object) -> None:
        raise ValueError("not for users")

    monkeypatch.setattr(bitstream, "parse", fault)
    with pytest.raises(ValueError, match="not for users"):
        attack(b"\0UGIC")
