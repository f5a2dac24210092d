"""Chunks of zarr arrays as `.ugic` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.errors import CorruptFileError, ImageError

numcodecs = pytest.importorskip("numcodecs", reason="numcodecs is not installed")


def test_a_chunk_is_a_file_and_back(photograph: np.ndarray, codec: Codec) -> None:
    from ugicm.adapters.numcodecs import Ugicm

    numcodecs.register_codec(Ugicm)
    made = numcodecs.get_codec({"id": "ugicm", "quality": 2, "condition": "machine"})
    data = made.encode(photograph[None])
    assert data == made.encode(photograph) == codec.encode(photograph, 2)
    out = np.empty((1, *photograph.shape), np.uint8)
    for given in (None, out):
        np.testing.assert_array_equal(
            np.reshape(made.decode(data, given), photograph.shape), codec.decode(data, "machine")
        )
    assert numcodecs.get_codec(made.get_config()) == made
    with pytest.raises(ImageError):
        made.encode(photograph[..., 0])
    with pytest.raises(CorruptFileError):
        made.decode(data[:-9] + bytes(9))


def test_zarr_keeps_pictures(tmp_path: Path, photograph: np.ndarray, codec: Codec) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    from ugicm.adapters.numcodecs import Ugicm

    numcodecs.register_codec(Ugicm)
    shape = (2, *photograph.shape)
    where = str(tmp_path / "pictures.zarr")
    array = zarr.create_array(
        where, shape=shape, chunks=(1, *photograph.shape), dtype="u1", zarr_format=2, compressors=Ugicm(2), filters=None
    )
    array[:] = np.stack([photograph, photograph[::-1]])
    np.testing.assert_array_equal(zarr.open_array(where)[1], codec.decode(codec.encode(photograph[::-1].copy(), 2)))
