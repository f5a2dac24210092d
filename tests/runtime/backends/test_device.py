"""The GPU path in this machine's memory: arrays, hand-over, bound graphs, the codec on them."""

from __future__ import annotations

import gc
import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest
import torch

from tests.runtime.backends.host_device import HostBackend, HostDevice
from ugicm import Codec
from ugicm.export.device_graphs import device_graphs
from ugicm.export.to_tensorrt import parse_sizes, write_device_graphs
from ugicm.runtime.backends.gpu import dlpack
from ugicm.runtime.backends.gpu.device import SIZES_KEPT, DeviceArray, LoadedGraph, evaluate, multiple
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.gpu.onnxruntime_cuda import BoundSession
from ugicm.runtime.errors import BackendError


def on_device(array: np.ndarray) -> DeviceArray:
    device = HostDevice()
    memory = device.allocate(array.nbytes)
    device.copy(memory.pointer, np.ascontiguousarray(array).ctypes.data, 1, array.nbytes, 0, 0)
    return DeviceArray(device, memory, array.shape, array.dtype)


IMAGE = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def test_views_copies_and_operators_agree_with_numpy() -> None:
    array = on_device(IMAGE)
    for key in ((slice(3), slice(4)), 2, (slice(1, 4),), (slice(None), slice(2, 6))):
        np.testing.assert_array_equal(np.asarray(array[key]), IMAGE[key])
        kept = array[key].keep()
        np.testing.assert_array_equal(np.asarray(kept), IMAGE[key])
        assert kept.pointer != array[key].pointer
    np.testing.assert_array_equal(np.sqrt(array), np.sqrt(IMAGE))
    np.testing.assert_array_equal(array - np.uint8(1), IMAGE - np.uint8(1))
    np.testing.assert_array_equal(IMAGE + array, IMAGE + IMAGE)
    assert (array.ndim, array.size, array.nbytes, len(array)) == (3, 105, 105, 5)


def test_refuses_what_memory_cannot_be_copied_as() -> None:
    array = on_device(IMAGE)
    with pytest.raises(IndexError, match="step 1"):
        array[::2]
    with pytest.raises(IndexError):
        array[0, 0, 0, 0]
    with pytest.raises(BackendError, match="cannot copy a view"):
        np.asarray(array[:, :, :2])


def test_dlpack_hands_over_without_a_copy_and_keeps_memory_alive() -> None:
    array = on_device(IMAGE)
    view = array[:4, :5]
    tensor = torch.from_dlpack(view)
    assert tensor.data_ptr() == array.pointer
    np.testing.assert_array_equal(tensor.numpy(), IMAGE[:4, :5])
    tensor[0, 0, 0] = 77
    assert np.asarray(array[:])[0, 0, 0] == 77
    alive = len(dlpack._alive)
    del array, view
    gc.collect()
    assert tensor[1, 1, 1] == IMAGE[1, 1, 1]
    del tensor
    gc.collect()
    assert len(dlpack._alive) == alive - 1
    unused = on_device(IMAGE).__dlpack__()
    assert len(dlpack._alive) == alive
    del unused
    gc.collect()
    assert len(dlpack._alive) == alive - 1


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16, np.int32, np.uint8])
def test_dlpack_types(dtype: type) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    np.testing.assert_array_equal(np.from_dlpack(on_device(values)), values)


def test_memory_of_the_host_is_no_cuda_array() -> None:
    assert not hasattr(on_device(IMAGE), "__cuda_array_interface__")


def test_sizes_by_name() -> None:
    assert (multiple("4*h"), multiple("64w"), multiple("n")) == ((4, "h"), (64, "w"), (1, "n"))
    assert evaluate((1, "4*h", "w"), {"h": 3, "w": 5}) == (1, 12, 5)
    assert evaluate(("H",), {"h": 3}) is None
    with pytest.raises(BackendError, match="no multiple"):
        multiple("h//2 + 1")


