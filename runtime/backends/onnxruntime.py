"""ONNX Runtime, the reference backend."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

from ugicm.runtime.errors import BackendError
from ugicm.runtime.processes import cpus

Run = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]
LEVELS = ("all", "extended", "basic", "disable")
RUN_OPTIONS: ContextVar[Any] = ContextVar("run_options", default=None)  # the library's, of runs in this thread


def _library() -> Any:
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise BackendError(
            "ONNX Runtime is not installed; install it with: pip install 'ugicm[cpu]' (or 'ugicm[gpu]')"
        ) from error


@cache
def _adds_pairs_in_16_bits() -> bool:
    """Whether this CPU is an x86 without AVX-512's VNNI, as numpy sees it. A wrong yes is slow, not wrong."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return False
    for core in ("numpy._core", "numpy.core"):
        with suppress(ImportError, AttributeError):
            return not import_module(f"{core}._multiarray_umath").__cpu_features__.get("AVX512VNNI", False)
    return True


def session_options(level: str = "all", threads: int | None = None) -> Any:
    """Options of `OnnxRuntime` for a session that is exact on every CPU. Raises BackendError: it is not installed."""
    library = _library()
    options = library.SessionOptions()
    options.log_severity_level = 4  # failures are raised
    options.add_session_config_entry("session.load_model_format", "ONNX")  # which is what was checked
    # Without VNNI, uint8 × int8 kernels add pairs of products in 16 bits, which 8-bit weights overflow: use uint8 ×
    # uint8 there. With VNNI they cannot, and on CPUs that have AMX too the other kernels are three times slower.
    if _adds_pairs_in_16_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")
    # Each session has threads of its own: waiting for work, those of one would take the cores from the next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if (number := cpus.threads(threads)) is not None:
        options.intra_op_num_threads = number
    kind = "ORT_DISABLE_ALL" if level == "disable" else f"ORT_ENABLE_{level.upper()}"
    options.graph_optimization_level = getattr(library.GraphOptimizationLevel, kind)
    return options


@dataclass(frozen=True)
class OnnxRuntime:
    """Sessions of one provider."""

    provider: str = "CPUExecutionProvider"  # refused, not replaced, where it is not usable
    threads: int | None = None  # CPU threads of an operator; None is one for each CPU that this process may use
    level: str = "all"  # of graph optimisation, one of `LEVELS`

    @property
    def name(self) -> str:
        return f"onnxruntime ({self.provider.removesuffix('ExecutionProvider')})"

    def options(self) -> Any:
        return session_options(self.level, self.threads)

    def load(self, model: bytes, name: str, weights: Mapping[str, np.ndarray] | None = None) -> Run:
        library = _library()
        if self.provider not in library.get_available_providers():
            raise BackendError(f"this build of ONNX Runtime has no {self.provider}; ask for another backend")
        options = self.options()
        values = {k: library.OrtValue.ortvalue_from_numpy(v) for k, v in (weights or {}).items()}
        if values:
            options.add_external_initializers(list(values), list(values.values()))
        try:
            session = library.InferenceSession(model, options, providers=[self.provider], enable_fallback=0)
            outputs = [o.name for o in session.get_outputs()]
            floats = {i.name for i in session.get_inputs() if i.type == "tensor(float)"}
        except Exception as error:  # the library's exceptions share no base class
            raise BackendError(f"{self.name} cannot load graph {name}: {_reason(error)}") from error
        if self.provider not in session.get_providers():
            raise BackendError(f"{self.provider} was asked for, but ONNX Runtime did not start it for {name}")

        def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
            given = {k: v.astype(np.float32, copy=False) if k in floats else v for k, v in inputs.items()}
            try:
                return list(session.run(outputs, given, RUN_OPTIONS.get()))
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed in graph {name}: {_reason(error)}") from error

        return run


def _reason(error: Exception) -> str:
    """The library's words on one line; where it is memory that lacks, ours."""
    words = " ".join(str(error).split())
    if "allocate memory" in words or "bad_alloc" in words or isinstance(error, MemoryError):
        return "not enough memory; use a smaller image or a machine with more"
    return words[:300] or type(error).__name__


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: import_module("ugicm.runtime.processes.forks").keep())
