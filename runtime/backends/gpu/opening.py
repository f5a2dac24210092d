"""Opens the backends that run on a GPU."""

from __future__ import annotations

from typing import Any

from ugicm.runtime.backends.gpu.engines import PRECISIONS, DeviceGraphs
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError


def open_gpu(name: str, bundle: Bundle | None, precision: str | None, threads: int | None = None) -> Any:
    """The `Backend` of a name, "onnxruntime-cuda", "webgpu" or a package of TensorRT; see `backends.open_backend`.

    Raises:
        BackendError: no such precision, or its library, driver or device is missing.
    """
    if precision not in (None, *PRECISIONS):
        raise BackendError(f"unknown precision {precision!r}; there is: {', '.join(PRECISIONS)}")
    if name == "webgpu":
        from ugicm.runtime.backends.gpu.webgpu import open_webgpu

        if precision is not None:
            raise BackendError(f"backend {name} runs a bundle as it is; leave the precision out")
        return open_webgpu(bundle, threads)
    if name == "onnxruntime-cuda":
        from ugicm.runtime.backends.gpu.onnxruntime_cuda import OnnxRuntimeCuda

        chosen = None if precision is None or bundle is None else DeviceGraphs.open(bundle, precision)
        return OnnxRuntimeCuda(chosen)
    if bundle is None:
        raise BackendError(f"backend {name} needs a bundle, whose engines it runs")
    from ugicm.runtime.backends.gpu.tensorrt import TensorRT

    return TensorRT(name, DeviceGraphs.open(bundle, precision or "fp16"))
