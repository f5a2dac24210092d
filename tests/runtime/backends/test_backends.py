"""Backends by name: what is asked for and missing is refused by name, never replaced; on a GPU, what it gives."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ugicm import Codec
from ugicm.export.device_graphs import device_graphs
from ugicm.export.to_tensorrt import parse_sizes, write_device_graphs
from ugicm.runtime.admission import graph_runner, reproduces
from ugicm.runtime.backends import NAMES, open_backend
from ugicm.runtime.backends.gpu import cuda, onnxruntime_cuda, tensorrt_api
from ugicm.runtime.backends.gpu.cuda import CudaDevice, open_device
from ugicm.runtime.backends.gpu.engines import VARIABLE
from ugicm.runtime.errors import BackendError


def reason_for_no_gpu() -> str:
    try:
        open_device()
    except BackendError as error:
        return f"needs an NVIDIA GPU: {str(error).split(';')[0]}"
    return ""


NO_GPU = reason_for_no_gpu()
needs_gpu = pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU)


def test_unknown_names_are_refused(codec: Codec) -> None:
    with pytest.raises(BackendError, match="unknown backend 'openvino'; there is: onnxruntime,"):
        open_backend("openvino")
    with pytest.raises(BackendError, match="unknown precision 'fp4'"):
        open_backend("onnxruntime-cuda", precision="fp4")
    with pytest.raises(BackendError, match="a precision is for onnxruntime-cuda"):
        open_backend("onnxruntime", precision="fp16")
    with pytest.raises(BackendError, match="needs a bundle"):
        open_backend("tensorrt-rtx")


@pytest.mark.skipif(not NO_GPU, reason="only where there is no GPU")
@pytest.mark.parametrize("name", NAMES[1:])
def test_no_gpu_backend_falls_back_to_the_cpu(
    codec: Codec, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    with pytest.raises(BackendError, match="pip install|no usable NVIDIA GPU|ugicm.export.to_tensorrt"):
        Codec.from_bundle(backend=name, precision=None if name == "webgpu" else "fp16")


@pytest.mark.parametrize(
    ("blocked", "name", "message"),
    [
        ("onnxruntime", "onnxruntime-cuda", "pip install 'ugicm[gpu]'"),
        ("tensorrt_rtx", "tensorrt-rtx", "pip install 'ugicm[tensorrt-rtx]'"),
        ("tensorrt", "tensorrt", "pip install 'ugicm[tensorrt]'"),
        ("cuda", "cuda", "pip install 'ugicm[gpu]'"),
    ],
)
def test_a_missing_library_is_named_with_its_command(blocked: str, name: str, message: str) -> None:
    script = f"""
import sys
sys.modules[{blocked!r}] = None
from ugicm.runtime.errors import BackendError
try:
    if {name!r} == "cuda":
        from ugicm.runtime.backends.gpu.cuda import open_device
        open_device()
    elif {name!r} == "onnxruntime-cuda":
        from ugicm.runtime.backends import open_backend
        open_backend({name!r})
    else:
        from ugicm.runtime.backends.gpu.tensorrt_api import open_api
        open_api({name!r})
except BackendError as error:
    print(error)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert message in done.stdout and len(done.stdout.splitlines()) == 1, done.stderr


def test_a_provider_that_does_not_start_is_told_from_one_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    if onnxruntime_cuda.PROVIDER not in onnxruntime.get_available_providers():
        with pytest.raises(BackendError, match="pip uninstall -y onnxruntime && pip install"):
            onnxruntime_cuda._library()
    elif NO_GPU:
        with pytest.raises(BackendError, match="does not start|no usable NVIDIA GPU"):
            onnxruntime_cuda.OnnxRuntimeCuda()


