"""What every run says at its end: which tests could not run here, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ugicm import Codec


@pytest.fixture(scope="session")
def codec() -> Codec:
    """The shipped codec, on one thread."""
    return Codec.from_bundle(threads=1)


@pytest.fixture(scope="session")
def staged_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a small checkerboard codec with random weights; its bundle, `bundle`, stands beside it."""
    from tests.staged_codecs import save
    from ugicm.export.to_onnx import main as export

    path = save("cheng2020-anchor-checkerboard", tmp_path_factory.mktemp("staged"))
    assert export([str(path), "-o", str(path.with_name("bundle"))]) == 0
    return path


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
