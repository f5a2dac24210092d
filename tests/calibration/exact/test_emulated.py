"""An x86 without VNNI, emulated: uint8 × int8 kernels overflow 16 bits there, and the runtime's sessions do not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.calibration.exact.networks import joined, random_layer
from ugicm.calibration.exact.emit import to_onnx
from ugicm.runtime import exact_reference
from ugicm.runtime.exact import ExactNetwork

EMULATOR = shutil.which("qemu-x86_64")
RUN = """
import sys, numpy, onnxruntime
from ugicm.runtime.backends.onnxruntime import OnnxRuntime
folder = sys.argv[1]
z = {"z": numpy.load(folder + "/z.npy")}
plain = onnxruntime.InferenceSession(folder + "/h_s.onnx", providers=["CPUExecutionProvider"]).run(None, z)
ours = OnnxRuntime(threads=1).load(open(folder + "/h_s.onnx", "rb").read(), "h_s")(z)
numpy.savez(folder + "/out.npz", plain=plain[0], ours=ours[0])
"""


@pytest.mark.skipif(EMULATOR is None, reason="needs qemu-x86_64, of Debian's package qemu-user")
def test_sessions_do_not_saturate_without_vnni(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wide = random_layer(rng, 32, 64, upsample=2, weight_top=127, reach=127)
    head = joined(
        rng,
        random_layer(rng, 64, 40, kernel=3, high=63, weight_top=500),
        random_layer(rng, 64, 40, kernel=3, low=-(2**15), high=2**15 - 1, weight_top=500),
    )
    middle = random_layer(rng, 64, 64, weight_top=127)
    network = ExactNetwork((wide, middle, head), scale_channels=40, mean_channels=40)
    z = rng.choice([-127, 127], (1, 32, 9, 11)).astype(np.float32)
    (tmp_path / "h_s.onnx").write_bytes(to_onnx(network, "qdq").SerializeToString())
    np.save(tmp_path / "z.npy", z)
    command = [str(EMULATOR), "-cpu", "Haswell", sys.executable, "-c", RUN, str(tmp_path)]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3], capture_output=True, timeout=600)
    expected = exact_reference.run(network, z.astype(np.int32))[0]
    with np.load(tmp_path / "out.npz") as found:
        assert np.array_equal(found["ours"], expected)
        assert not np.array_equal(found["plain"], expected), "the trap is gone: so may be the option"
