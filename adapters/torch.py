"""`.ugic` files for PyTorch: decoded by the workers of a `DataLoader`, or handed as bytes to a codec on a GPU.

    from ugicm.adapters.torch import Pictures, decoded

    loader = DataLoader(Pictures("pictures", "machine", transform), batch_size=32, shuffle=True, num_workers=8)

    files = DataLoader(Pictures("pictures", decode=False), batch_size=32, shuffle=True, num_workers=2, collate_fn=list)
    for batch in decoded(files, Codec.from_bundle(backend="tensorrt"), "machine", device="cuda"):
        ...  # a list of tensors on the GPU

Workers may be forked or spawned; each opens a codec of its own (`ugicm.adapters.opened`: one thread unless
UGICM_THREADS says more).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ugicm.adapters import opened
from ugicm.runtime.codec import Codec
from ugicm.runtime.errors import UsageError


class Pictures(Dataset[Any]):
    """The .ugic files below a folder, in the order of their names, or those of a list.

    An item is a uint8 tensor (3, H, W) of RGB, as `torchvision.io.decode_image` gives it, or what `transform` makes of
    it; with `decode=False` the bytes of the file, for `decoded`.

    Attributes:
        paths: the files, in the order of the indexes.
    """

    def __init__(
        self,
        files: str | Path | Sequence[str | Path],
        condition: str | float | None = None,
        transform: Callable[[Any], Any] | None = None,
        *,
        decode: bool = True,
    ) -> None:
        """
        Args:
            files: a folder, or files.
            condition: the view, as for `Codec.decode`.
            transform: called with each tensor, or with the bytes.
            decode: whether items are pixels.

        Raises:
            UsageError: no such folder, or no .ugic file in it.
        """
        if isinstance(files, str | Path):
            folder = Path(files)
            if not folder.is_dir():
                raise UsageError(f"{folder}: no such folder; give a folder of .ugic files, or a list of files")
            files = sorted(path for path in folder.rglob("*.ugic") if path.is_file())
            if not files:
                raise UsageError(f"{folder}: no file in it ends in .ugic")
        self.paths = [Path(path) for path in files]
        self._condition = condition
        self._transform = transform
        self._decode = decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        """Raises OSError for a file that cannot be read, UgicError for one that cannot be decoded."""
        path = self.paths[index]
        item: Any = path.read_bytes()
        if self._decode:
            pixels = opened.decode(item, self._condition, str(path))
            item = torch.from_numpy(pixels).permute(2, 0, 1)
        return item if self._transform is None else self._transform(item)


def decoded(
    batches: Iterable[Sequence[bytes]],
    codec: Codec,
    condition: str | float | None = None,
    *,
    device: str | None = None,
    workers: int | None = 0,
) -> Iterator[list[torch.Tensor]]:
    """Decodes batches of files in this process, where the GPU is; files of the next batches are under way meanwhile.

    Args:
        batches: the bytes of files, for one a `DataLoader` of `Pictures(…, decode=False)` with `collate_fn=list`.
        codec: as for `Codec.decode_many`; it belongs to this iterator until that ends.
        condition: the view, as for `Codec.decode`.
        device: "cuda" leaves pictures on the GPU: tensors take them over without a copy (DLPack).
        workers: processes for the range coder; None is one for each CPU but one.

    Yields:
        For each batch a list of uint8 tensors (3, H, W); sizes may differ.

    Raises:
        UgicError: a file cannot be decoded, and what `Codec.decode_many` raises.
    """
    sizes: list[int] = []

    def files() -> Iterator[bytes]:
        for batch in batches:
            if batch:
                sizes.append(len(batch))
                yield from batch

    outcomes = codec.decode_many(files(), conditions=[condition], device=device, workers=workers, then=_first)
    tensors = (_tensor(outcome) for outcome in outcomes)
    for first in tensors:
        yield [first, *islice(tensors, sizes.pop(0) - 1)]


def _first(_: Any, views: list[Any]) -> torch.Tensor:
    return torch.from_dlpack(views[0]).permute(2, 0, 1)


def _tensor(outcome: Any) -> torch.Tensor:
    if outcome.error is not None:
        raise outcome.error
    return outcome.value
