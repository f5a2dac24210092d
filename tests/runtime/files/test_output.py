"""Outputs: names that never collide, writes that happen whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ugicm.runtime.errors import OutputError, UsageError
from ugicm.runtime.files.output import make_folder, output_folder, output_names, write_atomically


def test_one_input_gives_a_file_several_a_folder(tmp_path: Path) -> None:
    one, two = Path("a/one.png"), Path("b/two.tar.png")
    new = str(tmp_path / "new")
    assert output_names([one], new + ".ugic", ".ugic") == [(Path(new + ".ugic"),)]
    assert output_names([one], new + "/", ".ugic") == [(Path(new) / "one.ugic",)]
    assert output_names([one], str(tmp_path), ".ugic") == [(tmp_path / "one.ugic",)]
    assert output_names([one, two], new, ".ugic") == [
        (Path(new) / "one.ugic",),
        (Path(new) / "two.tar.ugic",),
    ]
    assert output_folder([one], new) is None and output_folder([one, two], new) == Path(new)
    assert not Path(new).exists()


def test_labels_go_before_the_suffix(tmp_path: Path) -> None:
    labels = ("human", "machine")
    file = tmp_path / "view.v2.jpg"
    assert output_names([Path("x.ugic")], str(file), ".png", labels) == [
        (tmp_path / "view.v2.human.jpg", tmp_path / "view.v2.machine.jpg")
    ]
    assert output_names([Path("x.ugic")], str(tmp_path), ".png", labels) == [
        (tmp_path / "x.human.png", tmp_path / "x.machine.png")
    ]


def test_no_output_is_shared_or_replaces_an_input(tmp_path: Path) -> None:
    out = str(tmp_path)
    for inputs in (["a/x.png", "b/x.png"], ["x.png", "x.jpg"], ["x.png", "x.png"]):
        with pytest.raises(UsageError, match="would both be written to"):
            output_names([Path(name) for name in inputs], out, ".ugic")
    photograph = tmp_path / "photo.png"
    photograph.touch()
    link = tmp_path / "link.png"
    link.symlink_to(photograph)
    for name in (photograph, link, tmp_path / "." / "photo.png"):
        with pytest.raises(UsageError, match="replace an input"):
            output_names([photograph], str(name), ".ugic")
    with pytest.raises(UsageError, match="replace an input"):
        output_names([Path("b.png"), tmp_path / "b.ugic"], out, ".ugic")
    with pytest.raises(UsageError, match="there are 2 inputs"):
        output_names([Path("a"), Path("b")], str(photograph), ".ugic")
    with pytest.raises(UsageError, match="empty"):
        output_names([Path("a")], "", ".ugic")


names = st.text("ab.", min_size=1, max_size=4).filter(lambda name: name.strip("."))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["", "a", "b"]), names), min_size=1, max_size=4), st.booleans())
def test_outputs_are_all_different_and_no_inputs(inputs: list[tuple[str, str]], both: bool) -> None:
    paths = [Path(folder) / name for folder, name in inputs]
    try:
        outputs = output_names(paths, "a/", ".b", ("h", "m") if both else ())
    except UsageError:
        return
    flat = [os.path.abspath(path) for group in outputs for path in group]
    assert len(flat) == len(paths) * (1 + both) == len(set(flat))
    assert not set(flat) & {os.path.abspath(path) for path in paths}
    assert all(path.parent == Path("a") for group in outputs for path in group)


def test_a_write_replaces_what_was_there_with_usual_permissions(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"first")
    write_atomically(path, b"second")
    assert path.read_bytes() == b"second" and list(tmp_path.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "file"
    link = tmp_path / "link"
    link.symlink_to(target)
    write_atomically(link, b"data")
    assert link.is_symlink() and target.read_bytes() == b"data"


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    ("failure", "expected", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutputError, "disk is full"),
        (OSError(errno.EROFS, "Read-only file system"), OutputError, "read-only"),
        (OSError(errno.EIO, "Input/output error"), OutputError, "Input/output error"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
        (MemoryError(), MemoryError, None),
    ],
)
def test_a_failed_write_leaves_what_was_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    failure: BaseException,
    expected: type[BaseException],
    words: str | None,
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(expected, match=words):
        write_atomically(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    def refuse(path: Path, words: str) -> None:
        with pytest.raises(OutputError) as caught:
            write_atomically(path, b"data")
        assert str(path) in str(caught.value) and words in str(caught.value)

    file = tmp_path / "file"
    file.touch()
    refuse(tmp_path / "missing" / "x", "does not exist; create it")
    refuse(file / "x", "its folder is a file")
    refuse(tmp_path, "is a folder")
    refuse(tmp_path / ("x" * 300), "too long")
    refuse(Path(os.devnull), "not a regular file")
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(OutputError, match="is a file"):
        make_folder(file)
    with pytest.raises(OutputError, match="does not exist"):
        make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a")
    make_folder(tmp_path / "a")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="no permission"):
            write_atomically(tmp_path / "x", b"data")
    finally:
        tmp_path.chmod(0o700)
