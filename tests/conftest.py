"""How tests share the machine, what they share with each other, and what every run says at its end."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from tests.once import once
from tests.threads import torchs_threads_kept
from ugicm import Codec
from ugicm.runtime.processes.cpus import processors

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "ORT_INTRA_OP_NUM_THREADS")
MOST = 8  # processes: each takes up to two gigabytes

settings.register_profile("shared machine", deadline=None)  # how long an example takes, its neighbours decide
settings.load_profile("shared machine")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """A process for each CPU where a folder of tests runs; none beside this one for files and tests by name.

    PYTEST_XDIST_AUTO_NUM_WORKERS stays in force.
    """
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    named = [config.invocation_params.dir / argument.split("::")[0] for argument in config.args]
    count = min(processors(), MOST)
    return count if count > 1 and any(path.is_dir() for path in named) else 0


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Before the processes start: each, and what it starts, takes its share of the CPUs."""
    share = str(max(1, processors() // len(specs)))
    for name in THREADS:
        os.environ.setdefault(name, share)


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """What a test does to PyTorch's threads ends with it.

    Two threads in each of two processes on two CPUs wait for each other, and spin while they wait.
    """
    with torchs_threads_kept():
        yield


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this run see, for `once`."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The shipped codec, on one thread."""
    return Codec.from_bundle(threads=1)


@pytest.fixture(scope="session")
def staged_checkpoint(common: Path) -> Path:
    """A checkpoint of a small checkerboard codec with random weights; its bundle, `bundle`, stands beside it."""
    name = "cheng2020-anchor-checkerboard"

    def make(folder: Path) -> None:
        from tests.staged_codecs import save
        from ugicm.export.to_onnx import main as export

        assert export([str(save(name, folder)), "-o", str(folder / "bundle")]) == 0

    return once(common, "staged", make) / f"{name}.pth.tar"


@pytest.fixture(scope="session")
def staged(staged_checkpoint: Path) -> Codec:
    """A small checkerboard codec of CompressAI, on one thread."""
    return Codec.from_bundle(staged_checkpoint.with_name("bundle"), threads=1)


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, (128, 192, 3) uint8."""
    from skimage import data

    return np.ascontiguousarray(data.astronaut()[40:168, 130:322])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts skipped tests by reason, and says what no test can show without a GPU."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] if isinstance(report.longrepr, tuple) else "" for report in skipped)
    terminalreporter.write_line(f"{len(skipped)} tests skipped{':' if skipped else ''}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} × {reason.removeprefix('Skipped: ')}")
    terminalreporter.write_line(gpu_line())


def gpu_line() -> str:
    from ugicm.runtime.backends.gpu.cuda import open_device
    from ugicm.runtime.errors import BackendError

    try:
        return f"GPU: {open_device().name}"
    except BackendError as error:
        reason = str(error).split(";")[0]
        return f"GPU: none ({reason}); what runs on one was not tested, what builds for one was"
