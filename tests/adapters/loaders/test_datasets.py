"""`.ugic` files in Hugging Face's `datasets`."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from tests.adapters.loaders.epochs import ONE, digest, tell_row, two_epochs
from ugicm import Codec
from ugicm.adapters import pillow

datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")


@pytest.fixture(scope="module")
def loaded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> object:
    """The folder by `imagefolder`, as files."""
    importlib.import_module("ugicm.adapters.datasets")
    cache = str(tmp_path_factory.mktemp("cache"))
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=cache, drop_labels=True)


def test_imagefolder_and_the_image_feature_show_pictures(
    loaded: object, folder: Path, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(pillow.VARIABLE, "machine")
    assert sorted(digest(row["image"]) for row in loaded) == expected  # type: ignore[attr-defined]
    paths = sorted(map(str, folder.rglob("*.ugic")))
    made = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
    assert sorted(digest(row["image"]) for row in made) == expected


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_two_workers_give_the_codec_s_pictures_in_shuffled_epochs(
    method: str, loaded: object, expected: list[str]
) -> None:
    from ugicm.adapters.datasets import with_view

    view = with_view(loaded, "machine")  # type: ignore[type-var]
    epochs = two_epochs(Rows(view), method, shuffle=True)
    assert [sorted(told.digest for told in epoch) for epoch in epochs] == [expected, expected]
    assert [told.digest for told in epochs[0]] != [told.digest for told in epochs[1]]
    both = [told for epoch in epochs for told in epoch]
    assert len({told.process for told in both}) == 2
    assert {told.threads for told in both} == {1} and max(told.added for told in both) <= ONE


def test_a_map_over_processes_uses_one_thread_each(loaded: object, expected: list[str]) -> None:
    """Its processes are started by `multiprocess`, a relative of `multiprocessing`."""
    from ugicm.adapters.datasets import with_view

    view = with_view(loaded, "machine")  # type: ignore[type-var]
    told = view.map(tell_map, num_proc=2, remove_columns=["image"], load_from_cache_file=False)
    assert sorted(told["digest"]) == expected and set(told["threads"]) == {1} and len(set(told["process"])) == 2


def test_rows_of_bytes_and_of_nothing(folder: Path, codec: Codec) -> None:
    from ugicm.adapters.datasets import with_view

    data = next(folder.glob("*.ugic")).read_bytes()
    made = datasets.Dataset.from_dict({"picture": [{"bytes": data, "path": None}, None], "label": [3, 4]})
    view = with_view(made.cast_column("picture", datasets.Image()), 0.5, "picture")
    np.testing.assert_array_equal(view[0]["picture"], codec.decode(data, 0.5))
    assert view[1] == {"picture": None, "label": 4} and view.select_columns("label")[0] == {"label": 3}


class Rows:
    """What rows of a dataset tell, for a `DataLoader`."""

    def __init__(self, rows: object) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> object:
        return tell_row(self._rows[index])  # type: ignore[index]


def tell_map(row: dict[str, object]) -> dict[str, object]:
    return tell_row(row)._asdict()
