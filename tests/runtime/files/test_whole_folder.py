"""A bundle's folder is replaced whole or not at all, and nothing that is somebody's goes."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.house import ROOT
from ugicm.runtime.bundle import Bundle
from ugicm.runtime.errors import OutputError
from ugicm.runtime.files import whole_folder
from ugicm.runtime.files.whole_folder import check_replaceable, remove_leftovers, replace_folder

GOLDEN = Path(__file__).parents[2] / "golden" / "v1" / "bundle"
BOTH = {file.name: file.read_bytes() for file in GOLDEN.iterdir()}
OTHER = {**BOTH, "manifest.json": BOTH["manifest.json"].replace(b'"fp32"', b'"int8"')}
WAYS = ("exchange", "two renames")
Tree = dict[str, bytes | None]


def tree(folder: Path) -> Tree:
    """Every name below a folder and what it holds."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def whole(folder: Path) -> str:
    """The precision that a whole bundle names, to tell the two apart."""
    return Bundle.open(folder).manifest.precision


@pytest.fixture(params=WAYS)
def ways(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's exchange of two names, and where there is none."""
    if request.param == "two renames":
        monkeypatch.setattr(whole_folder, "_exchange", lambda *_: False)
    return str(request.param)


def test_a_bundle_is_replaced_by_another_and_nothing_else_is_left(ways: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    replace_folder(folder, BOTH)
    (folder / "engines" / "fp16" / "any").mkdir(parents=True)
    (folder / "engines" / "fp16" / "any" / "g_s.engine").write_bytes(b"x")
    replace_folder(folder, OTHER)
    assert whole(folder) == "int8" and tree(tmp_path) == {"bundle": None} | {
        f"bundle/{name}": data for name, data in OTHER.items()
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a manifest of something else": lambda f: (f / "manifest.json").write_text(
        '{"name": "My extension", "manifest_version": 3}'
    ),
    "a file beside": lambda f: (f / "thesis.txt").write_text("months of work"),
    "a hidden file": lambda f: (f / ".git").write_text("gitdir: x"),
    "a folder beside": lambda f: (f / "src").mkdir(),
    "a link beside": lambda f: (f / "there").symlink_to("/etc"),
    "a folder by a bundle's name": lambda f: ((f / "g_s.onnx").unlink(), (f / "g_s.onnx").mkdir()),
    "a link by a bundle's name": lambda f: ((f / "g_s.onnx").unlink(), (f / "g_s.onnx").symlink_to("/etc/passwd")),
    "a pipe by a bundle's name": lambda f: ((f / "g_s.onnx").unlink(), os.mkfifo(f / "g_s.onnx")),
    "a file called engines": lambda f: (f / "engines").write_text("x"),
    "engines that lie elsewhere": lambda f: (f / "engines").symlink_to("/etc"),
    "no manifest": lambda f: (f / "manifest.json").unlink(),
    "half a manifest": lambda f: (f / "manifest.json").write_bytes(BOTH["manifest.json"][:200]),
    "a manifest that is a link": lambda f: (
        (f / "manifest.json").rename(f / "m"),
        (f / "manifest.json").symlink_to("m"),
    ),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_with_anything_else_is_refused_by_name_and_not_touched(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    replace_folder(folder, BOTH)
    FOREIGN[what](folder)
    before = sorted((p.name, p.lstat().st_mode, p.lstat().st_mtime_ns) for p in folder.iterdir())
    for refused in (lambda: check_replaceable(folder), lambda: replace_folder(folder, OTHER)):
        with pytest.raises(OutputError, match="holds something that is no bundle") as caught:
            refused()
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)
    assert before == sorted((p.name, p.lstat().st_mode, p.lstat().st_mtime_ns) for p in folder.iterdir())
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_what_comes_in_at_the_last_moment_is_kept(ways: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the check and the exchange somebody saves a file in the old bundle."""
    folder = tmp_path / "bundle"
    replace_folder(folder, BOTH)
    swap = whole_folder._swap

    def late(*arguments: Path) -> None:
        (folder / "thesis.txt").write_text("x")
        swap(*arguments)

    monkeypatch.setattr(whole_folder, "_swap", late)
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        replace_folder(folder, OTHER)
    assert tree(tmp_path) == {"bundle": None, "bundle/thesis.txt": b"x"} | {
        f"bundle/{name}": data for name, data in BOTH.items()
    }


def test_a_file_system_that_never_lists_a_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    monkeypatch.setattr(whole_folder, "_foreign", Mock(side_effect=FileNotFoundError))
    with pytest.raises(OutputError, match="changes whenever it is looked at"):
        whole_folder.check_replaceable(tmp_path / "bundle")


def test_a_link_is_followed(ways: str, tmp_path: Path) -> None:
    real, link, ahead = tmp_path / "real", tmp_path / "links" / "link", tmp_path / "links" / "ahead"
    link.parent.mkdir()
    link.symlink_to("../real")
    ahead.symlink_to(tmp_path / "later")
    for contents in (BOTH, OTHER):
        replace_folder(link, contents)
        replace_folder(ahead, contents)
        assert link.is_symlink() and ahead.is_symlink() and not real.is_symlink()
    assert whole(real) == whole(tmp_path / "later") == "int8"
    assert sorted(os.listdir(tmp_path)) == ["later", "links", "real"] and len(os.listdir(link.parent)) == 2


@pytest.mark.parametrize("name", ["file", "pipe", "loop", "n" * 300, "a\0b", "missing/bundle", "file/bundle"])
def test_places_where_no_folder_can_be(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError) as caught:
        replace_folder(tmp_path / name, BOTH)
    assert "\n" not in str(caught.value) and sorted(os.listdir(tmp_path)) == before


def test_a_disk_that_refuses_leaves_the_old_bundle(ways: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bundle"
    replace_folder(folder, BOTH)
    before = tree(tmp_path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="the disk is full"):
        replace_folder(folder, OTHER)
    assert tree(tmp_path) == before


def _kills(work: Callable[[], object]) -> Iterator[int]:
    """Runs `work` in a fork that is killed at its first, second, … call of the system until one comes through.

    Yields the number after each kill, when the fork is gone.
    """
    for number in range(1, 1000):
        child = os.fork()
        if not child:
            left = number

            def count(event: str, _: object) -> None:
                nonlocal left
                if event.split(".")[0] in ("open", "os", "fcntl", "shutil"):
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            work()
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        yield number
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return


@pytest.mark.parametrize("ways", WAYS)
def test_killed_between_any_two_calls_a_whole_bundle_stands(ways: str, tmp_path: Path) -> None:
    """In a process of its own: forks of a suite that holds PyTorch take a third of a second each."""
    program = f"from {__name__} import killed; killed({ways!r}, {str(tmp_path)!r})"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert not done.returncode, done.stderr


def killed(ways: str, place: str) -> None:
    """After each kill a whole bundle stands, and the next run removes what is left.

    Without an exchange of names, the next run puts the old one back first.
    """
    parent = Path(place)
    folder = parent / "bundle"
    foreign = parent / f".ugicm-{'0' * 16}" / "new"
    foreign.mkdir(parents=True)
    (foreign / "thesis.txt").write_text("x")
    os.fsync = lambda _: None
    if ways == "two renames":
        whole_folder._exchange = lambda *_: False
    replace_folder(folder, BOTH)
    ends, kills = set(), 0
    for kills in _kills(lambda: replace_folder(folder, OTHER)):  # noqa: B007
        if ways == "two renames" and not folder.exists():
            ends.add("missing")
            remove_leftovers(parent)
        ends.add(whole(folder))
        replace_folder(folder, BOTH)
        assert whole(folder) == "fp32" and sorted(os.listdir(parent)) == [foreign.parent.name, "bundle"]
        assert os.listdir(foreign) == ["thesis.txt"]
    assert kills > 40 and ends == {"fp32", "int8"} | ({"missing"} if ways == "two renames" else set())


def test_a_living_writers_folder_is_not_taken_for_a_leftover(tmp_path: Path) -> None:
    with whole_folder._workshop(tmp_path) as workshop:
        assert remove_leftovers(tmp_path) == 0 and workshop.is_dir()
    assert not list(tmp_path.iterdir())


def test_three_writers_at_once_and_the_last_ones_stands(
    ways: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    folder = tmp_path / "bundle"
    replace_folder(folder, BOTH)
    failures = []

    def write(contents: dict[str, bytes]) -> None:
        try:
            for _ in range(8):
                replace_folder(folder, contents)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(contents,)) for contents in (BOTH, OTHER, BOTH)]
    for writer in writers:
        writer.start()
    missing = 0
    while any(writer.is_alive() for writer in writers):
        missing += not folder.is_dir()
    assert not failures and whole(folder) in ("fp32", "int8") and [p.name for p in tmp_path.iterdir()] == ["bundle"]
    assert not missing or ways == "two renames"
