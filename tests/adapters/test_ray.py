"""Folders through a Ray cluster of two nodes: the same bytes as one process makes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.adapters.nodes import two_nodes
from ugicm import Codec
from ugicm.runtime.commands import cli
from ugicm.runtime.errors import QualityError, UsageError

ray = pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="ray") as folder, two_nodes(Path(folder)):
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, photograph: np.ndarray) -> Path:
    """Six pictures of mixed sizes, two of them with names that are no URIs, and two that cannot be coded."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, name in enumerate(
        ("a.png", "b c.jpg", "trip/d#1.png", "trip/e?x=%20.png", "trip/far/ü.webp", "trip/far/g.png")
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph[: 64 + 9 * i, : 90 - 8 * i]).save(folder / name)
    (folder / "bad.png").write_bytes(b"no picture")
    (folder / "empty.png").touch()
    return folder


def made(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows_of(dataset: Any) -> list[dict[str, Any]]:
    return list(dataset.iter_rows())


def test_a_folder_becomes_what_one_process_makes(cluster: None, pictures: Path, tmp_path: Path) -> None:
    from ugicm.adapters.ray import decode_dataset, encode_dataset

    alone, coded = tmp_path / "alone", tmp_path / "coded"
    assert cli.main(["encode", str(pictures), "-o", str(alone), "-q", "2", "--jobs", "1"]) == 2
    rows = rows_of(encode_dataset(pictures, coded, quality=2))  # actors on all CPUs
    assert made(coded) == made(alone) and len(made(coded)) == 6
    assert len(rows) == 8 and sorted(row["path"] for row in rows) == sorted(str(pictures / n) for n in made(pictures))
    failed = {Path(row["path"]).name: row["error"] for row in rows if row["error"]}
    assert set(failed) == {"bad.png", "empty.png"} and "not an image of a known kind" in failed["bad.png"]
    for row in rows:
        if not row["error"]:
            (output,) = row["outputs"]
            assert row["bytes_out"] == os.path.getsize(output) and row["bytes_in"] == os.path.getsize(row["path"])

    assert len(rows_of(encode_dataset(pictures, coded, quality=2))) == 2  # what is left
    (coded / "trip/d#1.ugic").unlink()
    again = [row for row in rows_of(encode_dataset(pictures, coded, quality=2)) if not row["error"]]
    assert [Path(row["path"]).name for row in again] == ["d#1.png"] and made(coded) == made(alone)

    views, both = tmp_path / "views", tmp_path / "both"
    arguments = ["decode", str(alone), "-o", str(views), "-c", "both", "--format", "ppm", "--jobs", "1"]
    assert cli.main(arguments) == 0
    (coded / "bad.ugic").write_bytes(b"UGIC, or so it says")
    rows = rows_of(decode_dataset(coded, both, condition="both", form="ppm"))
    assert made(both) == made(views) and len(made(both)) == 12
    assert [Path(row["path"]).name for row in rows if row["error"]] == ["bad.ugic"]


def test_file_systems_of_pyarrow_are_folders_too(cluster: None, pictures: Path, tmp_path: Path) -> None:
    """`subtree`, whose files are written under another name first, as on any that is neither a disk nor a bucket."""
    from pyarrow import fs

    from ugicm.adapters.ray import encode_dataset

    for folder in ("coded", "alone"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in").symlink_to(pictures)
    there = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    where = {"filesystem": there, "output_filesystem": there}
    rows = rows_of(encode_dataset("in", "coded", quality=1, **where))
    assert cli.main(["encode", str(pictures), "-o", str(tmp_path / "alone"), "-q", "1", "--jobs", "1"]) == 2
    assert made(tmp_path / "coded") == made(tmp_path / "alone") and len(rows) == 8
    assert len(rows_of(encode_dataset("in", "coded", quality=1, **where))) == 2
    uri = (tmp_path / "coded").as_uri()
    assert rows_of(encode_dataset("in", uri, quality=1, filesystem=there)) != []


def test_the_verb_is_the_folder_run_on_a_cluster(cluster: None, pictures: Path, tmp_path: Path) -> None:
    """It starts one by itself, in another process."""
    arguments = ["encode", str(pictures), "-o", str(tmp_path / "out"), "-q", "1", "--jobs", "1", "--ray", "local"]
    done = subprocess.run([sys.executable, "-m", "ugicm", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "bad.png: not an image" in done.stderr and "encoded" in done.stdout
    assert cli.main(["encode", str(pictures), "-o", str(tmp_path / "alone"), "-q", "1", "--jobs", "1"]) == 2
    assert made(tmp_path / "out") == made(tmp_path / "alone")


def test_an_address_where_nothing_answers_is_one_line_at_once(pictures: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        for prefix in ("", "ray://"):
            address = f"{prefix}127.0.0.1:{taken.getsockname()[1]}"
            arguments = ["encode", str(pictures), "-o", str(tmp_path / "out"), "--ray", address]
            done = subprocess.run(
                [sys.executable, "-m", "ugicm", *arguments], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 2 and "Traceback" not in done.stderr
            assert f"error: --ray {address}: nothing answers there (Connection refused); start" in done.stderr


def test_what_cannot_be_is_said_at_once(cluster: None, pictures: Path, tmp_path: Path, codec: Codec) -> None:
    from ugicm.adapters.ray import decode_dataset, encode_dataset

    with pytest.raises(QualityError):
        encode_dataset(pictures, tmp_path, quality=9)
    with pytest.raises(UsageError):
        encode_dataset(tmp_path / "none", tmp_path / "out")
    with pytest.raises(UsageError, match="nowhere://"):
        decode_dataset("nowhere://bucket", tmp_path)
