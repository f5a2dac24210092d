"""Large arrays are taken from the system once."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import numpy as np
from ugicm.runtime.processes.memory import keep_freed

if sys.argv[1] == "kept":
    keep_freed()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(48 * 2**20, np.uint8)[:1].sum()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
print(faults())
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc alone takes such advice")
def test_freed_memory_serves_the_next_array() -> None:
    counts = {}
    for mode in ("kept", "given back"):
        done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True)
        counts[mode] = int(done.stdout)
    assert counts["kept"] < 5 < counts["given back"]
