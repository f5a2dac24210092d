"""Staged files written by one machine are read by all; the benchmark sees an index that strays and a file that dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import staged_exactness
from benchmarks.staged_exactness import Count, Small, main
from ugicm.runtime.schedule import Stage
from ugicm.runtime.staged import Coded


@pytest.fixture(scope="module", params=[True, False], ids=["guarded", "plain"])
def codec(request: pytest.FixtureRequest, staged_checkpoint: Path) -> Small:
    pictures = [np.random.default_rng(0).integers(0, 256, (100, 200, 3), np.uint8)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staged_exactness, "LEVELS", ("all",))
        return Small(staged_checkpoint, staged_checkpoint.with_name("bundle"), pictures, request.param)


def moved(walk: Callable[[np.ndarray, Coded], None], distance: float) -> Callable[[np.ndarray, Coded], None]:
    """A machine whose indexes lie elsewhere."""

    def walking(z: np.ndarray, coded: Coded) -> None:
        def stray(stage: Stage, index: np.ndarray, mean: np.ndarray) -> np.ndarray:
            return coded(stage, index + np.float32(distance), mean)

        walk(z, stray)

    return walking


@pytest.mark.parametrize("step", [0, 3])
def test_every_machine_reads_what_another_wrote(codec: Small, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_exactness, "SIZE", (64, 128))
    y, z = codec.latents(step)
    assert (y is None) == (step == 0) and z.shape[2:] == (1, 2)
    guarded = codec.rounding is staged_exactness.Rounding
    for writer in ("ONNX Runtime, all, 2", "PyTorch float32, 1", "PyTorch float64, 1"):
        file, count = codec.written(codec.machines[writer], y, z, step), Count()
        for walk in codec.machines.values():
            codec.read(walk, file, z, count)
        assert count.files == len(codec.machines) == 6 and count.symbols == 6 * sum(s.size for s in file.symbols)
        assert (count.dead, count.rows, count.different) == (0, 0, 0) and 0 < count.apart < 1e-3
    band = 2.0**-file.guard.band_bits
    for distance, survives in ((0.9 * band, guarded), (0.4, False)):
        count = Count()
        codec.read(moved(codec.machines["PyTorch float64, 1"], distance), file, z, count)
        if survives:
            assert (count.dead, count.rows, count.different) == (0, 0, 0)
        elif distance > band:
            assert count.dead == 1
        assert count.apart == pytest.approx(distance, abs=1e-4) and (count.beyond > 0) == (distance > band)


def test_a_run_goes_on_where_it_was(
    staged_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.pth.tar").symlink_to(staged_checkpoint)
    (tmp_path / "model").symlink_to(staged_checkpoint.with_name("bundle"))
    monkeypatch.setattr(staged_exactness, "LEVELS", ("all",))
    monkeypatch.setattr(staged_exactness, "SIZE", (64, 128))
    arguments = [str(tmp_path / "model.pth.tar"), "--state", str(tmp_path / "state.json"), "--symbols"]
    for symbols, files in ((500, 2), (0, 2), (1000, 4)):
        assert main([*arguments, str(symbols)]) == 0
        assert f"guards on: {files} files, {files * 256:,} symbols" in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "1000", "--no-guards"]) == 2
    assert "of other codecs or options" in capsys.readouterr().err
