"""Places that cannot be read or written, and standard streams that take nothing: one line, no work lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.attacks.commands import BUNDLE, FILES
from tests.runtime.many.test_folders import ENVIRONMENT
from ugicm import Codec
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.commands import encode
from ugicm.runtime.commands.cli import main
from ugicm.runtime.errors import BundleError, ImageError, OutputError, UgicError
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.files.output import remove_stale, write_atomically
from ugicm.runtime.many import folders

LONG = "a" * 300
SEVERAL = """
import contextlib, ctypes, io, json, os, sys
from ugicm.runtime.commands.cli import main
libc = ctypes.CDLL(None)  # root without the right to read everything is any other user
if os.geteuid() == 0:
    libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
found = []
for environment, arguments in json.load(sys.stdin):
    os.environ.update(environment)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    found.append((status, errors.getvalue()))
print(json.dumps(found))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, a folder of it, a file and a folder without permission."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "in/a.png"):
        write_image(tmp_path / name, np.full((20, 30, 3), 90, np.uint8))
    shutil.copy(FILES[0], tmp_path / "x.ugic")
    (tmp_path / "shut" / "in").mkdir(parents=True)
    (tmp_path / "shut").chmod(0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_without_permission_and_names_too_long(here: Path) -> None:
    bundle = ["--bundle", str(BUNDLE)]
    cases: list[tuple[dict[str, str], list[str]]] = []
    for bad in ("shut/b", LONG):
        cases += [
            ({}, ["encode", f"{bad}.png", "-o", "a.ugic", *bundle]),
            ({}, ["encode", "in", "-o", bad, *bundle, "--jobs", "1"]),
            ({}, ["encode", "a.png", "-o", f"{bad}.ugic", *bundle]),
            ({}, ["encode", "a.png", "-o", "a.ugic", "--bundle", bad]),
            ({}, ["encode", bad, "-o", "out", *bundle]),
            ({}, ["decode", f"{bad}.ugic", "-o", "b.png", *bundle]),
            ({}, ["decode", "x.ugic", "-o", "b.png", "--bundle", bad]),
            ({}, ["decode", "x.ugic", "-o", f"{bad}/b.png", *bundle]),
            ({}, ["info", f"{bad}.ugic"]),
            ({}, ["info", bad]),
            ({}, ["verify", bad]),
            ({}, ["benchmark", bad]),
            ({}, ["report", "a.png", "-o", f"{bad}/r.html", *bundle]),
            ({"UGICM_BUNDLES": bad}, ["decode", "x.ugic", "-o", "b.png"]),
            ({"UGICM_BUNDLES": ""}, ["web", "-o", f"{bad}/site"]),
        ]
    done = subprocess.run(
        [sys.executable, "-c", SEVERAL], input=json.dumps(cases), env=ENVIRONMENT, capture_output=True, text=True
    )
    (here / "shut").chmod(0o700)
    assert done.returncode == 0, done.stderr[-2000:]
    for (environment, arguments), (status, errors) in zip(cases, json.loads(done.stdout), strict=True):
        bad = "shut" if "shut" in str((environment, arguments)) else LONG[:250]
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(lines) == 1 and (bad in errors or environment), (
            arguments,
            status,
            errors,
        )
        if environment.get("UGICM_BUNDLES"):
            assert environment["UGICM_BUNDLES"] in errors
    assert sorted(os.listdir(here)) in (["a.png", "in", "shut", "x.ugic"], ["a.png", "in", "out", "shut", "x.ugic"])


def test_nul_is_in_no_name(here: Path, codec: Codec, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "a\0.png", "-o", "a.ugic"]) == 2
    assert main(["encode", "a.png", "-o", "a\0.ugic"]) == 2
    assert all("NUL" in line for line in capsys.readouterr().err.splitlines())
    with pytest.raises(ImageError, match="no such file"):
        read_image(Path("a\0.png"))
    with pytest.raises(BundleError, match="not a bundle"):
        Bundle.open("a\0")
    with pytest.raises(OutputError, match="no name of a file"):
        write_atomically(Path("a\0"), b"")
    for outcomes in (codec.decode_many(["a\0"], workers=0), codec.encode_many(["a\0"], workers=0)):
        assert [type(outcome.error).__mro__[-4] for outcome in outcomes] == [UgicError]


