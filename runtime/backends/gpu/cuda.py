"""CUDA through cuda-python: memory, one stream, events, captured work. The `Device` of the GPU backends."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import numpy as np

from ugicm.runtime.backends.gpu import dlpack
from ugicm.runtime.errors import BackendError

log = logging.getLogger("ugicm")


def _library() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendError("cuda-python is not installed; install it with: pip install 'ugicm[gpu]'") from error
    return runtime


def call(name: str, *arguments: Any) -> Any:
    """Calls a function of the CUDA runtime API; its value, a tuple of several, or None.

    Raises:
        BackendError: it failed; the message names the function and CUDA's reason.
    """
    library = _library()
    error, *values = getattr(library, name)(*arguments)
    if error != library.cudaError_t.cudaSuccess:
        reason = library.cudaGetErrorString(error)[1]
        raise BackendError(f"CUDA failed in {name}: {reason.decode() if isinstance(reason, bytes) else reason}")
    return values[0] if len(values) == 1 else tuple(values) or None


@cache
def open_device() -> CudaDevice:
    """The first GPU, with one stream of this project's own, opened once.

    Raises:
        BackendError: cuda-python, the driver or a GPU is missing; the message says which.
    """
    try:
        count = call("cudaGetDeviceCount")
    except BackendError as error:
        if "cuda-python" in str(error):
            raise
        raise BackendError(
            f"no usable NVIDIA GPU ({error}); install NVIDIA's driver for CUDA 12 or newer, or use backend onnxruntime"
        ) from error
    if not count:
        raise BackendError("no NVIDIA GPU is visible here; check CUDA_VISIBLE_DEVICES, or use backend onnxruntime")
    return CudaDevice()


class CudaMemory:
    """Device memory of a stream's pool."""

    def __init__(self, nbytes: int, device: CudaDevice) -> None:
        self._device = device
        self._readers: set[int] = set()
        with device.lock:
            self.pointer = int(call("cudaMallocAsync", nbytes, device.stream))

    def used_on(self, stream: int) -> None:
        self._readers.add(stream)

    def __del__(self) -> None:
        with suppress(Exception):  # at the interpreter's end the library may be gone
            self._device.free(self.pointer, self._readers)


class CudaEvent:
    """An event on the device's stream."""

    def __init__(self, stream: int, timed: bool = False) -> None:
        library = _library()
        self._stream = stream
        self.handle = call("cudaEventCreateWithFlags", 0 if timed else library.cudaEventDisableTiming)

    def record(self) -> None:
        call("cudaEventRecord", self.handle, self._stream)

    def synchronise(self) -> None:
        call("cudaEventSynchronize", self.handle)

    def milliseconds_since(self, start: CudaEvent) -> float:
        """Both must be timed and over."""
        return float(call("cudaEventElapsedTime", start.handle, self.handle))

    def __del__(self) -> None:
        with suppress(Exception):
            call("cudaEventDestroy", self.handle)


def _order(first: int, then: int) -> None:
    """What `first` has queued so far comes before what `then` will run from now on."""
    event = call("cudaEventCreateWithFlags", _library().cudaEventDisableTiming)
    call("cudaEventRecord", event, first)
    call("cudaStreamWaitEvent", then, event, 0)
    call("cudaEventDestroy", event)  # CUDA frees it when it has happened


