"""What every run says at its end: which tests could not run here, and why."""

from __future__ import annotations

from collections import Counter

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts skipped tests by reason, and says what no test can show without a GPU."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] if isinstance(report.longrepr, tuple) else "" for report in skipped)
    terminalreporter.write_line(f"{len(skipped)} tests skipped{':' if skipped else ''}")
    for reason, count in sorted(reasons.items()):
        terminalreporter.write_line(f"  {count} × {reason.removeprefix('Skipped: ')}")
    terminalreporter.write_line(gpu_line())


def gpu_line() -> str:
    from runtime.backends.cuda import open_device
    from runtime.errors import BackendError

    try:
        return f"GPU: {open_device().name}"
    except BackendError as error:
        reason = str(error).split(";")[0]
        return f"GPU: none ({reason}); what runs on one was not tested, what builds for one was"
