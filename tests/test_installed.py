"""The wheel in an environment of its own, used in a folder whose packages have the names of our rooms."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.house import ROOMS, ROOT
from tests.small import lively
from tests.staged_codecs import save as save_foreign
from ugicm.training.checkpoint import save, weights_of

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # it may hold a checkout
THEIRS = (*ROOMS, "utils", "tests", "benchmarks")
_LEFT_OUT = shutil.ignore_patterns(".git", ".venv*", "build", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with the wheel in it; what the wheel requires is found in this one."""
    work = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, work / "source", ignore=_LEFT_OUT)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", work]
    subprocess.run([*build, work / "source"], check=True, capture_output=True, env=ENVIRONMENT)
    (wheel,) = work.glob("*.whl")
    venv.create(work / "env", with_pip=False)
    python = work / "env" / "bin" / "python"
    into = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel]
    subprocess.run(into, check=True, capture_output=True, env=ENVIRONMENT)
    (site,) = (work / "env" / "lib").glob("python*/site-packages")
    (site / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A researcher's repository: packages of its own, a picture, a checkpoint."""
    for name in THEIRS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('this package is somebody else\\'s')\n")
    Image.fromarray(np.full((70, 90, 3), 99, np.uint8)).save(tmp_path / "photo.png")
    save(tmp_path / "checkpoint.pt", weights_of(lively("fast")))
    return tmp_path


def run(folder: Path, *command: str | Path) -> str:
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_works_beside_packages_of_the_same_names(python: Path, folder: Path) -> None:
    ugicm = python.with_name("ugicm")
    run(folder, ugicm, "encode", "photo.png", "-o", "photo.ugic")
    run(folder, ugicm, "decode", "photo.ugic", "-o", "decoded.png", "--condition", "machine")
    assert Image.open(folder / "decoded.png").size == (90, 70)
    assert "admitted" in run(folder, ugicm, "verify")
    assert "success" in run(folder, ugicm, "export", "checkpoint.pt", "--part", "encoder")
    run(folder, ugicm, "encode", "photo.png", "-o", "small.ugic", "--bundle", "checkpoint")
    where = run(folder, python, "-c", "from ugicm import Codec; print(Codec.from_bundle().qualities, Codec.__module__)")
    assert where.split() == ["8", "ugicm.runtime.codec"]
    assert "usage: ugicm" in run(folder, python, "-m", "ugicm", "--help")


def test_export_goes_by_its_old_name_too(python: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a network of two graphs, in little time."""
    empty = tmp_path_factory.mktemp("empty")
    checkpoint = save_foreign("bmshj2018-factorized-relu:4,6", folder)
    assert "success" in run(empty, python, "-m", "export.to_onnx", checkpoint, "-o", "bundle")
    assert (empty / "bundle" / "manifest.json").is_file()


def test_nothing_is_installed_but_the_package_and_that_name(python: Path) -> None:
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    names = {path.name for path in site.iterdir() if not path.name.endswith((".dist-info", ".pth"))}
    assert names == {"ugicm", "export"}
    assert sorted(p.name for p in (site / "export").glob("*.py")) == ["__init__.py", "to_onnx.py"]
