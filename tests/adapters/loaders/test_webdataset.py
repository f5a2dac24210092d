"""`.ugic` files in tar files, through WebDataset."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.adapters.loaders.epochs import ONE, tell_sample, two_epochs
from ugicm import Codec
from ugicm.adapters.webdataset import Decoder

webdataset = pytest.importorskip("webdataset", reason="WebDataset is not installed")


@pytest.fixture
def shards(tmp_path: Path, folder: Path) -> list[str]:
    """Two tar files, four samples each."""
    paths = sorted(folder.rglob("*.ugic"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for path in paths[4 * shard : 4 * shard + 4]:
                archive.add(path, path.name)
    return [str(tmp_path / f"{shard}.tar") for shard in range(2)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_workers_give_the_codec_s_pictures_in_shuffled_epochs(
    method: str, shards: list[str], expected: list[str]
) -> None:
    dataset = webdataset.WebDataset(shards, shardshuffle=2, seed=3).shuffle(4, seed=3).decode(Decoder("machine"))
    epochs = two_epochs(dataset.map(tell_sample), method, shuffle=False)
    assert [sorted(told.digest for told in epoch) for epoch in epochs] == [expected, expected]
    both = [told for epoch in epochs for told in epoch]
    assert len({told.process for told in both}) == 2
    assert {told.threads for told in both} == {1} and max(told.added for told in both) <= ONE


def test_other_members_are_left_to_other_handlers(tmp_path: Path, folder: Path, codec: Codec) -> None:
    path = next(folder.glob("*.ugic"))
    Image.fromarray(np.full((4, 5, 3), 9, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.cls").write_text("7")
    with tarfile.open(tmp_path / "mixed.tar", "w") as archive:
        archive.add(path, "a.ugic")
        for name in ("a.png", "a.cls"):
            archive.add(tmp_path / name, name)
    (sample,) = webdataset.WebDataset(str(tmp_path / "mixed.tar"), shardshuffle=False).decode(Decoder(0.5), "rgb8")
    np.testing.assert_array_equal(sample["ugic"], codec.decode(path.read_bytes(), 0.5))
    assert sample["png"].shape == (4, 5, 3) and sample["cls"] == 7
