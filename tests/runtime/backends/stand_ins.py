"""Stand-ins for what only a GPU has: CUDA's runtime over this machine's memory, TensorRT's runtime over ONNX Runtime.

They keep the names, arguments and results of the real libraries (tests compare the names), do what is asked at once,
and refuse what CUDA would refuse: unknown pointers, work queued on a stream while another captures it, double frees.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorStreamCaptureUnsupported = 900


class Cuda:
    """`cuda.bindings.runtime`: returns (error, values…), as that does."""

    cudaError_t = Error
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaMemPoolAttr = SimpleNamespace(cudaMemPoolAttrReleaseThreshold=4)

    def __init__(self) -> None:
        self.blocks: dict[int, Any] = {}
        self.freed = 0
        self.waits: list[tuple[int, int]] = []
        self.launches = 0
        self._recording: list[Any] | None = None
        self._streams = self._events = 100

    def _put(self, nbytes: int) -> int:
        block = (ctypes.c_uint8 * nbytes)(*[0xA5] * min(nbytes, 64))
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    def _inside(self, pointer: int, nbytes: int) -> bool:
        return any(at <= pointer and pointer + nbytes <= at + len(block) for at, block in self.blocks.items())

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, error.name.encode()

    def cudaGetLastError(self) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return Error.cudaSuccess, 1

    def cudaDriverGetVersion(self) -> tuple[Error, int]:
        return Error.cudaSuccess, 13000

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[Error, int]:
        return Error.cudaSuccess, {"major": 9, "minor": 0}[attribute]

    def cudaDeviceGetDefaultMemPool(self, device: int) -> tuple[Error, int]:
        return Error.cudaSuccess, 7

    def cudaMemPoolSetAttribute(self, pool: int, attribute: int, value: Any) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGetDeviceProperties(self, device: int) -> tuple[Error, Any]:
        return Error.cudaSuccess, SimpleNamespace(name=b"stand-in\0\0")

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        used = sum(map(len, self.blocks.values()))
        return Error.cudaSuccess, 2**30 - used, 2**30

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        self._streams += 1
        return Error.cudaSuccess, self._streams

    def cudaMallocAsync(self, nbytes: int, stream: int) -> tuple[Error, int]:
        return Error.cudaSuccess, self._put(nbytes)

    def cudaFreeAsync(self, pointer: int, stream: int) -> tuple[Error]:
        if self._recording is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        if self.blocks.pop(pointer, None) is None:
            return (Error.cudaErrorInvalidValue,)
        self.freed += 1
        return (Error.cudaSuccess,)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[Error, int]:
        return Error.cudaSuccess, self._put(nbytes)

    def cudaFreeHost(self, pointer: int) -> tuple[Error]:
        return (Error.cudaSuccess if self.blocks.pop(pointer, None) is not None else Error.cudaErrorInvalidValue,)

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[Error]:
        return self.cudaMemcpy2DAsync(target, nbytes, source, nbytes, nbytes, 1, kind, stream)

    def cudaMemcpy2DAsync(
        self, target: int, tpitch: int, source: int, spitch: int, width: int, rows: int, kind: int, stream: int
    ) -> tuple[Error]:
        if self._recording is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        for pointer, pitch in ((target, tpitch), (source, spitch)):
            if pitch < width or not self._inside(pointer, (rows - 1) * pitch + width):
                return (Error.cudaErrorInvalidValue,)
        for row in range(rows):
            ctypes.memmove(target + row * tpitch, source + row * spitch, width)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        return (Error.cudaErrorStreamCaptureUnsupported if self._recording is not None else Error.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        self._events += 1
        return Error.cudaSuccess, self._events

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaEventElapsedTime(self, start: int, end: int) -> tuple[Error, float]:
        return Error.cudaSuccess, float(end - start)

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Error]:
        self.waits.append((stream, event))
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        self._recording = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, Any]:
        graph, self._recording = self._recording, None
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Error, Any]:
        return Error.cudaSuccess, list(graph)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, executable: Any) -> tuple[Error]:
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, executable: Any, stream: int) -> tuple[Error]:
        self.launches += 1
        for work in executable:
            work()
        return (Error.cudaSuccess,)

    def enqueue(self, work: Any) -> None:
        """What a kernel launch does: runs, or is captured."""
        if self._recording is None:
            work()
        else:
            self._recording.append(work)


class Context:
    """`IExecutionContext` of an engine that is an ONNX file."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._profile = 0
        self.device_memory = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self._profile = profile
        return 0 <= profile < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        if not all(low <= n <= high for low, n, high in zip(least, shape, most, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._run()[name].shape

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self._shapes) == {i.name for i in self._engine.session.get_inputs()}
        return 4096

    def execute_async_v3(self, stream: int) -> bool:
        if not self.device_memory or set(self._addresses) != set(self._engine.names):
            return False
        self._engine.cuda.enqueue(self._work)
        return True

    def _work(self) -> None:
        for name, value in self._run(read=True).items():
            ctypes.memmove(self._addresses[name], np.ascontiguousarray(value).ctypes.data, value.nbytes)

    def _run(self, read: bool = False) -> dict[str, np.ndarray]:
        inputs = {}
        for i in self._engine.session.get_inputs():
            value = np.zeros(self._shapes[i.name], self._engine.dtype(i.name))
            if read:
                ctypes.memmove(value.ctypes.data, self._addresses[i.name], value.nbytes)
            inputs[i.name] = value
        outputs = [o.name for o in self._engine.session.get_outputs()]
        return dict(zip(outputs, self._engine.session.run(outputs, inputs), strict=True))


class Engine:
    """`ICudaEngine`: the graph in ONNX Runtime, with the profiles that the real engine was built with."""

    def __init__(self, trt: Any, cuda: Cuda, model: bytes, profiles: list[dict[str, Any]]) -> None:
        self._trt, self.cuda, self._profiles = trt, cuda, profiles
        self.num_optimization_profiles = len(profiles)
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self._ends = {e.name: e for e in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.names = list(self._ends)
        self.num_io_tensors = len(self.names)

    def dtype(self, name: str) -> np.dtype:
        return np.dtype(self._trt.nptype(self.get_tensor_dtype(name)))

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_dtype(self, name: str) -> Any:
        return {"tensor(float)": self._trt.float32, "tensor(uint8)": self._trt.uint8}[self._ends[name].type]

    def get_tensor_mode(self, name: str) -> Any:
        modes = self._trt.TensorIOMode
        return modes.INPUT if name in {i.name for i in self.session.get_inputs()} else modes.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else -1 for d in self._ends[name].shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._profiles[profile][name]]

    def create_execution_context(self, strategy: Any) -> Context:
        assert strategy == self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return Context(self)
