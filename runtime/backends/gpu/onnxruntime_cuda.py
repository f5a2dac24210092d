"""ONNX Runtime's CUDA provider with arrays that stay on the GPU: bound buffers, one stream, CUDA graphs."""

from __future__ import annotations

import ctypes
import io
import logging
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

from ugicm.runtime.backends.gpu.cuda import CudaDevice, open_device
from ugicm.runtime.backends.gpu.device import (
    IMAGES_AT_ONCE,
    DeviceArray,
    LoadedGraph,
    Shape,
    Tensor,
    evaluate,
    known_sizes,
)
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.errors import BackendError

log = logging.getLogger("ugicm")

PROVIDER = "CUDAExecutionProvider"
INSTALL = "pip install 'ugicm[gpu]'"
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


class OnnxRuntimeCuda:
    """Sessions of the CUDA provider; refused, not replaced, where it does not start.

    Args:
        graphs: the bundle's device graphs, or None for the graphs of the bundle itself.
        capture: whether to run each size as a captured CUDA graph.
        tf32: whether convolutions may use TF32, those of `h_s` too: for measurements only.

    Raises:
        BackendError: ONNX Runtime, its CUDA provider, a library of CUDA or a GPU is missing; the message says which.
    """

    images_at_once = IMAGES_AT_ONCE

    def __init__(self, graphs: DeviceGraphs | None = None, capture: bool = True, tf32: bool = False) -> None:
        self._library = _library()
        self.device: CudaDevice = open_device()
        self._graphs = graphs
        self._capture = capture
        self._tf32 = tf32

    @property
    def name(self) -> str:
        precision = self._graphs.index.precision if self._graphs else "fp32"
        return f"onnxruntime {self._library.__version__} (CUDA, {precision})"

    def load(self, model: bytes, name: str, weights: object = None) -> LoadedGraph:
        if self._graphs is not None:
            model = self._graphs.model(name)
        execution = BoundSession(
            lambda capture: self._session(model, name, capture), self.device, ("cuda", 0), name, self._capture
        )
        return LoadedGraph(self.device, execution, name)

    def _session(self, model: bytes, name: str, capture: bool) -> Any:
        options = self._library.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised below
        options.add_session_config_entry("session.load_model_format", "ONNX")  # which is what was checked
        settings = {
            "device_id": "0",
            "user_compute_stream": str(self.device.stream),
            "use_tf32": "1" if self._tf32 else "0",
            "enable_cuda_graph": "1" if capture else "0",
            # For `h_s` no search, which may end at Winograd: its operands are transformed, and no longer exact.
            "cudnn_conv_algo_search": "DEFAULT" if name == "h_s" else "EXHAUSTIVE",
        }
        try:
            providers = [(PROVIDER, settings)]
            session = self._library.InferenceSession(model, options, providers=providers, enable_fallback=0)
        except Exception as error:  # the library's exceptions share no base class
            reason = str(error).splitlines()[0]
            raise BackendError(f"{self.name} cannot load graph {name}: {reason}") from error
        if PROVIDER not in session.get_providers():
            raise BackendError(not_started(self._library))
        session.disable_fallback()
        return session


