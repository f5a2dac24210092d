"""ONNX Runtime's WebGPU provider: GPUs of any maker, through Vulkan, Metal or Direct3D; SwiftShader emulates one."""

from __future__ import annotations

from typing import Any

from ugicm.runtime.backends.onnxruntime import OnnxRuntime
from ugicm.runtime.backends.providers import WEBGPU, providers
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import BackendError


class WebGpu(OnnxRuntime):
    """Sessions with channels first.

    With channels last, the library's default, a convolution over a neighbourhood of 6, 9, 18, … channels (multiples of
    three that are none of four) into a multiple of four channels comes out wrong: ONNX Runtime 1.27.0.
    """

    def options(self) -> Any:
        options = super().options()
        options.add_session_config_entry("ep.webgpuexecutionprovider.preferredLayout", "NCHW")
        return options


def open_webgpu(bundle: Bundle | None, threads: int | None = None) -> WebGpu:
    """The backend, tried on a graph of the bundle.

    Raises:
        BackendError: this build of ONNX Runtime has no WebGPU, or there is no adapter: no GPU, no driver.
    """
    if WEBGPU not in providers():
        raise BackendError(
            "this build of ONNX Runtime has no WebGPU; in an environment of its own: pip install 'ugicm[webgpu]'"
        )
    backend = WebGpu(WEBGPU, threads)
    if bundle is not None:
        whole = (name for name in bundle.manifest.graphs if not name.endswith(".view"))  # those lack weights
        name = min(whole, key=lambda name: len(bundle.graph(name)[1]))
        backend.load(bundle.graph(name)[1], name)
    return backend
