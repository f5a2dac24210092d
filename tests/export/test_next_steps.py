"""The commands that are printed as the next step can be given to a shell."""

from __future__ import annotations

import shlex
from pathlib import Path

from ugicm.export.to_tensorrt import next_step
from ugicm.runtime.backends.gpu.engines import VARIABLE
from ugicm.runtime.bundle import DEFAULT


def test_engines_elsewhere_and_other_bundles_are_named() -> None:
    plain = next_step(DEFAULT, None, "tensorrt", "fp16")
    assert plain == "ugicm decode FILE.ugic -o OUT.png --backend tensorrt --precision fp16"
    words = shlex.split(next_step(Path("my bundle"), Path("my engines"), "onnxruntime-cuda", "int8"))
    assert words[:3] == [f"{VARIABLE}=my engines", "ugicm", "decode"]
    assert words[words.index("--bundle") + 1] == "my bundle"