def _library() -> Any:
    """ONNX Runtime with a CUDA provider whose libraries load. Raises BackendError."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendError(f"ONNX Runtime is not installed; install it with: {INSTALL}") from error
    if PROVIDER not in onnxruntime.get_available_providers():
        raise BackendError(
            f"the installed ONNX Runtime {onnxruntime.__version__} has no {PROVIDER}; replace it: "
            f"pip uninstall -y onnxruntime && {INSTALL}"
        )
    if hasattr(onnxruntime, "preload_dlls"):
        with suppress(Exception), redirect_stdout(io.StringIO()):  # what is missing is named below
            onnxruntime.preload_dlls()
    if missing := missing_library(onnxruntime):
        raise BackendError(f"the CUDA provider of ONNX Runtime does not start: {missing}; install it with: {INSTALL}")
    return onnxruntime


def missing_library(onnxruntime: Any) -> str:
    """The library that the loader misses for the CUDA provider, "" where it misses none."""
    folder = Path(onnxruntime.__file__).parent / "capi"
    for name in ("libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"):
        file = folder / name
        if not file.is_file():
            continue  # another system's names; the session says the rest
        try:
            ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            return str(error).splitlines()[0]
    return ""


def not_started(onnxruntime: Any) -> str:
    """The message for a session that fell back to the CPU."""
    reason = missing_library(onnxruntime) or "it gave no reason"
    return f"{PROVIDER} was asked for, but ONNX Runtime did not start it ({reason}); install what it needs: {INSTALL}"


class BoundSession:
    """A session as an `Execution`: inputs and outputs bound to fixed addresses of its device.

    Args:
        make: (whether CUDA graphs are captured) → session.
        device: whose stream the session uses.
        location: (device type, index) as ONNX Runtime has it.
        name: of the graph.
        capture: whether to ask for CUDA graphs; where the library refuses, one logged line says so.
    """

    def __init__(
        self, make: Callable[[bool], Any], device: Any, location: tuple[str, int], name: str, capture: bool
    ) -> None:
        self._make = make
        self._device = device
        self._location = location
        self._name = name
        self._capture = capture
        self._captures = 0
        try:
            self._session = make(capture)
        except BackendError as error:
            if not capture:
                raise
            log.warning("%s runs without a CUDA graph (%s)", name, error)
            self._capture = False
            self._session = make(False)
        self.inputs = [_tensor(value) for value in self._session.get_inputs()]
        self._outputs = [_tensor(value) for value in self._session.get_outputs()]

    def bind(
        self, shapes: Mapping[str, Shape], allocate: Callable[[Shape, Any], DeviceArray], inputs: Mapping[str, int]
    ) -> tuple[list[DeviceArray], Callable[[], None]]:
        outputs = [allocate(shape, t.dtype) for t, shape in zip(self._outputs, self._shapes(shapes), strict=True)]
        binding = self._session.io_binding()
        for tensor in self.inputs:
            binding.bind_input(tensor.name, *self._location, tensor.dtype, shapes[tensor.name], inputs[tensor.name])
        for tensor, output in zip(self._outputs, outputs, strict=True):
            binding.bind_output(tensor.name, *self._location, tensor.dtype, output.shape, output.pointer)
        options = _run_options(self._captures)
        self._captures += 1

        def launch() -> None:
            try:
                self._session.run_with_iobinding(binding, options)
            except Exception as error:
                reason = str(error).splitlines()[0]
                raise BackendError(f"ONNX Runtime failed in graph {self._name}: {reason}") from error

        if self._capture:
            try:
                with self._device.exclusive():
                    for _ in range(2):  # a run as it is, and the one that captures
                        launch()
            except BackendError as error:
                log.warning("%s runs without a CUDA graph (%s)", self._name, error)
                self._capture = False
                self._session = self._make(False)
                return self.bind(shapes, allocate, inputs)
        return outputs, launch

    def _shapes(self, shapes: Mapping[str, Shape]) -> list[Shape]:
        """Of the outputs: from the names of the sizes where the graph has them, else from a run on zeros."""
        sizes = known_sizes([t for t in self.inputs if _named(t)], shapes)
        found = [evaluate(t.dims, sizes) if _named(t) else None for t in self._outputs]
        if any(shape is None for shape in found):
            zeros = {t.name: np.zeros(shapes[t.name], t.dtype) for t in self.inputs}
            found = [array.shape for array in self._make(False).run([t.name for t in self._outputs], zeros)]
        return [shape for shape in found if shape is not None]


def _named(tensor: Tensor) -> bool:
    return all(isinstance(dim, int) or dim for dim in tensor.dims)


def _tensor(value: Any) -> Tensor:
    if value.type not in _TYPES:
        raise BackendError(f"{value.name} is of type {value.type}, which no graph of a bundle has")
    return Tensor(value.name, np.dtype(_TYPES[value.type]), tuple(dim or "" for dim in value.shape))


def _run_options(graph: int) -> Any:
    """No synchronisation at the end of a run; captures told apart by a number."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
