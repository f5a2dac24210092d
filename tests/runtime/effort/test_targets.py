"""Targets: the right step on any rising curve, few measurements, real files that meet rates, PSNRs and sizes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ugicm import Codec
from ugicm.runtime.commands.encode import main
from ugicm.runtime.effort.targets import BPP, BYTES, PSNR, ROUNDS, Target, below, meet, meet_refined
from ugicm.runtime.encoder.flow import encoding
from ugicm.runtime.errors import QualityError, UsageError
from ugicm.runtime.measures.metrics import psnr


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(0.001, 0.2), min_size=1, max_size=300), st.floats(0, 1), st.sampled_from([BPP, BYTES]))
def test_the_highest_step_within_a_target_is_found(rises: list[float], share: float, kind: str) -> None:
    values = (100 * np.exp(np.cumsum(rises))).tolist()
    asked: list[int] = []

    def measure(step: int) -> float:
        asked.append(step)
        return float(values[step])

    aim = float(values[0] * (values[-1] / values[0]) ** share)
    found = below(measure, Target(kind, aim), len(values))
    fitting = [i for i, value in enumerate(values) if math.log(value) <= math.log(aim)]
    assert found == (fitting[-1] if fitting else -1)
    assert len(set(asked)) <= 3 * math.log2(len(values) + 2) + 4


def test_what_no_quality_meets_is_said_with_what_would_be() -> None:
    curve = [100.0, 200.0, 400.0]

    def measure(step: int) -> float:
        return curve[step]

    with pytest.raises(QualityError, match=r"max bytes 90 .* 100 to 400 bytes"):
        meet(measure, Target(BYTES, 90), 3)
    with pytest.raises(QualityError, match="401.000 dB|500"):
        meet(measure, Target(PSNR, 500), 3)
    assert [meet(measure, Target(BYTES, n), 3) for n in (100, 399, 1e9)] == [0, 1, 2]
    assert [meet(measure, Target(BPP, n), 3) for n in (130, 150, 900)] == [0, 1, 2]
    assert meet(measure, Target(PSNR, 3), 3) == 0


@pytest.mark.parametrize(("kind", "value"), [(BPP, 300.0), (PSNR, 33.0), (BYTES, 300.0)])
def test_few_refined_files_find_a_target_that_plain_ones_miss(kind: str, value: float) -> None:
    """Refining takes off 8 %, or adds 0.7 dB."""
    asked = set()

    def plain(step: int) -> float:
        return 28 + 0.04 * step if kind == PSNR else 100 * 1.01**step

    def refined(step: int) -> float:
        asked.add(step)
        return plain(step) + 0.7 if kind == PSNR else 0.92 * plain(step)

    step = meet_refined(plain, refined, Target(kind, value), 225)
    assert step is not None and len(asked) <= ROUNDS
    assert refined(step) == pytest.approx(value, rel=0.01) if kind != PSNR else abs(refined(step) - value) <= 0.03
    assert kind != BYTES or refined(step) <= value


@pytest.mark.parametrize("effort", [0, 1])
def test_real_files_meet_their_targets(codec: Codec, photograph: np.ndarray, effort: int) -> None:
    pixels = photograph[..., 0].size
    within = codec.encode(photograph, effort=effort, max_bytes=2500)
    assert 2400 < len(within) <= 2500
    if not effort:
        near = codec.encode(photograph, target_bpp=0.8)
        assert 8 * len(near) / pixels == pytest.approx(0.8, rel=0.01)
    good = codec.encode(photograph, effort=effort, target_psnr=29.0)
    assert psnr(photograph, codec.decode(good)) == pytest.approx(29.0, abs=0.03)


def test_a_target_and_a_quality_give_the_same_file(codec: Codec, photograph: np.ndarray) -> None:
    """The search scales what `g_a` gave once; that is what `g_a` gives at the quality."""
    found = codec.encode(photograph, max_bytes=3000)
    byte = found[13]
    assert found == codec.answer(encoding(codec.bundle, photograph, byte))


def test_what_contradicts_itself_is_refused(codec: Codec, photograph: np.ndarray) -> None:
    for wish in ({"target_bpp": 1, "max_bytes": 10}, {"quality": 3, "target_psnr": 30}, {"target_bpp": -1.0}):
        with pytest.raises(UsageError):
            codec.encode(photograph, **wish)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        codec.encode(photograph, target_psnr=math.inf)


def test_the_command_line_meets_a_size_with_all_that_a_file_holds(
    codec: Codec, photograph: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    source, out = tmp_path / "a.png", tmp_path / "a.ugic"
    alpha = np.full((*photograph.shape[:2], 1), 200, np.uint8)
    alpha[:50] = np.arange(photograph.shape[1], dtype=np.uint8)[:, None]
    Image.fromarray(np.concatenate([photograph, alpha], 2)).save(source)
    command = [str(source), "-o", str(out), "--threads", "1"]
    assert main([*command, "--max-bytes", "3000"]) == 0
    assert 2900 < out.stat().st_size <= 3000
    assert main([*command, "-q", "4.3"]) == 0 and out.read_bytes()[13] == 111
    capsys.readouterr()
    for more, words in (
        (["-q", "4", "--target-bpp", "1"], "give one of"),
        (["--max-bytes", "100"], "besides pixels|cannot be met"),
        (["--target-psnr", "99"], "cannot be met"),
        (["--target-psnr", "x"], "invalid float"),
        (["--target-bpp", "nan"], "no positive number"),
    ):
        assert main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and any(word in error for word in words.split("|")), error