class CudaDevice:
    """GPU 0 and a stream; see `ugicm.runtime.backends.gpu.device.Device`."""

    dlpack_device = (dlpack.CUDA, 0)

    def __init__(self) -> None:
        library = _library()
        call("cudaSetDevice", 0)
        self.stream = int(call("cudaStreamCreateWithFlags", library.cudaStreamNonBlocking))
        attribute = library.cudaDeviceAttr
        self.capability = (
            int(call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMajor, 0)),
            int(call("cudaDeviceGetAttribute", attribute.cudaDevAttrComputeCapabilityMinor, 0)),
        )
        pool = call("cudaDeviceGetDefaultMemPool", 0)
        keep_all = library.cudaMemPoolAttr.cudaMemPoolAttrReleaseThreshold
        with suppress(Exception):  # only speed: freed memory stays in the pool
            from cuda.bindings.driver import cuuint64_t

            call("cudaMemPoolSetAttribute", pool, keep_all, cuuint64_t(2**64 - 1))
        self._download = np.zeros(0, np.uint8)
        self.lock = threading.RLock()
        self._capturing = False
        self._to_free: list[tuple[int, set[int]]] = []

    @property
    def name(self) -> str:
        """The GPU's name, as its driver gives it."""
        properties = call("cudaGetDeviceProperties", 0)
        return properties.name.decode().rstrip("\0")

    def allocate(self, nbytes: int) -> CudaMemory:
        return CudaMemory(nbytes, self)

    def free(self, pointer: int, readers: set[int]) -> None:
        """Frees memory after what is queued here and on the readers' streams; during a capture, after that."""
        with self.lock:
            if self._capturing:
                self._to_free.append((pointer, readers))
                return
            for reader in readers:
                with suppress(BackendError):  # a stream that is gone reads nothing
                    _order(reader, self.stream)
            call("cudaFreeAsync", pointer, self.stream)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self.lock:
            self._capturing = True
            try:
                yield
            finally:
                self._capturing = False
                while self._to_free:
                    self.free(*self._to_free.pop())

    def pinned(self, nbytes: int) -> np.ndarray:
        pointer = int(call("cudaHostAlloc", max(nbytes, 1), _library().cudaHostAllocDefault))
        memory: Any = (ctypes.c_uint8 * max(nbytes, 1)).from_address(pointer)
        memory.owner = _Pinned(pointer)  # numpy keeps `memory` alive, and it the allocation
        return np.frombuffer(memory, np.uint8)[:nbytes]

    def download(self, nbytes: int) -> np.ndarray:
        if self._download.size < nbytes:
            self._download = self.pinned(nbytes)
        return self._download

    def event(self, timed: bool = False) -> CudaEvent:
        return CudaEvent(self.stream, timed)

    def copy(self, target: int, source: int, rows: int, width: int, target_pitch: int, source_pitch: int) -> None:
        kind = _library().cudaMemcpyKind.cudaMemcpyDefault
        if not rows or not width:
            return
        with self.lock:
            if rows == 1:
                call("cudaMemcpyAsync", target, source, width, kind, self.stream)
            else:
                call("cudaMemcpy2DAsync", target, target_pitch, source, source_pitch, width, rows, kind, self.stream)

    def synchronise(self) -> None:
        call("cudaStreamSynchronize", self.stream)

    def order_before(self, stream: int) -> None:
        with self.lock:
            _order(self.stream, stream)

    def memory_in_use(self) -> int:
        """Bytes of the GPU that are taken, by anyone."""
        free, total = call("cudaMemGetInfo")
        return int(total) - int(free)

    def captured(self, enqueue: Callable[[], None], name: str) -> Callable[[], None]:
        """Replays the work that `enqueue` queues on the stream: run once as it is, then captured as a CUDA graph.

        Work that cannot be captured runs as it is, with one logged line.
        """
        enqueue()  # lazy set-up happens outside the capture
        self.synchronise()
        mode = _library().cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        try:
            with self.exclusive():
                call("cudaStreamBeginCapture", self.stream, mode)
                try:
                    enqueue()
                finally:
                    graph = call("cudaStreamEndCapture", self.stream)
            executable = call("cudaGraphInstantiate", graph, 0)
            call("cudaGraphDestroy", graph)
        except BackendError as error:
            with suppress(Exception):
                _library().cudaGetLastError()
            log.warning("%s runs without a CUDA graph (%s)", name, error)
            return enqueue
        return _Replay(executable, self.stream)


class _Replay:
    """A captured piece of work."""

    def __init__(self, executable: Any, stream: int) -> None:
        self._executable, self._stream = executable, stream

    def __call__(self) -> None:
        call("cudaGraphLaunch", self._executable, self._stream)

    def __del__(self) -> None:
        with suppress(Exception):
            call("cudaGraphExecDestroy", self._executable)


class _Pinned:
    def __init__(self, pointer: int) -> None:
        self._pointer = pointer

    def __del__(self) -> None:
        with suppress(Exception):
            call("cudaFreeHost", self._pointer)
