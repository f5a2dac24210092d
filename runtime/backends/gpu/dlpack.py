"""A piece of memory as a DLPack capsule, for any library that takes arrays without copying them.

The structures are those of dlpack.h, https://dmlc.github.io/dlpack/latest/c_api.html, before version 1.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

CPU, CUDA = 1, 2
_CODES = {"i": 0, "u": 1, "f": 2}
_NAME = b"dltensor"


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter)]
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

_alive: dict[int, tuple[Any, ...]] = {}  # by address: what a capsule's consumer still reads


@_Deleter
def _delete(managed: Any) -> None:
    _alive.pop(ctypes.addressof(managed.contents), None)


@_Destructor
def _discard(capsule: int) -> None:
    """Of a capsule that nobody consumed (a consumer renames it)."""
    api = ctypes.pythonapi
    if api.PyCapsule_IsValid(ctypes.c_void_p(capsule), _NAME):
        _alive.pop(api.PyCapsule_GetPointer(ctypes.c_void_p(capsule), _NAME), None)


ctypes.pythonapi.PyCapsule_IsValid.restype = ctypes.c_int
ctypes.pythonapi.PyCapsule_GetPointer.restype = ctypes.c_void_p
ctypes.pythonapi.PyCapsule_New.restype = ctypes.py_object
ctypes.pythonapi.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _Destructor]


def capsule(
    pointer: int, shape: Sequence[int], strides: Sequence[int], dtype: np.dtype, device: tuple[int, int], owner: object
) -> Any:
    """A capsule over memory that `owner` keeps alive until the consumer lets go.

    Args:
        pointer: address of the first element.
        shape, strides: of the array; strides in bytes, multiples of the item size.
        dtype: integers and floats.
        device: (CPU or CUDA, index).
        owner: held until then.
    """
    n = len(shape)
    sizes = (ctypes.c_int64 * n)(*shape)
    steps = (ctypes.c_int64 * n)(*(s // dtype.itemsize for s in strides))
    managed = _Managed()
    tensor = managed.tensor
    tensor.data, tensor.device, tensor.ndim = pointer, _Device(*device), n
    tensor.dtype = _DataType(_CODES[dtype.kind], 8 * dtype.itemsize, 1)
    tensor.shape, tensor.strides, tensor.byte_offset = sizes, steps, 0
    managed.deleter = _delete
    address = ctypes.addressof(managed)
    _alive[address] = (managed, sizes, steps, owner)
    return ctypes.pythonapi.PyCapsule_New(address, _NAME, _discard)
