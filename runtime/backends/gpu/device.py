"""Graphs whose arrays stay on a device: buffers bound once for each size, arrays that come to the host when asked.

Nothing here knows CUDA: a `Device` gives memory and copies, an `Execution` runs a graph on addresses.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ugicm.runtime.backends.gpu import dlpack
from ugicm.runtime.errors import BackendError

SIZES_KEPT = 6  # of each graph: the buffers of so many sizes, or numbers of images, stay bound
IMAGES_AT_ONCE = 8  # of many files; a CPU gains nothing by more than one
LARGEST_BATCH = 8e6  # pixels of the images that go through a network together
Shape = tuple[int, ...]
SYMBOLS, SYMBOLS_BYTES = "symbols", "symbols_bytes"


def check_device(backend: Any, device: str | None) -> None:
    """Raises BackendError: a backend cannot leave images there. None is this machine's memory."""
    if device is None:
        return
    if device != "cuda":
        raise BackendError(f"unknown device {device!r}; there is: cuda, or None for this machine's memory")
    if not hasattr(backend, "device"):
        raise BackendError(
            f"{backend.name} leaves no images on a GPU; open the codec with backend='onnxruntime-cuda', "
            "'tensorrt' or 'tensorrt-rtx'"
        )


class Memory(Protocol):
    """Owns device memory; freed with the object, after all work queued before."""

    pointer: int

    def used_on(self, stream: int) -> None:
        """A consumer's stream will read it: its work so far comes before the memory is freed."""
        ...


class Event(Protocol):
    def record(self) -> None: ...

    def synchronise(self) -> None: ...


class Device(Protocol):
    """Memory and one stream of a device. Everything is queued on the stream unless it says that it waits.

    Any thread may copy and free; `lock` keeps what belongs together in one piece.
    """

    dlpack_device: tuple[int, int]

    @property
    def lock(self) -> AbstractContextManager[Any]: ...

    def allocate(self, nbytes: int) -> Memory: ...

    def pinned(self, nbytes: int) -> np.ndarray:
        """uint8 (nbytes,) host memory that copies need not stage."""
        ...

    def event(self) -> Event: ...

    def copy(self, target: int, source: int, rows: int, width: int, target_pitch: int, source_pitch: int) -> None:
        """Copies `rows` rows of `width` bytes between any two addresses, host (pinned) or device."""
        ...

    def synchronise(self) -> None:
        """Waits for the stream."""
        ...

    def order_before(self, stream: int) -> None:
        """Work queued so far comes before the work that a consumer queues on its own stream from now on."""
        ...

    def download(self, nbytes: int) -> np.ndarray:
        """The pinned buffer that all copies to the host go through, under the lock; uint8, of at least nbytes."""
        ...

    def exclusive(self) -> AbstractContextManager[None]:
        """While work is captured: nothing else is queued on the stream, frees wait."""
        ...


class DeviceArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array on the device. numpy's functions and operators copy it to the host first.

    An array that a graph returns is valid until that graph runs again at this size; `keep` makes a copy that stays.
    Libraries with DLPack or the CUDA array interface take it without a copy.
    """

    def __init__(
        self, device: Device, memory: Memory, shape: Shape, dtype: Any, offset: int = 0, strides: Shape | None = None
    ) -> None:
        self._device, self._memory, self._offset = device, memory, offset
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self.strides = _contiguous(self.shape, self.dtype.itemsize) if strides is None else strides
        self._host: np.ndarray | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    @property
    def pointer(self) -> int:
        """Address of the first element."""
        return self._memory.pointer + self._offset

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype})"

    def __getitem__(self, key: Any) -> DeviceArray:
        """Views by integers and slices of step 1."""
        key = key if isinstance(key, tuple) else (key,)
        if len(key) > self.ndim:
            raise IndexError(f"{len(key)} indexes for {self.ndim} axes")
        offset, shape, strides = self._offset, [], []
        for axis, (n, step) in enumerate(zip(self.shape, self.strides, strict=True)):
            part = key[axis] if axis < len(key) else slice(None)
            if isinstance(part, slice):
                start, stop, by = part.indices(n)
                if by != 1:
                    raise IndexError("a device array has slices of step 1 only")
                shape.append(max(0, stop - start))
                strides.append(step)
            else:
                start = range(n)[part]
            offset += start * step
        return DeviceArray(self._device, self._memory, tuple(shape), self.dtype, offset, tuple(strides))

    def rows(self) -> tuple[int, int, int]:
        """(rows, bytes of a row, bytes from a row to the next).

        Raises:
            BackendError: an array that is no such rectangle of memory.
        """
        if self.strides == _contiguous(self.shape, self.dtype.itemsize) or not self.size:
            return 1, self.nbytes, self.nbytes
        if self.strides[1:] != _contiguous(self.shape[1:], self.dtype.itemsize):
            raise BackendError(f"cannot copy a view of strides {self.strides}; take a copy of the whole first")
        return self.shape[0], self.nbytes // self.shape[0], self.strides[0]

    def keep(self) -> DeviceArray:
        """A contiguous copy on the device, in memory of its own."""
        memory = self._device.allocate(max(self.nbytes, 1))
        rows, width, pitch = self.rows()
        self._device.copy(memory.pointer, self.pointer, rows, width, width, pitch)
        return DeviceArray(self._device, memory, self.shape, self.dtype)

    @staticmethod
    def concatenated(arrays: Sequence[DeviceArray]) -> DeviceArray:
        """Contiguous arrays of one shape and type after one another along the first axis, in memory of their own."""
        first = arrays[0]
        memory = first._device.allocate(max(1, len(arrays) * first.nbytes))
        for i, array in enumerate(arrays):
            rows, width, pitch = array.rows()
            first._device.copy(memory.pointer + i * first.nbytes, array.pointer, rows, width, width, pitch)
        return DeviceArray(first._device, memory, (len(arrays) * len(first), *first.shape[1:]), first.dtype)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self._host is None:
            rows, width, pitch = self.rows()
            with self._device.lock:
                buffer = self._device.download(self.nbytes)
                self._device.copy(buffer.ctypes.data, self.pointer, rows, width, width, pitch)
                self._device.synchronise()
                self._host = buffer[: self.nbytes].view(self.dtype).reshape(self.shape).copy()
        return self._host if dtype is None else self._host.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        arrays = [np.asarray(x) if isinstance(x, DeviceArray) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device.dlpack_device

    def __dlpack__(self, *, stream: int | None = None, **_: Any) -> Any:
        """A capsule; `stream` as the array API standard has it for CUDA: None and 1 the default one, -1 no order."""
        if self._device.dlpack_device[0] == dlpack.CUDA and stream != -1:
            self._hand_over(1 if stream is None else stream)
        return dlpack.capsule(self.pointer, self.shape, self.strides, self.dtype, self._device.dlpack_device, self)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self._device.dlpack_device[0] != dlpack.CUDA:
            raise AttributeError("__cuda_array_interface__")
        self._hand_over(1)
        return {
            "shape": self.shape,
            "strides": self.strides,
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "version": 3,
            "stream": 1,
        }

    def _hand_over(self, stream: int) -> None:
        self._device.order_before(stream)
        self._memory.used_on(stream)


def _contiguous(shape: Sequence[int], itemsize: int) -> Shape:
    strides: list[int] = []
    for n in reversed(shape):
        strides.insert(0, itemsize)
        itemsize *= n
    return tuple(strides)


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph: dims are numbers, or what the graph calls them, e.g. "4*h"."""

    name: str
    dtype: np.dtype
    dims: tuple[int | str, ...]


class Execution(Protocol):
    """A loaded graph of a library."""

    inputs: list[Tensor]

    def bind(
        self, shapes: Mapping[str, Shape], allocate: Callable[[Shape, Any], DeviceArray], inputs: Mapping[str, int]
    ) -> tuple[list[DeviceArray], Callable[[], None]]:
        """Fixes addresses: the outputs, allocated, and what queues a run on the device's stream."""
        ...


