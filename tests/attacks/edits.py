"""Edits of a bundle's arrays, a few bytes each: how fuzzing reaches what tables and integers are checked for."""

from __future__ import annotations

import io
from enum import IntEnum, auto
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.runtime.bundle import read_arrays

_BYTES = 8  # of an edit: array, operation, 16 bits of position, 32 bits of value
_MOST = 16  # edits
_TYPES = ("<u4", "<i4", "<f4", "<f8", "<i2", "|i1", "<U1", "|S1", "<c8", "|b1", "<u8", ">i4", "<M8[s]", "|V3")
_NUMBERS = (np.nan, np.inf, -np.inf, 0.0, 1e38, -1.0, 2.0**31, 2.0**24)

Array = np.ndarray[Any, np.dtype[Any]]


class Edit(IntEnum):
    """The operations; the corpus holds their numbers."""

    SET_ONE = 0  # an entry
    SET_REST = auto()  # every entry from a position on
    SET_REST_TOO = auto()  # the same: its number is taken by files of the corpus
    SWAP = auto()  # two entries: sums stay as they were
    SHORTEN = auto()
    RETYPE = auto()
    RESHAPE = auto()
    DELETE = auto()


def edited(contents: dict[str, bytes], edits: bytes) -> dict[str, bytes]:
    """The `.npz` files, by name, after some edits of their arrays."""
    arrays: dict[tuple[str, str], Array] = {
        (file, name): array for file, data in contents.items() for name, array in read_arrays(data, Path(file)).items()
    }
    for at in range(0, min(len(edits), _MOST * _BYTES) - _BYTES + 1, _BYTES):
        keys = sorted(arrays)
        key, operation = keys[edits[at] % len(keys)], Edit(edits[at + 1] % len(Edit))
        position = int.from_bytes(edits[at + 2 : at + 4], "little")
        value = int.from_bytes(edits[at + 4 : at + 8], "little", signed=True)
        if operation is not Edit.DELETE:
            arrays[key] = _changed(arrays[key], operation, position, value)
            continue
        del arrays[key]
        if len(arrays) < 2:
            break
    out = {}
    for file in contents:
        buffer = io.BytesIO()
        np.savez(buffer, **{name: array for (of, name), array in arrays.items() if of == file})
        out[file] = buffer.getvalue()
    return out


def _changed(given: Array, operation: Edit, position: int, value: int) -> Array:
    array = np.array(given)
    flat = array.reshape(-1)
    if operation is Edit.SHORTEN:
        return flat[: position % (flat.size + 1)]
    if operation is Edit.RETYPE:
        return np.zeros(array.shape, _TYPES[position % len(_TYPES)])
    if operation is Edit.RESHAPE:
        return array[None] if value % 2 else flat
    if not flat.size:
        return array
    first = position % flat.size
    if operation is Edit.SWAP:
        second = (position + 1 + abs(value)) % flat.size
        flat[first], flat[second] = flat[second], flat[first]
        return array
    number = _NUMBERS[value % len(_NUMBERS)] if array.dtype.kind in "fc" else value
    end = position + 1 if operation is Edit.SET_ONE else flat.size
    with np.errstate(all="ignore"):
        flat[first:end] = np.asarray(number).astype(array.dtype)
    return array
