"""`.ugic` files in Hugging Face's `datasets`: the `Image` feature, `imagefolder`, and a chosen view.

    import ugicm.adapters.datasets
    from datasets import load_dataset

    dataset = load_dataset("imagefolder", data_dir="pictures", split="train")
    dataset[0]["image"]  # an image of Pillow's, by `ugicm.adapters.pillow`

The import tells Pillow of the format and `imagefolder` of the suffix.
Pillow shows the view that UGICM_CONDITION names. A view by name, also in spawned workers, which imported nothing, is

    dataset = ugicm.adapters.datasets.with_view(dataset, "machine")
    dataset[0]["image"]  # uint8 (H, W, 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import datasets
from datasets.packaged_modules.imagefolder import imagefolder

import ugicm.adapters.pillow  # noqa: F401  tells Pillow of the format
from ugicm.adapters import opened

SUFFIX = ".ugic"
Some = TypeVar("Some", datasets.Dataset, datasets.DatasetDict)


@dataclass(frozen=True)
class View:
    """A transform for `with_transform`: decodes a column of files that `Image(decode=False)` left as they are.

    Attributes:
        condition: the view, as for `Codec.decode`.
        column: of the files; other columns stay.
    """

    condition: str | float | None = None
    column: str = "image"

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """The rows with uint8 arrays (H, W, 3) in that column. Raises UgicError, OSError: a file cannot be decoded."""
        if self.column not in rows:
            return rows
        return {**rows, self.column: [self._pixels(cell) for cell in rows[self.column]]}

    def _pixels(self, cell: dict[str, Any] | None) -> Any:
        if cell is None:
            return None
        data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
        return opened.decode(data, self.condition, cell["path"] or "<bytes>")


def with_view(dataset: Some, condition: str | float | None = None, column: str = "image") -> Some:
    """The dataset with a column of .ugic files decoded for one condition when rows are taken; see `View`."""
    plain = dataset.cast_column(column, datasets.Image(decode=False))
    return plain.with_transform(View(condition, column))


if SUFFIX not in imagefolder.ImageFolder.EXTENSIONS:
    imagefolder.ImageFolder.EXTENSIONS.append(SUFFIX)
