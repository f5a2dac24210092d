"""The check tells latents that were rounded another way from a synthesis that differs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import zoo_check
from benchmarks.zoo_check import check, main
from tests.zoo_bundles import exported


@pytest.fixture(scope="module")
def checkpoints(staged_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory, common: Path) -> list[Path]:
    """A codec with context and one without a hyperprior; their bundles are there."""
    folder = tmp_path_factory.mktemp("zoo")
    staged = folder / "staged.pth.tar"
    staged.symlink_to(staged_checkpoint)
    (folder / "staged").symlink_to(staged_checkpoint.with_name("bundle"))
    return [staged, exported("bmshj2018-factorized-relu", common)]


def test_pictures_of_the_same_latents_are_a_level_apart_at_most(
    checkpoints: list[Path], photograph: np.ndarray
) -> None:
    for checkpoint in checkpoints:
        for found in check(checkpoint, photograph, [(1, 1), (33, 70)], 1):
            assert found.same <= 1 and found.here.latents.shape == found.there.latents.shape
            assert found.exact.latents.dtype == np.float64 and found.others(found.there) == 0
            if not found.others(found.here):
                assert found.here.apart(found.there).max() <= 1
            assert len(found.cells()) == 10
    assert torch.get_default_dtype() == torch.float32


def test_another_latent_is_counted_and_another_synthesis_fails(
    checkpoints: list[Path], photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = check(checkpoints[1], photograph, [(33, 70)], 1)
    before = found.others(found.here)
    found.here.latents[0, 0, 0, 0] = found.there.latents[0, 0, 0, 0] + 1
    found.here.latents[0, 0, 0, 1] = found.there.latents[0, 0, 0, 1] + 0.4
    assert before <= 1 and found.others(found.here) in (before, before + 1) and found.others(found.here) >= 1
    arguments = [str(checkpoints[1]), "--sizes", "70x33"]
    assert main(arguments) == 0
    pixels = zoo_check.pixels
    monkeypatch.setattr(zoo_check, "pixels", lambda x, shape: pixels(x + 3 / 255, shape))
    assert main(arguments) == 1
