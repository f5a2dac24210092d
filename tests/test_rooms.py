"""The laws of the house: who may import whom, and that the runtime really works without the training stack."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import house
from tests.house import ROOT

MAY_IMPORT = {
    "models": set(),
    "training": {"models", "runtime"},
    "export": {"models", "calibration", "runtime"},
    "calibration": {"runtime", "export"},
    "runtime": set(),
    "adapters": {"runtime"},
}
FORBIDDEN = {
    "models": {"onnx", "onnxruntime", "constriction"},
    "training": {"compressai", "onnx", "onnxruntime", "constriction"},
    "export": {"compressai"},
    "calibration": {"torch", "compressai"},
    "runtime": {"torch", "compressai", "onnx", "scipy"},
    "adapters": {"compressai", "onnx", "scipy"},
}


@pytest.mark.parametrize("room", house.ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        names = house.imported(path)
        others = {name.split(".")[1] for name in names if name.startswith("ugicm.")} & set(house.ROOMS) - {room}
        assert others <= MAY_IMPORT[room], f"{path} imports {others - MAY_IMPORT[room]}"
        foreign = {name.split(".")[0] for name in names} & FORBIDDEN[room]
        assert not foreign, f"{path} imports {foreign}"


def test_calibration_sees_of_export_the_forms_of_graphs_alone() -> None:
    for path in (ROOT / "calibration").rglob("*.py"):
        seen = {n for n in house.imported(path) if n.startswith("ugicm.export")}
        assert all(n.startswith("ugicm.export.forms") for n in seen), f"{path} imports {seen}"
    for path in (ROOT / "export" / "forms").rglob("*.py"):
        seen = {n for n in house.imported(path) if n.startswith("ugicm.")}
        assert all(n.startswith(("ugicm.export.forms", "ugicm.runtime")) for n in seen), f"{path} imports {seen}"


def test_training_sees_of_the_runtime_how_pictures_are_read_and_in_evaluation_files() -> None:
    files = [
        path
        for path in (ROOT / "training").rglob("*.py")
        if any(name == "ugicm" or name.startswith("ugicm.runtime") for name in house.imported(path))
    ]
    assert {path.name for path in files} == {"data.py", "evaluate.py", "report.py"}


def test_compressai_is_imported_in_one_place() -> None:
    """By name or through importlib: the string "compressai" too stands in one file only."""
    using = [p for room in house.ROOMS for p in (ROOT / room).rglob("*.py") if "compressai" in house.words(p)]
    assert using == [ROOT / "models" / "entropy.py"]


def test_encodes_and_decodes_where_the_training_stack_cannot_be_imported() -> None:
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "compressai", "onnx", "scipy", "skimage"} or name in {
            f"ugicm.{room}" for room in ("models", "training", "export", "calibration")
        }:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
import numpy as np
from ugicm import Codec
codec = Codec.from_bundle(threads=1)
image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
data = codec.encode(image, quality=2)
assert codec.decode(data, "human").shape == (70, 90, 3)
assert codec.decode(data, 0.3).shape == (70, 90, 3)
assert "torch" not in sys.modules
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "fine", done.stderr
