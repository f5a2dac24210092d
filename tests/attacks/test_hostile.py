"""A sample of the bundles that `python -m tests.attacks.hostile` makes by the ten thousand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.attacks import graphs
from tests.attacks.bundles import ARRAYS, GRAPHS, MANIFESTS
from tests.attacks.target import attack
from ugicm.runtime.graphs.answers import Answers

TRIES = 100  # of each kind


@pytest.mark.parametrize("kind", [GRAPHS, ARRAYS, MANIFESTS])
def test_changed_bundles_end_well_or_with_one_line(kind: int) -> None:
    rng = np.random.default_rng(kind)
    ends = Counter(attack(bytes([kind]) + rng.bytes(48)) for _ in range(TRIES))
    assert ends["fine"] > 3 and ends["BundleError"] + ends["AnswerError"] > 10, ends


def test_a_graph_whose_answer_nobody_checks_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of answers the same bundles end in errors of NumPy."""
    monkeypatch.setattr(Answers, "load", lambda self, backend, name, view=None: backend.load(*_model(self, name, view)))
    rng = np.random.default_rng(GRAPHS)
    foreign = 0
    for _ in range(TRIES // 2):
        try:
            attack(bytes([GRAPHS]) + rng.bytes(48))
        except Exception:
            foreign += 1
    assert foreign > 1


def _model(answers: Answers, name: str, view: object) -> tuple[object, ...]:
    return (answers._bundle.graph(name)[1], name) if view is None else (view[0], name, view[1])  # type: ignore[index]


def test_every_rewriting_makes_another_graph() -> None:
    from tests.attacks.target import prepare

    model = prepare()[1]["h_s.onnx"]
    made = {what: graphs.rewritten(model, 0, what) for what in graphs.names()}
    assert all(found != model for found in made.values()) and len(set(made.values())) == len(made)
