"""The networks of a checkpoint in PyTorch, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


class TorchDevice:
    """torch's events in the place of the backends' own."""

    class _Event:
        def __init__(self) -> None:
            import torch

            self.event = torch.cuda.Event(enable_timing=True)

        def record(self) -> None:
            self.event.record()

        def milliseconds_since(self, start: Any) -> float:
            return start.event.elapsed_time(self.event)

    def event(self, timed: bool = True) -> Any:
        return self._Event()

    def synchronise(self) -> None:
        import torch

        torch.cuda.synchronize()


class TorchBackend:
    """The networks of a checkpoint in PyTorch, fp32 or fp16 (channels last), eager or compiled."""

    def __init__(
        self, checkpoint: Path, precision: str, compiled: bool, cpu: bool, sizes: dict[str, tuple[int, int]]
    ) -> None:
        import torch

        from ugicm.export.ugicm import ugicm_source
        from ugicm.training.checkpoint import rebuild

        self._torch, self._half, self._compiled = torch, precision == "fp16", compiled
        self._where = "cpu" if cpu else "cuda"
        if not cpu:
            if not torch.cuda.is_available():
                raise RuntimeError("PyTorch sees no GPU here")
            self.device = TorchDevice()
        elif self._half or compiled:
            raise RuntimeError("only with a GPU")
        torch.backends.cudnn.benchmark = True
        self._model = rebuild(torch.load(checkpoint, weights_only=True))
        source = ugicm_source(self._model)
        self._graphs = source.graphs
        self._inputs: dict[str, dict[str, tuple[Any, ...]]] = {}
        with torch.no_grad():  # before modules move to the GPU: some make the inputs of others
            for size, pixels in sizes.items():
                height, width = (-(-side // source.stride) for side in pixels)
                made = {name: graph.example(height, width, 1) for name, graph in self._graphs.items()}
                z = torch.round(2 * torch.randn(1, source.hyper_channels, height, width))
                self._inputs[size] = {**made, "h_s": (z,)}
        if self._half:
            from ugicm.export.source import ImageInput

            ImageInput.forward = lambda _, image: image.permute(0, 3, 1, 2).half() / 255  # type: ignore[method-assign]

    def load(self, name: str, size: str) -> Callable[[], object]:
        torch = self._torch
        module = self._model.h_s if name == "h_s" else self._graphs[name].module
        module = module.to(self._where)
        values = [v.to(self._where) for v in self._inputs[size][name]]
        if self._half:
            module = module.half().to(memory_format=torch.channels_last)
            values = [v.half() if v.is_floating_point() else v for v in values]
        if self._compiled:
            module = torch.compile(
                module, mode="max-autotune-no-cudagraphs" if self._where == "cpu" else "reduce-overhead"
            )

        def run() -> object:
            with torch.no_grad():
                return module(*values)

        return run

    def close(self) -> None:
        if self._half:
            from ugicm.export.source import ImageInput

            ImageInput.forward = lambda _, image: image.permute(0, 3, 1, 2).float() / 255  # type: ignore[method-assign]
