"""The backends under test, opened on the device graphs of a precision."""

from __future__ import annotations

from typing import Any

from ugicm.runtime.backends.gpu.engines import DeviceGraphs


def cuda_exact(graphs: DeviceGraphs | None, tf32: bool) -> Any:
    """The CUDA provider, on the device graph of `h_s` or on the bundle's own."""
    from ugicm.runtime.backends.gpu.onnxruntime_cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda(graphs, capture=False, tf32=tf32)


def open_gpu(kind: str, graphs: dict[str, DeviceGraphs], precision: str, capture: bool = True) -> Any:
    """A GPU backend on the device graphs of a precision."""
    if precision not in graphs:
        raise RuntimeError(f"there are no {precision} device graphs here")
    if kind == "onnxruntime-cuda":
        from ugicm.runtime.backends.gpu.onnxruntime_cuda import OnnxRuntimeCuda

        return OnnxRuntimeCuda(graphs[precision], capture)
    from ugicm.runtime.backends.gpu.tensorrt import TensorRT

    return TensorRT(kind, graphs[precision], capture)
