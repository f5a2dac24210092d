"""Who may import whom, and that the runtime really works without the training stack."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("models", "training", "export", "calibration", "runtime")
MAY_IMPORT = {
    "models": set(),
    "training": {"models", "runtime"},
    "export": {"models", "calibration", "runtime"},
    "calibration": {"runtime"},
    "runtime": set(),
}
FORBIDDEN = {
    "models": {"onnx", "onnxruntime", "constriction"},
    "training": {"compressai", "onnx", "onnxruntime", "constriction"},
    "export": {"compressai"},
    "calibration": {"torch", "compressai"},
    "runtime": {"torch", "compressai", "onnx", "scipy"},
}


def imported(path: Path) -> set[str]:
    """Top-level names of every import in a file, those inside functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_what_they_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        names = imported(path)
        others = names & set(ROOMS) - {room}
        assert others <= MAY_IMPORT[room], f"{path} imports {others - MAY_IMPORT[room]}"
        assert not names & FORBIDDEN[room], f"{path} imports {names & FORBIDDEN[room]}"


def test_only_evaluation_from_bitstreams_lets_training_see_the_runtime() -> None:
    files = [path for path in (ROOT / "training").glob("*.py") if "runtime" in imported(path)]
    assert {path.name for path in files} == {"evaluate.py", "report.py"}


def test_compressai_is_imported_in_one_place() -> None:
    """By name or through importlib: the string "compressai" too stands in one file only."""

    def names_it(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        return "compressai" in texts | imported(path)

    using = [path for room in ROOMS for path in (ROOT / room).rglob("*.py") if names_it(path)]
    assert using == [ROOT / "models" / "entropy.py"]


def test_encodes_and_decodes_where_the_training_stack_cannot_be_imported() -> None:
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "compressai", "onnx", "scipy", "skimage", "models", "training", "export",
                                  "calibration"}:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Refuse())
import numpy as np
from runtime import Codec
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
