"""What the installed build of ONNX Runtime lists."""

from __future__ import annotations

from ugicm.runtime.backends.onnxruntime import session_options

WEBGPU = "WebGpuExecutionProvider"


def providers() -> list[str]:
    """Execution providers of the installed build that this project uses, whether or not they start.

    Raises:
        BackendError: ONNX Runtime is not installed.
    """
    session_options()
    from onnxruntime import get_available_providers

    known = ("CPUExecutionProvider", "CUDAExecutionProvider", WEBGPU)
    return [name for name in known if name in get_available_providers()]