@pytest.fixture(scope="module", params=["bundle", "fp32", "fp16"])
def device_codec(request: pytest.FixtureRequest, codec: Codec, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """The shipped codec on the host's device: its own graphs, and device graphs."""
    graphs: DeviceGraphs | None = None
    if request.param != "bundle":
        sizes = parse_sizes("64x64", "64x128", "128x192", codec.bundle.manifest.stride)
        made = device_graphs(codec.bundle, request.param)
        root = tmp_path_factory.mktemp("engines")
        graphs = write_device_graphs(codec.bundle, made, request.param, sizes, None, root)
    return Codec(codec.bundle, HostBackend(graphs))


def test_the_codec_on_a_device_decodes_the_same(
    codec: Codec, device_codec: Codec, photograph: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        data = codec.encode(photograph[:100, :150], quality=5)
        expected = codec.decode_views(data, ["human", 0.4, "machine"])
        found = device_codec.decode_views(data, ["human", 0.4, "machine"])
    assert not caplog.records  # admitted for the exact path
    for a, b in zip(expected, found, strict=True):
        assert isinstance(b, np.ndarray) and b.shape == (100, 150, 3)
        assert np.abs(a.astype(int) - b).max() <= 3
    assert np.abs(found[0].astype(int) - found[2]).max() > 3  # the views were not written over one another


def test_files_of_a_device_decode_on_the_reference(codec: Codec, device_codec: Codec, photograph: np.ndarray) -> None:
    data = device_codec.encode(photograph[:70, :90], quality=3)
    np.testing.assert_allclose(codec.decode(data).astype(int), device_codec.decode(data).astype(int), atol=3)


def test_images_stay_on_the_device(codec: Codec, device_codec: Codec, photograph: np.ndarray) -> None:
    first, second = codec.encode(photograph[:100, :150]), codec.encode(photograph[28:, 42:])
    before = device_codec.decode(first)
    kept = device_codec.decode(first, device="cuda")
    downloads = device_codec.backend.device.downloads
    device_codec.decode(second, device="cuda")
    assert device_codec.backend.device.downloads == downloads + 1  # the scale indexes alone come to the host
    assert isinstance(kept, DeviceArray)
    np.testing.assert_array_equal(torch.from_dlpack(kept).numpy(), before)


def test_a_device_is_refused_where_there_is_none(codec: Codec, photograph: np.ndarray) -> None:
    data = codec.encode(photograph[:64, :64])
    with pytest.raises(BackendError, match="backend='onnxruntime-cuda'"):
        codec.decode(data, device="cuda")
    with pytest.raises(BackendError, match="unknown device 'tpu'"):
        codec.decode(data, device="tpu")


def test_buffers_are_bound_once_a_size_and_the_oldest_go(device_codec: Codec) -> None:
    bundle = device_codec.bundle
    graph = device_codec.backend.load(bundle.graph("h_s")[1], "h_s")
    assert isinstance(graph, LoadedGraph)
    channels = bundle.manifest.hyper_channels

    def run(width: int) -> tuple[int, np.ndarray]:
        index, _ = graph({"z": np.ones((1, channels, 1, width), np.float32)})
        return index.pointer, np.asarray(index).copy()  # type: ignore[attr-defined]

    pointer, values = run(1)
    assert run(1)[0] == pointer
    for width in range(2, SIZES_KEPT + 2):
        run(width)
    assert len(graph._bound) == SIZES_KEPT
    np.testing.assert_array_equal(run(1)[1], values)


def test_symbols_beyond_16_bits_saturate(device_codec: Codec) -> None:
    m = device_codec.bundle.manifest
    shape = (1, m.latent_channels, 4, 4)
    zeros = np.zeros(shape, np.float32)
    anchor = np.ones((1, 1, 4, 4), np.float32)
    far = np.full(shape, -(2**31), np.int32)
    found = np.asarray(device_codec.networks.run("context", symbols=far, mean=zeros, anchor=anchor))
    limit = -(2.0**31) if device_codec.backend._graphs is None else -(2.0**15)
    np.testing.assert_array_equal(found, np.full(shape, limit, np.float32))
    values = np.linspace(-(2**15), 2**15 - 1, int(np.prod(shape))).astype(np.int32).reshape(shape)
    found = np.asarray(device_codec.networks.run("context", symbols=values, mean=zeros, anchor=anchor))
    np.testing.assert_array_equal(found, values)


def test_other_threads_may_fetch_images_while_one_decodes(
    codec: Codec, device_codec: Codec, photograph: np.ndarray
) -> None:
    """All copies to the host pass through one buffer: a thread must not find another's bytes in it."""
    data = codec.encode(photograph[:100, :150])
    expected = device_codec.decode(data)
    kept = [device_codec.decode(data, device="cuda") for _ in range(30)]
    with ThreadPoolExecutor(3) as pool:
        fetched = pool.map(np.asarray, kept)
        for _ in range(5):
            np.testing.assert_array_equal(device_codec.decode(data), expected)
        for image in fetched:
            np.testing.assert_array_equal(image, expected)


def test_a_session_that_cannot_capture_runs_without(codec: Codec, caplog: pytest.LogCaptureFixture) -> None:
    made: list[bool] = []
    host = HostBackend()
    model = codec.bundle.graph("condition")[1]

    def make(capture: bool) -> object:
        made.append(capture)
        if capture:
            raise BackendError("not all nodes are on the GPU")
        return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    with caplog.at_level(logging.WARNING):
        session = BoundSession(make, host.device, ("cpu", 0), "condition", capture=True)
    assert made == [True, False] and "runs without a CUDA graph" in caplog.text
    graph = LoadedGraph(host.device, session, "condition")
    expected = codec.networks.run("condition", beta=np.asarray([0.5], np.float32))
    np.testing.assert_array_equal(np.asarray(graph({"beta": np.asarray([0.5], np.float32)})[0]), expected)
    assert made == [True, False]
