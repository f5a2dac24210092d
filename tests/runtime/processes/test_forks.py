"""A codec used before a fork, sent to another process, or opened by a name that another folder makes another."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.attacks.commands import BUNDLE, ROOT
from ugicm import Codec

IMAGE = np.add.outer(np.arange(70), np.arange(90))[..., None].repeat(3, 2).astype(np.uint8)
FORKS = """
import os, signal, sys, time
import numpy as np
from ugicm import Codec

codec = Codec.from_bundle(sys.argv[1], threads=int(sys.argv[2]) or None)
data = codec.encode(np.full((128, 128, 3), 90, np.uint8))
for beta in (0.1, 0.2, 0.3, 0.4):
    expected = codec.decode(data, beta)
for child, kind in enumerate(("fifth view", "same view", "untouched", "dropped", "fork of a fork"), 3):
    print(kind, end=" ", flush=True)
    pid = os.fork()
    if not pid:
        if kind == "fifth view":
            codec.decode(data, 0.5)
        elif kind == "same view":
            assert (codec.decode(data, 0.4) == expected).all()
        elif kind == "dropped":
            del codec
        elif kind == "fork of a fork":
            codec.decode(data)
            second = os.fork()
            if second:
                assert os.waitpid(second, 0)[1] == 0
            else:
                codec.decode(data)
                sys.exit()
        sys.stdout.write("said, not flushed ")
        sys.exit(child)
    status, deadline = (0, 0), time.monotonic() + 30
    while status[0] == 0 and time.monotonic() < deadline:
        status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if status[0] == 0:
        os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(status[1]) == child, (kind, status)
print("end")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("threads", [0, 1])
def test_a_fork_decodes_and_ends(threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS, str(BUNDLE), str(threads)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert done.stdout.count("said, not flushed") == 5 and done.stdout.endswith("end\n")


UNDER_WAY = """
import gc, os, sys, time
import numpy as np
from ugicm import Codec

codec = Codec.from_bundle(sys.argv[1], threads=1)
outcomes = codec.decode_many([codec.encode(np.full((64, 64, 3), 90, np.uint8))] * 9, workers=0, ahead=2)
next(outcomes)
time.sleep(0.3)  # what is read ahead is done
for kind in ("dropped", "left"):
    pid = os.fork()
    if not pid:
        if kind == "dropped":
            del outcomes
            gc.collect()
        sys.exit(3)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
print([outcome.error for outcome in outcomes])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_while_files_are_under_way_ends_and_the_parent_goes_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNDER_WAY, str(BUNDLE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"{[None] * 8}\n")


def test_a_codec_is_opened_again_where_it_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLE, tmp_path / "bundle")
    monkeypatch.chdir(tmp_path)
    codec = Codec.from_bundle("bundle", threads=1)
    monkeypatch.chdir("/")
    data = codec.encode(IMAGE)
    expected = codec.decode(data)
    sent = pickle.dumps(codec)
    assert len(sent) < 1000, "the bundle's name travels, not what is in it"
    for again in (pickle.loads(sent), copy.deepcopy(codec)):
        assert again.backend.threads == 1 and again.codec_id == codec.codec_id and again.networks is not codec.networks
        np.testing.assert_array_equal(again.decode(data), expected)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(codec.decode, (data,)), expected)
    assert [outcome.error for outcome in codec.decode_many([data], workers=1)] == [None]
