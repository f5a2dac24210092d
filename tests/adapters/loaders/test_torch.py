"""`.ugic` files through PyTorch's `DataLoader`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from tests.adapters.loaders.epochs import ONE, same, tell, two_epochs
from tests.runtime.backends.host_device import HostBackend
from ugicm import Codec
from ugicm.adapters import opened
from ugicm.adapters.torch import Pictures, decoded
from ugicm.runtime.errors import NotUgicError, UsageError


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_workers_give_the_codec_s_pictures_in_shuffled_epochs(
    method: str, folder: Path, expected: list[str]
) -> None:
    epochs = two_epochs(Pictures(folder, "machine", tell), method, shuffle=True)
    orders = [[told.digest for told in epoch] for epoch in epochs]
    assert sorted(orders[0]) == sorted(orders[1]) == expected
    assert orders[0] != orders[1]
    both = [told for epoch in epochs for told in epoch]
    assert len({told.process for told in both}) == 2
    assert {told.threads for told in both} == {1}
    assert max(told.added for told in both) <= ONE


def test_threads_are_as_many_as_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted: with three a worker has more than it began with, so that the other test's count means something."""
    monkeypatch.setenv(opened.THREADS, "3")
    told = [told for epoch in two_epochs(Pictures(folder, None, tell), "fork", shuffle=False) for told in epoch]
    assert {one.threads for one in told} == {3} and max(one.added for one in told) >= 2
    monkeypatch.setenv(opened.THREADS, "0")
    with pytest.raises(UsageError, match="UGICM_THREADS: '0' is no number of threads"):
        opened.threads()
    monkeypatch.delenv(opened.THREADS)
    assert opened.threads() is None and not opened.in_worker()


@pytest.mark.parametrize("device", [None, "cuda"])
def test_bytes_go_to_a_codec_in_the_main_process(device: str | None, folder: Path, codec: Codec) -> None:
    here = Codec(codec.bundle, HostBackend()) if device else codec
    files: DataLoader[bytes] = DataLoader(Pictures(folder, decode=False), batch_size=3, num_workers=2, collate_fn=same)
    batches = list(decoded(files, here, "machine", device=device))
    assert [len(batch) for batch in batches] == [3, 3, 2]
    for path, tensor in zip(Pictures(folder).paths, (t for batch in batches for t in batch), strict=True):
        assert tensor.dtype == torch.uint8 and not tensor.is_contiguous()  # a view of (H, W, 3), not a copy
        np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), here.decode(path.read_bytes(), "machine"))


def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, codec: Codec) -> None:
    bad = tmp_path / "bad.ugic"
    bad.write_bytes(b"no such file")
    with pytest.raises(NotUgicError, match="bad.ugic"):
        Pictures([bad])[0]
    good = next(folder.glob("*.ugic")).read_bytes()
    with pytest.raises(NotUgicError, match="input 1"):
        list(decoded([[], [good, b"none"]], codec))
    (tmp_path / "empty").mkdir()
    for wrong, words in ((tmp_path / "none", "no such folder"), (tmp_path / "empty", "no file in it ends in .ugic")):
        with pytest.raises(UsageError, match=words):
            Pictures(wrong)
