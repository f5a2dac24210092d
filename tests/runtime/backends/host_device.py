"""This machine's memory in the place of a GPU's: everything of the GPU path but CUDA's own calls, run for real."""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np

from ugicm.runtime.backends.gpu import dlpack
from ugicm.runtime.backends.gpu.device import LoadedGraph
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.gpu.onnxruntime_cuda import BoundSession


class HostMemory:
    """Memory filled with a pattern, so that what nobody wrote is seen."""

    def __init__(self, nbytes: int) -> None:
        self._bytes = np.full(nbytes, 0xA5, np.uint8)
        self.pointer = self._bytes.ctypes.data

    def used_on(self, stream: int) -> None:
        pass


class HostEvent:
    def record(self) -> None:
        pass

    def synchronise(self) -> None:
        pass


class HostDevice:
    """A `Device` whose copies happen at once; it counts those to the host."""

    dlpack_device = (dlpack.CPU, 0)

    def __init__(self) -> None:
        self.downloads = 0
        self.lock = threading.RLock()
        self._download = np.zeros(0, np.uint8)

    def allocate(self, nbytes: int) -> HostMemory:
        return HostMemory(nbytes)

    def pinned(self, nbytes: int) -> np.ndarray:
        return np.full(nbytes, 0x5A, np.uint8)

    def download(self, nbytes: int) -> np.ndarray:
        self.downloads += 1
        if self._download.size < nbytes:
            self._download = self.pinned(nbytes)
        return self._download

    def event(self) -> HostEvent:
        return HostEvent()

    def copy(self, target: int, source: int, rows: int, width: int, target_pitch: int, source_pitch: int) -> None:
        for row in range(rows):
            ctypes.memmove(target + row * target_pitch, source + row * source_pitch, width)

    def synchronise(self) -> None:
        time.sleep(0)  # another thread's turn, as waiting for a GPU is

    def exclusive(self) -> threading.RLock:
        return self.lock

    def order_before(self, stream: int) -> None:
        raise AssertionError("there are no streams in this machine's memory")


class HostBackend:
    """ONNX Runtime on the CPU through bound buffers, as `OnnxRuntimeCuda` runs it on a GPU."""

    name = "onnxruntime (bound, CPU)"

    def __init__(self, graphs: DeviceGraphs | None = None) -> None:
        self.device = HostDevice()
        self._graphs = graphs

    def load(self, model: bytes, name: str, weights: object = None) -> LoadedGraph:
        if self._graphs is not None:
            model = self._graphs.model(name)

        def session(capture: bool) -> object:
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            options.add_session_config_entry("session.x64quantprecision", "1")
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

        execution = BoundSession(session, self.device, ("cpu", 0), name, capture=False)
        return LoadedGraph(self.device, execution, name)
