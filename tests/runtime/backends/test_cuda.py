"""CUDA and TensorRT code against stand-ins for the libraries: what is called, in which order, with what."""

from __future__ import annotations

import gc
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.backends.stand_ins import Context, Cuda, Engine
from ugicm import Codec
from ugicm.export.device_graphs import device_graphs
from ugicm.export.to_tensorrt import parse_sizes, write_device_graphs
from ugicm.runtime.backends.gpu import cuda, tensorrt
from ugicm.runtime.backends.gpu.device import LoadedGraph
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.errors import BackendError
from ugicm.runtime.many.together import decode_together


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cuda]:
    stand_in = Cuda()
    monkeypatch.setattr(cuda, "_library", lambda: stand_in)
    cuda.open_device.cache_clear()
    yield stand_in
    gc.collect()
    cuda.open_device.cache_clear()


def test_the_stand_in_has_the_names_of_the_library() -> None:
    real = pytest.importorskip("cuda.bindings.runtime", reason="cuda-python is not installed")
    names = [name for name in dir(Cuda) if name.startswith("cuda")]
    assert not [name for name in names if not hasattr(real, name)]
    for kind in ("cudaMemcpyKind", "cudaStreamCaptureMode", "cudaDeviceAttr", "cudaMemPoolAttr"):
        assert not [name for name in vars(getattr(Cuda, kind)) if not hasattr(getattr(real, kind), name)]
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    for stand_in, real in ((Context, trt.IExecutionContext), (Engine, trt.ICudaEngine)):
        names = [name for name in vars(stand_in) if not name.startswith("_") and name != "dtype"]
        assert not [name for name in names if not hasattr(real, name)]


def test_memory_is_freed_after_its_readers_and_not_while_work_is_captured(library: Cuda) -> None:
    device = cuda.open_device()
    assert device.capability == (9, 0) and device.name == "stand-in"
    memory = device.allocate(100)
    memory.used_on(1)
    done: list[int] = []

    held = [memory]
    del memory
    calls: list[int] = []

    def enqueue() -> None:
        calls.append(1)
        if len(calls) == 2:  # the one that is captured
            held.clear()
            gc.collect()
        library.enqueue(lambda: done.append(1))

    in_use = device.memory_in_use()
    replay = device.captured(enqueue, "test")
    assert library.freed == 1 and device.memory_in_use() == in_use - 100
    assert any(stream == device.stream for stream, _ in library.waits)  # for what reads it on the default stream
    assert done == [1]
    replay()
    assert done == [1, 1] and library.launches == 1


def test_what_cannot_be_captured_runs_as_it_is(library: Cuda, caplog: pytest.LogCaptureFixture) -> None:
    device = cuda.open_device()
    runs: list[int] = []

    def enqueue() -> None:
        device.synchronise()  # which a capture refuses
        runs.append(1)

    with caplog.at_level(logging.WARNING):
        replay = device.captured(enqueue, "odd")
    replay()
    assert len(runs) == 2 and library.launches == 0
    assert "odd runs without a CUDA graph (CUDA failed in cudaStreamSynchronize" in caplog.text


def test_pinned_memory_lives_as_long_as_its_views(library: Cuda) -> None:
    device = cuda.open_device()
    view = device.pinned(64)[10:20].view(np.int16)
    view[:] = 7
    gc.collect()
    assert library.blocks and (view == 7).all()
    del view
    gc.collect()
    assert not library.blocks


class Trt:
    """The real package with the stand-in's runtime."""

    def __init__(self, real: Any, library: Cuda, graphs: DeviceGraphs) -> None:
        self._real, self._library, self._graphs = real, library, graphs
        self.refused: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def Runtime(self, logger: Any) -> Any:  # noqa: N802
        return self

    def deserialize_cuda_engine(self, data: bytes) -> Engine | None:
        """The engine whose bytes these are, found by its sidecar's SHA-256, as its graph."""
        for file in self._graphs.folder.glob("*/*.engine"):
            if file.read_bytes() == data and file.stem not in self.refused:
                key = json.loads(file.with_suffix(".json").read_text())["key"]
                profiles = [profile for profile in (key["profile"], key["batches"]) if profile]
                return Engine(self._real, self._library, self._graphs.model(file.stem), profiles)
        return None