class LoadedGraph:
    """A graph on a device, as `runtime.backends.Graph`, taking arrays of the host or the device, returning the latter.

    Where the graph reads `symbols_bytes`, integers of the host become bytes here; on the device they are bytes already.
    """

    def __init__(self, device: Device, execution: Execution, name: str) -> None:
        self.name = name
        self.device = device
        self.inputs = [tensor.name for tensor in execution.inputs]
        self._execution = execution
        self._bound: OrderedDict[tuple[Shape, ...], _Bound] = OrderedDict()

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        values = {t.name: inputs[SYMBOLS if t.name == SYMBOLS_BYTES else t.name] for t in self._execution.inputs}
        shapes = tuple(
            (*v.shape, 2) if name == SYMBOLS_BYTES and not isinstance(v, DeviceArray) else tuple(map(int, v.shape))
            for name, v in values.items()
        )
        bound = self._bound.pop(shapes, None)
        if bound is None:
            bound = _Bound(self.device, self._execution, dict(zip(values, shapes, strict=True)))
            while len(self._bound) >= SIZES_KEPT:
                self.device.synchronise()  # the oldest may still run
                self._bound.popitem(last=False)
        self._bound[shapes] = bound  # the newest last
        return bound(values)  # type: ignore[return-value]


class _Bound:
    """A graph at one size."""

    def __init__(self, device: Device, execution: Execution, shapes: dict[str, Shape]) -> None:
        def allocate(shape: Shape, dtype: Any) -> DeviceArray:
            nbytes = max(1, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            return DeviceArray(device, device.allocate(nbytes), shape, dtype)

        self._slots = {t.name: _Slot(device, allocate(shapes[t.name], t.dtype)) for t in execution.inputs}
        addresses = {name: slot.array.pointer for name, slot in self._slots.items()}
        self._outputs, self._launch = execution.bind(shapes, allocate, addresses)

    def __call__(self, values: Mapping[str, Any]) -> list[DeviceArray]:
        for name, value in values.items():
            self._slots[name].fill(value, name == SYMBOLS_BYTES)
        self._launch()
        return [output[()] for output in self._outputs]  # fresh views: a host copy belongs to one run


class _Slot:
    """An input: its memory on the device and the pinned memory that host arrays pass through."""

    def __init__(self, device: Device, array: DeviceArray) -> None:
        self.array = array
        self._device = device
        self._staging: np.ndarray | None = None
        self._sent = device.event()

    def fill(self, value: Any, symbols: bool) -> None:
        target = self.array
        if isinstance(value, DeviceArray):
            if value.dtype != target.dtype:
                raise BackendError(f"an input of {value.dtype} on the device, where the graph reads {target.dtype}")
            rows, width, pitch = value.rows()
            self._device.copy(target.pointer, value.pointer, rows, width, width, pitch)
            return
        if self._staging is None:
            self._staging = self._device.pinned(target.nbytes)
        else:
            self._sent.synchronise()  # the last copy may still read it
        if symbols:
            staged = self._staging.view("<i2").reshape(value.shape)
            np.clip(value, -(2**15), 2**15 - 1, out=staged, casting="unsafe")
        else:
            np.copyto(self._staging.view(target.dtype).reshape(target.shape), value, casting="unsafe")
        n = target.nbytes
        self._device.copy(target.pointer, self._staging.ctypes.data, 1, n, n, n)
        self._sent.record()


_DIMENSION = re.compile(r"(?:(\d+)\s*\*?\s*)?([A-Za-z]\w*)")


def multiple(dim: str) -> tuple[int, str]:
    """(factor, symbol) of a dimension's name: "4*h" is (4, "h").

    Raises:
        BackendError: a name of another kind.
    """
    found = _DIMENSION.fullmatch(dim.strip())
    if not found:
        raise BackendError(f"a graph has a size {dim!r}, which is no multiple of one symbol; export the bundle again")
    return int(found[1] or 1), found[2]


def known_sizes(inputs: Sequence[Tensor], shapes: Mapping[str, Shape]) -> dict[str, int]:
    """The value of each symbol in the inputs' dims."""
    sizes: dict[str, int] = {}
    for tensor in inputs:
        for dim, n in zip(tensor.dims, shapes[tensor.name], strict=True):
            if isinstance(dim, str):
                factor, symbol = multiple(dim)
                sizes[symbol] = n // factor
    return sizes


def evaluate(dims: Sequence[int | str], sizes: Mapping[str, int]) -> Shape | None:
    """A shape from dims; None where a symbol is not known."""
    shape = []
    for dim in dims:
        factor, symbol = (dim, None) if isinstance(dim, int) else multiple(dim)
        if symbol is not None and symbol not in sizes:
            return None
        shape.append(factor * (1 if symbol is None else sizes[symbol]))
    return tuple(shape)
