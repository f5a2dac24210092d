"""Checkpoints are pickles: none of what one could run is run."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from tests.attacks.test_bundles import Evil
from ugicm.export.checkpoint import CheckpointError, load


def attacks(folder: Path) -> list[Path]:
    evil = Evil(f"touch '{folder / 'canary'}'")
    plain, inside, state, broken = (folder / f"{name}.pt" for name in ("plain", "inside", "state", "broken"))
    plain.write_bytes(pickle.dumps(evil))
    torch.save({"format": "ugicm-checkpoint-1", "state_dict": evil}, inside)
    torch.save(evil, state, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/data.pkl", pickle.dumps(evil))
        target.writestr("archive/version", "3")
    return [plain, inside, state, broken]


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    for path in attacks(tmp_path):
        with pytest.raises(CheckpointError, match=path.name) as caught:
            load(path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "values",
    [
        {"format": "ugicm-checkpoint-1"},
        {"format": "ugicm-checkpoint-1", "config": {"latent": -1}, "state_dict": {}},
        {"format": "ugicm-checkpoint-1", "config": {"latent": 2**40}, "state_dict": {}},
        {"state_dict": {"g_s.0.weight": torch.zeros(1)}},
        {"state_dict": {1: 2}},
        {1: 2},
        [],
        torch.zeros(3),
        "text",
        None,
    ],
    ids=lambda values: str(values)[:40],
)
def test_what_is_no_checkpoint_has_a_name(tmp_path: Path, values: object) -> None:
    path = tmp_path / "x.pt"
    torch.save(values, path)
    with pytest.raises(CheckpointError, match=r"x\.pt") as caught:
        load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x80\x04.", b"x" * 100, b"\x80\x02]q\x00."], ids=repr)
def test_bytes_that_are_no_checkpoint_have_a_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        load(path)
