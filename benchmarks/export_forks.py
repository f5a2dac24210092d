"""Exports in forks of one process that has imported PyTorch and traced every graph once; for `benchmarks.kills`.

Nine tenths of an export of a small checkpoint are spent in PyTorch's exporter, before anything is written. A fork is
handed what that gave before, and does all else anew: reads the checkpoint, makes the tables, compares every graph with
PyTorch, writes.
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch

from ugicm.export import to_onnx
from ugicm.models.entropy import compressai_module


def make_smallest(path: Path, seed: int) -> None:
    """A checkpoint of the fewest graphs: CompressAI's network without a hyperprior, random weights."""
    torch.manual_seed(seed)
    torch.save(compressai_module("models.google").FactorizedPrior(8, 12).state_dict(), path)


def trace_once(checkpoints: Sequence[Path]) -> None:
    """Exports each, and has this process and its forks remember what PyTorch's exporter makes of each graph."""
    torch.set_num_threads(1)  # forks have no threads of this process
    known: dict[tuple[object, ...], Any] = {}
    traced: Callable[..., Any] = torch.onnx.export

    def remembered(module: torch.nn.Module, *arguments: Any, **options: Any) -> Any:
        weights = hashlib.sha256()
        for name, value in sorted(module.state_dict().items()):
            weights.update(name.encode() + value.numpy().tobytes())
        key = weights.digest(), str(module), tuple(options["input_names"]), tuple(options["output_names"])
        if key not in known:
            known[key] = traced(module, *arguments, **options)
        return known[key]

    torch.onnx.export = remembered
    with tempfile.TemporaryDirectory() as folder:
        for i, checkpoint in enumerate(checkpoints):
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                if to_onnx.main([str(checkpoint), "-o", str(Path(folder) / str(i))]):
                    raise SystemExit(f"{checkpoint}: cannot be exported")


class Fork:
    """As much of a `subprocess.Popen` as the benchmark needs: an export of a checkpoint in a fork."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.returncode: int | None = None
        self._said = checkpoint.parent.parent / f"said by {checkpoint.parent.name}"
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                tempfile.tempdir = str(checkpoint.parent)
                with self._said.open("w") as said, redirect_stdout(said), redirect_stderr(said):
                    status = to_onnx.main([str(checkpoint), "-o", str(folder)])
            except BaseException:
                self._said.write_text(traceback.format_exc())
            finally:
                sys.stdout.flush()
                os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        while (code := self.poll()) is None:
            time.sleep(0.001)
        return code

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def words(self) -> str:
        """What it said."""
        return self._said.read_text()
