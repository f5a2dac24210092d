"""The common part of the packages `tensorrt` (10, 11) and `tensorrt_rtx`: parsing ONNX and building engines.

Networks are strongly typed: precision is what the graph says. TF32 is off: fp32 is fp32, and the exact path exact.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ugicm.runtime.backends.gpu.device import Tensor
from ugicm.runtime.errors import BackendError

log = logging.getLogger("ugicm.tensorrt")

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
FLAGS = ("strongly typed", "no TF32")
Progress = Callable[[str, int, int], None]
"""Called with a phase's name, its steps so far and their number; the two are equal at its end."""


@dataclass
class Network:
    """A parsed graph, ready to be built. The objects under it live as long as this does."""

    name: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    builder: Any
    definition: Any
    parser: Any


@dataclass
class Api:
    """One of the packages.

    Attributes:
        name: "tensorrt" or "tensorrt-rtx".
        module: the imported package.
        errors: what the library logged as errors since the last call that cleared them.
    """

    name: str
    module: Any
    errors: list[str] = field(default_factory=list)

    @property
    def version(self) -> str:
        return str(self.module.__version__)

    @property
    def logger(self) -> Any:
        if not hasattr(self, "_logger"):
            self._logger = _logger(self.module, self.errors)
        return self._logger

    def parse(self, model: bytes, name: str) -> Network:
        """Parses an ONNX graph into a strongly typed network.

        Raises:
            BackendError: the parser refuses it; the message lists every node at fault.
        """
        trt = self.module
        self.errors.clear()
        builder = trt.Builder(self.logger)
        if builder is None:
            raise BackendError(f"{self.name} {self.version} cannot start: {'; '.join(self.errors)}")
        typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        definition = builder.create_network(0 if typed is None else 1 << int(typed))
        parser = trt.OnnxParser(definition, self.logger)
        if not parser.parse(model):
            reasons = [_describe(parser.get_error(i)) for i in range(parser.num_errors)] or self.errors
            raise BackendError(f"{self.name} {self.version} refuses graph {name}: {'; '.join(reasons)}")
        inputs = [self._tensor(definition.get_input(i)) for i in range(definition.num_inputs)]
        outputs = [self._tensor(definition.get_output(i)) for i in range(definition.num_outputs)]
        return Network(name, inputs, outputs, builder, definition, parser)

    def _tensor(self, tensor: Any) -> Tensor:
        dims = [int(n) if n >= 0 else tensor.get_dimension_name(i) or "?" for i, n in enumerate(tensor.shape)]
        return Tensor(tensor.name, np.dtype(self.module.nptype(tensor.dtype)), tuple(dims))

    def build(
        self,
        network: Network,
        profiles: Sequence[Mapping[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]],
        workspace: int | None = None,
        timing_cache: bytes = b"",
        progress: Progress | None = None,
    ) -> tuple[bytes, bytes]:
        """Builds an engine.

        Args:
            profiles: one or more; for each input its smallest, usual and largest shape.
            workspace: bytes of scratch memory the builder may plan with; None is all there is.
            timing_cache: what an earlier build returned, or nothing.
            progress: told of every step.

        Returns:
            The serialised engine, and the timing cache after it.

        Raises:
            BackendError: the library cannot build it; the message gives its reasons.
        """
        trt = self.module
        self.errors.clear()
        config = network.builder.create_builder_config()
        if hasattr(trt.BuilderFlag, "TF32"):
            config.clear_flag(trt.BuilderFlag.TF32)
        if workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)
        for profile in profiles:
            ranges = network.builder.create_optimization_profile()
            for tensor in network.inputs:
                ranges.set_shape(tensor.name, *profile[tensor.name])
            if config.add_optimization_profile(ranges) < 0:
                raise BackendError(f"{self.name} refuses the sizes of graph {network.name}: {'; '.join(self.errors)}")
        cache = config.create_timing_cache(timing_cache)
        config.set_timing_cache(cache, True)
        if progress is not None:
            monitor = _monitor(trt, progress)  # has to outlive the build
            config.progress_monitor = monitor
        engine = network.builder.build_serialized_network(network.definition, config)
        if engine is None:
            reasons = "; ".join(self.errors) or "no reason given"
            raise BackendError(f"{self.name} {self.version} cannot build graph {network.name}: {reasons}")
        return bytes(engine), bytes(config.get_timing_cache().serialize())


def open_api(name: str) -> Api:
    """The package of a name, "tensorrt" or "tensorrt-rtx".

    Raises:
        BackendError: it is not installed, or does not load.
    """
    import importlib

    try:
        return Api(name, importlib.import_module(MODULES[name]))
    except (ImportError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BackendError(
            f"{MODULES[name]} is not usable ({reason}); install it with: pip install 'ugicm[{name}]'"
        ) from error


def _describe(error: Any) -> str:
    """A parser's error with the node it is about."""
    text = str(error.desc()).strip().splitlines()[0]
    node = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"node {node} ({operator}): {text}" if node else text


def _logger(trt: Any, errors: list[str]) -> Any:
    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            serious = (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
            if severity in serious:
                errors.append(message.strip())
            log.debug("%s", message)

    return Logger()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            progress(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            progress(phase_name, steps, steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step, self._steps.get(phase_name, step))
            return True

    return Monitor()
