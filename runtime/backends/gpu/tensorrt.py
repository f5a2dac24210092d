"""TensorRT and TensorRT-RTX: engines of a bundle's device graphs, run on one stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ugicm.runtime.backends.gpu.cuda import CudaDevice, open_device
from ugicm.runtime.backends.gpu.device import IMAGES_AT_ONCE, DeviceArray, LoadedGraph, Shape, Tensor
from ugicm.runtime.backends.gpu.engines import DeviceGraphs
from ugicm.runtime.backends.gpu.tensorrt_api import Api, open_api
from ugicm.runtime.errors import BackendError


def capability_here() -> str:
    """The GPU's compute capability as "sm_90", or "any" where there is no GPU."""
    with suppress(BackendError):
        major, minor = open_device().capability
        return f"sm_{major}{minor}"
    return "any"


class TensorRT:
    """Engines of one bundle in one precision; those that are missing or of another kind are built first.

    Args:
        package: "tensorrt" or "tensorrt-rtx".
        graphs: the bundle's device graphs.
        capture: whether to run each size as a captured CUDA graph.

    Raises:
        BackendError: the package, cuda-python or a GPU is missing.
    """

    def __init__(self, package: str, graphs: DeviceGraphs, capture: bool = True) -> None:
        self.api: Api = open_api(package)
        self.device: CudaDevice = open_device()
        self._graphs = graphs
        self._capture = capture
        self._runtime = self.api.module.Runtime(self.api.logger)

    @property
    def name(self) -> str:
        return f"{self.api.name} {self.api.version} ({self._graphs.index.precision})"

    @property
    def images_at_once(self) -> int:
        """Of many files: as many as the CUDA provider takes, where engines do."""
        return min(self._graphs.index.batch, IMAGES_AT_ONCE)

    def load(self, model: bytes, name: str, weights: object = None) -> LoadedGraph:
        """The engine of the device graph of this name; `model`, the bundle's own, is what it was made from.

        Weights are none: on a GPU a condition is an input.
        """
        major, minor = self.device.capability
        loaded: list[Any] = []

        def loads(data: bytes) -> bool:
            self.api.errors.clear()
            engine = self._runtime.deserialize_cuda_engine(data)
            loaded[:] = [] if engine is None else [engine]
            return bool(loaded)

        engine = self._graphs.engine(self.api, name, f"sm_{major}{minor}", usable=loads)
        if engine.built and not loads(engine.data):
            reason = "; ".join(self.api.errors) or "no reason given"
            raise BackendError(f"{self.name} cannot load the engine of {name} that it built: {reason}")
        return LoadedGraph(self.device, Engine(self, loaded[0], name, self._capture), name)


class Engine:
    """An engine as an `Execution`: a context of its own for each size, because captured graphs depend on it."""

    def __init__(self, backend: TensorRT, engine: Any, name: str, capture: bool) -> None:
        self._trt = backend.api.module
        self._errors = backend.api.errors
        self._device = backend.device
        self._engine = engine
        self._name = name
        self._capture = capture
        self.inputs: list[Tensor] = []
        self._outputs: list[tuple[str, np.dtype]] = []
        for i in range(engine.num_io_tensors):
            tensor = engine.get_tensor_name(i)
            dtype = np.dtype(self._trt.nptype(engine.get_tensor_dtype(tensor)))
            if engine.get_tensor_mode(tensor) == self._trt.TensorIOMode.INPUT:
                self.inputs.append(Tensor(tensor, dtype, tuple(engine.get_tensor_shape(tensor))))
            else:
                self._outputs.append((tensor, dtype))

    def bind(
        self, shapes: Mapping[str, Shape], allocate: Callable[[Shape, Any], DeviceArray], inputs: Mapping[str, int]
    ) -> tuple[list[DeviceArray], Callable[[], None]]:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        profile = self._profile(shapes)
        context = self._engine.create_execution_context(strategy)
        if not context.set_optimization_profile_async(profile, self._device.stream):
            raise BackendError(f"graph {self._name}: the engine refuses its profile {profile}")
        for name, shape in shapes.items():
            context.set_input_shape(name, shape)
            context.set_tensor_address(name, inputs[name])
        outputs = []
        for name, dtype in self._outputs:
            output = allocate(tuple(context.get_tensor_shape(name)), dtype)
            context.set_tensor_address(name, output.pointer)
            outputs.append(output)
        scratch = self._device.allocate(max(256, context.update_device_memory_size_for_shapes()))
        context.device_memory = scratch.pointer

        def enqueue() -> None:
            if not context.execute_async_v3(self._device.stream):
                reason = "; ".join(self._errors) or "no reason given"
                raise BackendError(f"TensorRT failed in graph {self._name}: {reason}")

        launch = self._device.captured(enqueue, self._name) if self._capture else enqueue

        def run(held: Any = (context, scratch)) -> None:
            launch()

        return outputs, run

    def _profile(self, shapes: Mapping[str, Shape]) -> int:
        """The first of the engine's profiles that the shapes lie in. Raises BackendError: none."""
        outside = ""
        for profile in range(self._engine.num_optimization_profiles):
            ranges = {name: self._engine.get_tensor_profile_shape(name, profile) for name in shapes}
            for name, (least, _, most) in ranges.items():
                if not all(low <= n <= high for low, n, high in zip(least, shapes[name], most, strict=True)):
                    outside = f"{name} of {shapes[name]} lies outside the engine's {tuple(least)} to {tuple(most)}"
                    break
            else:
                return profile
        raise BackendError(
            f"graph {self._name}: {outside}; build it again with other sizes: "
            "python -m ugicm.export.to_tensorrt --min … --max … --batch …"
        )
