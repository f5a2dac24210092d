"""Schedules: every latent once, and nothing that a stranger's manifest may say is believed unchecked."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm.runtime.schedule import Schedule, Stage

CHANNELS = 12


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Any partition of the channels, each part in one stage or two, in any order."""
    cuts = sorted(draw(st.sets(st.integers(1, CHANNELS - 1), max_size=4)))
    stages = []
    for i, part in enumerate(zip([0, *cuts], [*cuts, CHANNELS], strict=True)):
        for positions in draw(st.sampled_from([("all",), ("even", "odd"), ("odd", "even")])):
            after = draw(st.sampled_from([None, f"lrp{i:02}_{positions}"]))
            stages.append(Stage(f"stage{i:02}_{positions}", part, positions, after))
    order = draw(st.permutations(stages))
    return Schedule(draw(st.integers(6, 20)), draw(st.integers(64, 65536)), tuple(order))


@given(schedules())
@settings(max_examples=30, deadline=None)
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    assert Schedule.from_json(json.loads(json.dumps(schedule.to_json())), CHANNELS) == schedule


@given(schedules(), st.data())
@settings(max_examples=30, deadline=None)
def test_a_stage_too_few_or_too_many_is_refused(schedule: Schedule, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(schedule.stages) - 1))
    values = schedule.to_json()
    del values["stages"][i]
    with pytest.raises(ValueError, match="never decoded|1 to 2 stages"):
        Schedule.from_json(values, CHANNELS)
    values = schedule.to_json()
    values["stages"].append({**values["stages"][i], "graph": "again", "after": None})
    with pytest.raises(ValueError, match="decoded before"):
        Schedule.from_json(values, CHANNELS)


def whole() -> dict[str, Any]:
    stages = [{"graph": "stage00", "channels": [0, CHANNELS], "positions": "all", "after": None}]
    return {"band_bits": 12, "block": 1024, "stages": stages}


@pytest.mark.parametrize("place", [("band_bits",), ("block",), ("stages",), ("stages", 0), ("stages", 0, "channels")])
@pytest.mark.parametrize("value", [None, True, -1, 10**30, 1.0, float("nan"), "12", [], {}, [[0, 1]], [0, 1, 2]])
def test_values_of_a_wrong_kind_are_a_short_reason(place: tuple[Any, ...], value: Any) -> None:
    values = whole()
    spot = values
    for key in place[:-1]:
        spot = spot[key]
    spot[place[-1]] = value
    with pytest.raises(ValueError) as refused:
        Schedule.from_json(values, CHANNELS)
    assert len(str(refused.value)) < 100


@pytest.mark.parametrize(
    "change",
    [
        {"graph": "g_s"},
        {"graph": "../g"},
        {"graph": "Stage"},
        {"graph": "a" * 65},
        {"graph": "a\n"},
        {"graph": 7},
        {"after": "stage00"},
        {"after": ""},
        {"after": 3},
        {"positions": "left"},
        {"positions": ["all"]},
        {"channels": [0, CHANNELS + 1]},
        {"channels": [0, 0]},
        {"channels": [0, "1"]},
        {"channels": [False, CHANNELS]},
        {"more": 1},
    ],
)
def test_a_stage_that_nobody_exports_is_refused(change: dict[str, Any]) -> None:
    values = whole()
    values["stages"][0].update(change)
    with pytest.raises(ValueError):
        Schedule.from_json(values, CHANNELS)