@pytest.fixture
def graphs(codec: Codec, tmp_path: Path) -> DeviceGraphs:
    sizes = parse_sizes("64x64", "64x128", "128x192", codec.bundle.manifest.stride)
    made = device_graphs(codec.bundle, "fp32")
    return write_device_graphs(codec.bundle, made, "fp32", sizes, None, tmp_path, batch=4)


@pytest.fixture
def trt(library: Cuda, graphs: DeviceGraphs, monkeypatch: pytest.MonkeyPatch) -> Trt:
    real = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    module = Trt(real, library, graphs)
    opened = tensorrt.open_api("tensorrt-rtx")
    opened.module = module
    monkeypatch.setattr(tensorrt, "open_api", lambda name: opened)
    return module


def test_the_codec_on_tensorrt(
    codec: Codec,
    library: Cuda,
    trt: Trt,
    graphs: DeviceGraphs,
    photograph: np.ndarray,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with caplog.at_level(logging.WARNING):
        backend = tensorrt.TensorRT("tensorrt-rtx", graphs)
        on_gpu = Codec(codec.bundle, backend)
        image = photograph[:100, :150]
        data = codec.encode(image, quality=5)
        for _ in range(2):
            expected, found = codec.decode(data, "machine"), on_gpu.decode(data, "machine")
            assert np.abs(expected.astype(int) - found).max() <= 1
            stayed = on_gpu.decode(data, "machine", device="cuda")
            assert stayed.__dlpack_device__() == (2, 0)  # type: ignore[attr-defined]
            assert stayed.__cuda_array_interface__["shape"] == (100, 150, 3)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(np.asarray(stayed), found)
        assert np.abs(codec.decode(on_gpu.encode(image, quality=5)).astype(int) - codec.decode(data)).max() <= 1
    assert not [r for r in caplog.records if "not admitted" in r.message or "without a CUDA graph" in r.message]
    assert library.launches > 10  # every run but the first of a size is a replay
    with pytest.raises(BackendError, match=r"lies outside the engine's .*--min … --max"):
        on_gpu.encode(np.zeros((200, 64, 3), np.uint8))

    # Batches: three go as two and one, more than engines take one by one.
    alike = [codec.encode(np.roll(image, 9 * i, 1), quality=5) for i in range(3)]
    sizes: list[int] = []
    run = LoadedGraph.__call__

    def recorded(graph: LoadedGraph, inputs: dict[str, Any]) -> Any:
        sizes.append(max(map(len, inputs.values())))
        return run(graph, inputs)

    monkeypatch.setattr(LoadedGraph, "__call__", recorded)
    assert backend.images_at_once == 4
    for most, expected_sizes in ((4, {1, 2}), (1, {1})):
        sizes.clear()
        together = decode_together(on_gpu, alike, ["machine"], most, "UGIC")
        assert set(sizes) == expected_sizes
        for file, views in zip(alike, together, strict=True):
            assert np.abs(codec.decode(file, "machine").astype(int) - views[0]).max() <= 1  # type: ignore[index]
    engine = backend.load(codec.bundle.graph("h_s")[1], "h_s")
    with pytest.raises(BackendError, match=r"z of \(5, 64, 1, 1\) lies outside .*--batch"):
        engine({"z": np.zeros((5, 64, 1, 1), np.float32)})
    del backend, on_gpu, stayed, engine


def test_an_engine_that_does_not_load_is_rebuilt_and_one_that_never_does_is_an_error(
    trt: Trt, graphs: DeviceGraphs, codec: Codec, caplog: pytest.LogCaptureFixture
) -> None:
    backend = tensorrt.TensorRT("tensorrt-rtx", graphs)
    model = codec.bundle.graph("condition")[1]
    backend.load(model, "condition")
    trt.refused.append("condition")
    with caplog.at_level(logging.WARNING), pytest.raises(BackendError, match="cannot load the engine of condition"):
        backend.load(model, "condition")
    assert "does not load here" in caplog.text
