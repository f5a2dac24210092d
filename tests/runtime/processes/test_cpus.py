"""CPUs are what affinity and control groups leave, and threads follow them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ugicm.runtime.errors import UsageError
from ugicm.runtime.processes import cpus, quota

ROOT = Path(__file__).parents[3]


def groups(root: Path, lines: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": lines, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_counts_the_least_of_a_group_and_those_above(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    root = groups(
        tmp_path,
        "0::/a/b\n",
        {
            f"{top}/a/b/cpu.max": "max 100000\n",
            f"{top}/a/cpu.max": "150000 100000\n",
            f"{top}/cpu.max": "800000 100000\n",
        },
    )
    assert quota.quota(root) == 1.5


def test_version_1_and_a_container_that_sees_the_hosts_path(tmp_path: Path) -> None:
    cpu = "sys/fs/cgroup/cpu,cpuacct"
    root = groups(
        tmp_path,
        "5:memory:/docker/1f\n4:cpu,cpuacct:/docker/1f\n1:cpuset:/\n0::/\n",
        {f"{cpu}/cpu.cfs_quota_us": "250000\n", f"{cpu}/cpu.cfs_period_us": "100000\n"},
    )
    assert quota.quota(root) == 2.5
    (root / cpu / "cpu.cfs_quota_us").write_text("-1\n")
    assert quota.quota(root) == math.inf


@given(st.text(max_size=40), st.text(max_size=20))
def test_files_of_another_form_limit_nothing(tmp_path_factory: pytest.TempPathFactory, lines: str, value: str) -> None:
    root = groups(tmp_path_factory.getbasetemp() / "odd", "0::/\n", {"sys/fs/cgroup/cpu.max": "max 100000"})
    (root / "proc/self/cgroup").write_text(lines, "utf-8", "replace")
    (root / "sys/fs/cgroup/cpu.max").write_text(value, "utf-8", "replace")
    assert quota.quota(root) > 0


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert quota.quota(tmp_path) == math.inf


def test_processors_are_the_least_of_affinity_and_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_INTRA_OP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cpus, "machine", lambda: 8)
    for granted, expected in ((math.inf, 6), (2.5, 3), (0.2, 1), (7.0, 6)):
        monkeypatch.setattr(quota, "quota", lambda granted=granted: granted)
        assert cpus.processors() == expected == cpus.threads(None)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(quota, "quota", lambda: math.inf)
    assert cpus.threads(None) is None, "nothing is limited: the library's own choice"
    assert cpus.threads(3) == 3
    monkeypatch.setattr(quota, "quota", lambda: 1.0)
    monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", "2")
    assert cpus.threads(None) is None


def test_where_no_thread_may_start_one_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_INTRA_OP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cpus, "machine", lambda: 8)

    def refused(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    assert cpus.threads(None) == 1 and cpus.threads(4) == 4


@pytest.mark.parametrize("silly", [0, -1, 100_000])
def test_silly_numbers_of_threads_are_refused(silly: int) -> None:
    with pytest.raises(UsageError, match=f"{silly} threads: give 1 to "):
        cpus.threads(silly)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPUs can be taken from a process here")
def test_a_process_bound_to_one_cpu_adds_no_threads() -> None:
    script = (
        "import os, numpy as np; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from ugicm import Codec\n"
        "codec = Codec.from_bundle(); import onnxruntime; before = len(os.listdir('/proc/self/task'))\n"
        "codec.decode(codec.encode(np.zeros((64, 64, 3), np.uint8), 4))\n"
        "import time; time.sleep(0.3)  # a thread that has ended may be listed a moment longer\n"
        "print(len(os.listdir('/proc/self/task')) - before)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_INTRA_OP_NUM_THREADS"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == (0 if cpus.machine() > 1 else pytest.approx(0, abs=1))