def test_the_loader_names_the_library_that_the_provider_lacks(tmp_path: Path) -> None:
    """A real shared object that needs one that does not exist."""
    capi = tmp_path / "capi"
    capi.mkdir()
    fake = SimpleNamespace(__file__=str(tmp_path / "__init__.py"), __version__="1")
    assert onnxruntime_cuda.missing_library(fake) == ""
    (capi / "libonnxruntime_providers_cuda.so").write_bytes(b"\x7fELF not quite")
    assert "libonnxruntime_providers_cuda.so" in onnxruntime_cuda.missing_library(fake)


@pytest.mark.skipif(not NO_GPU, reason="only where there is no GPU")
def test_cuda_takes_the_arguments_of_every_call() -> None:
    """Without a driver each call fails in the driver, after cuda-python has checked names and types."""
    pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")
    library = cuda._library()
    calls = [
        ("cudaMallocAsync", 8, 0),
        ("cudaFreeAsync", 0, 0),
        ("cudaHostAlloc", 8, library.cudaHostAllocDefault),
        ("cudaFreeHost", 0),
        ("cudaEventCreateWithFlags", library.cudaEventDisableTiming),
        ("cudaEventRecord", 0, 0),
        ("cudaEventSynchronize", 0),
        ("cudaEventElapsedTime", 0, 0),
        ("cudaStreamWaitEvent", 0, 0, 0),
        ("cudaStreamCreateWithFlags", library.cudaStreamNonBlocking),
        ("cudaStreamSynchronize", 0),
        ("cudaMemcpyAsync", 1, 2, 3, library.cudaMemcpyKind.cudaMemcpyDefault, 0),
        ("cudaMemcpy2DAsync", 1, 4, 2, 4, 3, 2, library.cudaMemcpyKind.cudaMemcpyDefault, 0),
        ("cudaStreamBeginCapture", 0, library.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
        ("cudaStreamEndCapture", 0),
        ("cudaGraphInstantiate", 0, 0),
        ("cudaGraphLaunch", 0, 0),
        ("cudaMemGetInfo",),
        ("cudaGetDeviceProperties", 0),
    ]
    for name, *arguments in calls:
        with pytest.raises(BackendError, match=f"CUDA failed in {name}: "):
            cuda.call(name, *arguments)
    with pytest.raises(BackendError):
        CudaDevice()


def test_backends_load_nothing_until_they_are_asked_for() -> None:
    script = (
        "import sys, ugicm.runtime.codec\n"
        "from ugicm.runtime.backends.gpu import engines, onnxruntime_cuda, tensorrt\n"
        "print(sorted({'cuda', 'tensorrt', 'tensorrt_rtx', 'onnxruntime', 'onnx', 'torch'} & set(sys.modules)))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
    assert set(tensorrt_api.MODULES) == {name for name in NAMES if name.startswith("tensorrt")}


@needs_gpu
@pytest.mark.parametrize("name", [name for name in NAMES[1:] if name != "webgpu"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_files_decode_the_same_and_the_exact_path_is_exact(
    codec: Codec, name: str, precision: str, photograph: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    sizes = parse_sizes("64x64", "64x128", "512x768", codec.bundle.manifest.stride)
    root = tmp_path / os.fspath(codec.bundle.manifest.codec_id)
    made = device_graphs(codec.bundle, precision)
    write_device_graphs(codec.bundle, made, precision, sizes, None, root)
    try:
        backend = open_backend(name, bundle=codec.bundle, precision=precision)
    except BackendError as error:
        pytest.skip(f"needs {name}: {error}")
    assert reproduces(codec.bundle, graph_runner(codec.bundle, backend))
    on_gpu = Codec(codec.bundle, backend)
    data = codec.encode(photograph, quality=5)
    for condition in ("human", "machine"):
        expected = codec.decode(data, condition).astype(int)
        assert np.abs(on_gpu.decode(data, condition) - expected).max() <= 4
        stayed = on_gpu.decode(data, condition, device="cuda")
        assert np.abs(np.asarray(stayed) - expected).max() <= 4
    codec.decode(on_gpu.encode(photograph))