@pytest.mark.parametrize(
    ("stream", "words"),
    [(">&-", "it is closed"), (">/dev/full", "No space left"), ("| sleep 0", "Broken pipe"), ("2>&-", ""), ("<&-", "")],
)
def test_streams_that_take_nothing_cost_no_work(here: Path, stream: str, words: str) -> None:
    command = f'"{sys.executable}" -m ugicm encode a.png in/a.png -o out/ --suffix add --bundle "{BUNDLE}"'
    command = command.replace("in/a.png", "a2.png")
    shutil.copy("a.png", "a2.png")
    waiting = "sleep 0.3; " if stream.startswith("|") else ""
    script = f"({waiting}{command}) {stream}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
    assert sorted(os.listdir("out")) == ["a.png.ugic", "a2.png.ugic"]
    errors = done.stderr.splitlines()
    assert done.returncode == (2 if words else 0) and len(errors) == bool(words) and words in done.stderr, done.stderr
    assert not words or errors[0].startswith("error: -: standard output cannot be written: ")


def test_lines_do_not_go_to_files_where_output_is_closed(here: Path) -> None:
    """The next file that a process opens would have the number of the stream that it was started without."""
    script = f'"{sys.executable}" -m ugicm encode in -o out --jobs 1 --bundle "{BUNDLE}" >&- 2>&-'
    subprocess.run(["bash", "-c", script], env=ENVIRONMENT, check=False)
    assert Codec.from_bundle(BUNDLE, threads=1).decode((here / "out/a.ugic").read_bytes()).shape == (20, 30, 3)


def test_a_result_for_a_closed_output_is_an_error(here: Path) -> None:
    for stream in (">&-", ">/dev/full"):
        script = f'"{sys.executable}" -m ugicm encode a.png -o - --bundle "{BUNDLE}" {stream}'
        done = subprocess.run(["bash", "-c", script], env=ENVIRONMENT, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("error: ") == 1 and "Traceback" not in done.stderr


def test_a_pipe_or_link_by_the_name_of_a_leftover_is_left_alone(here: Path) -> None:
    os.mkfifo(here / "in" / ".ugic-0.part")
    (here / "in" / ".ugic-1.part").symlink_to(here / "a.png")
    (here / "in" / ".ugic-2.part").write_bytes(b"of a killed run")
    assert remove_stale(here / "in") == 1
    assert sorted(os.listdir(here / "in")) == [".ugic-0.part", ".ugic-1.part", "a.png"] and (here / "a.png").is_file()


def test_a_pipe_as_a_file_of_many_is_its_own_error(here: Path, codec: Codec) -> None:
    os.mkfifo("pipe.ugic")
    (outcome,) = codec.decode_many(["pipe.ugic"], workers=0)
    assert "not a regular file" in str(outcome.error)


def test_what_vanishes_in_mid_run_is_one_files_failure(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in "bcd":
        shutil.copy("in/a.png", f"in/{name}.png")
    listed, write = folders.find_tasks, encode.write_atomically

    def vanishing(*arguments: Any) -> Any:
        found = listed(*arguments)
        (here / "in" / "b.png").unlink()
        return found

    def writing(path: Path, data: bytes) -> None:
        if path.name == "c.ugic":
            shutil.rmtree(path.parent)
        write(path, data)

    monkeypatch.setattr(folders, "find_tasks", vanishing)
    monkeypatch.setattr(encode, "write_atomically", writing)
    assert main(["encode", "in", "-o", "out", "--jobs", "1", "--bundle", str(BUNDLE)]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2 and "b.png: no such file" in errors[0] and "c.ugic: cannot be written" in errors[1], errors
    assert os.listdir("out") == ["d.ugic"]
