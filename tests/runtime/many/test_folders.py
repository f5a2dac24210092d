"""Folders: what is found, what each file becomes, and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ugicm import Codec
from ugicm.runtime.commands.cli import main
from ugicm.runtime.errors import UsageError
from ugicm.runtime.files.images import read_image, write_image
from ugicm.runtime.many import folders
from ugicm.runtime.many.tasks import Task, find_tasks

ROOT = Path(__file__).parents[3]
BUNDLE = ROOT / "tests" / "golden" / "v1" / "bundle"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pictures(folder: Path, names: list[str]) -> None:
    for i, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, np.random.default_rng(i).integers(0, 256, (20 + i % 7, 30, 3), np.uint8))


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, the hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def outputs_of(tasks: list[Task], out: Path) -> list[str]:
    return [str(output.relative_to(out)) for task in tasks for output in task.outputs]


def test_a_tree_goes_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, back = (tmp_path / name for name in ("in", "out", "back"))
    pictures(source, ["a.png", "b/c.JPG", "b/deep/er/d.webp"])
    (source / "notes.txt").write_text("no picture")
    assert main(["encode", str(source), "-o", str(out), "--bundle", str(BUNDLE), "-q", "2", "--jobs", "2"]) == 0
    output, error = capsys.readouterr()
    codec = Codec.from_bundle(BUNDLE, threads=1)
    expected = {
        f"{stem}.ugic": codec.encode(read_image(source / name), 2)
        for stem, name in (("a", "a.png"), ("b/c", "b/c.JPG"), ("b/deep/er/d", "b/deep/er/d.webp"))
    }
    assert tree(out) == expected
    assert "1 other file ignored" in error and "encode: 3 of 3 files" in error and "\x1b" not in error + output
    rows = dict(line.strip().rsplit("  ", 1) for line in output.splitlines())
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    total = sum(map(len, expected.values()))
    assert rows["files"] == rows["encoded"] == "3" and rows["bytes out"] == f"{total:,}"
    assert rows["bits a pixel"] == f"{8 * total / (30 * (20 + 21 + 22)):.3f}"

    assert main(["decode", str(out), "-o", str(back), "--bundle", str(BUNDLE), "-c", "both", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["done"] == 3 and facts["failures"] == [] and facts["bytes_in"] == total
    for stem, data in expected.items():
        for condition in ("human", "machine"):
            view = back / stem.replace(".ugic", f".{condition}.png")
            np.testing.assert_array_equal(read_image(view), codec.decode(data, condition))
    assert len(tree(back)) == 6


def test_what_exists_is_skipped_and_what_fails_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    pictures(source, ["a.png", "b.png", "c.png", "twin.png", "twin.jpg"])
    (source / "b.png").write_bytes(b"nothing")
    (source / "c.png").write_bytes((source / "c.png").read_bytes()[:-30])
    command = ["encode", str(source), "-o", str(out), "--bundle", str(BUNDLE), "--jobs", "1"]
    assert main([*command, "--json"]) == 2
    output, error = capsys.readouterr()
    facts = json.loads(output)
    assert (facts["files"], facts["done"], facts["failed"], facts["skipped"]) == (5, 1, 4, 0)
    assert facts["reasons"]["another file has the same output name"] == 2
    assert {Path(failure["file"]).name for failure in facts["failures"]} == {"b.png", "c.png", "twin.png", "twin.jpg"}
    assert error.count("error: ") == 4
    assert set(tree(out)) == {"a.ugic"}

    (out / "a.ugic").write_bytes(b"mine")
    assert main(command) == 2
    assert "1 skipped" in capsys.readouterr().err and tree(out) == {"a.ugic": b"mine"}
    assert main([*command, "--force"]) == 2
    assert tree(out)["a.ugic"].startswith(b"UGIC")


def test_links_and_the_output_are_not_walked(tmp_path: Path) -> None:
    source = tmp_path / "in"
    pictures(source, ["a.png", "sub/b.png", "out/old.png", ".hidden/c.png", ".d.png"])
    (source / "sub" / "loop").symlink_to(source)
    (source / "also.png").symlink_to(source / "a.png")
    (source / "gone.png").symlink_to(source / "nowhere.png")
    tasks, clashes, notes = find_tasks(source, source / "out", [".png"], ".ugic", ())
    assert outputs_of(tasks, source / "out") == ["a.ugic", "also.ugic", "gone.ugic", "sub/b.ugic"]
    assert clashes == [] and notes == ["1 linked folder not followed", "1 other file ignored"]


def test_labels_may_clash_with_names(tmp_path: Path) -> None:
    for name in ("a.ugic", "a.human.ugic", "b.ugic"):
        (tmp_path / name).touch()
    out = tmp_path / "out"
    assert find_tasks(tmp_path, out, [".ugic"], ".png", ())[1] == []
    tasks, clashes, _ = find_tasks(tmp_path, out, [".ugic"], ".png", ("human", "machine"))
    assert len(tasks) == 3 and clashes == []
    (tmp_path / "a.UGIC").touch()
    tasks, clashes, _ = find_tasks(tmp_path, out, [".ugic"], ".png", ("human", "machine"))
    assert [source.name for source, _ in clashes] == ["a.UGIC", "a.ugic"] and len(tasks) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["encode", "DIR", "DIR/a.png", "-o", "OUT"], "is a folder among several"),
        (["encode", "DIR/a.png", "-o", "OUT", "--force"], "--force is for a folder"),
        (["encode", "DIR", "-o", "DIR/a.png"], "a folder of inputs needs a folder"),
        (["encode", "DIR", "-o", "OUT/deep/er"], "its own parent folder does not exist"),
        (["encode", "DIR", "-o", ""], "empty"),
        (["encode", "DIR", "-o", "OUT", "--jobs", "0"], "--jobs 0"),
        (["encode", "DIR", "-o", "OUT", "--jobs", "x"], "--jobs"),
        (["encode", "DIR", "-o", "OUT", "-q", "99"], "quality '99'"),
        (["decode", "DIR", "-o", "OUT"], "no file in it ends in .ugic"),
        (["decode", "DIR", "-o", "DIR/"], "use another folder"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(tmp_path / "in", ["a.png"])
    places = {"DIR": str(tmp_path / "in"), "OUT": str(tmp_path / "out")}
    for word, place in places.items():
        arguments = [argument.replace(word, place) for argument in arguments]
    assert main(arguments) == 2
    output, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and words in error and output == ""
    assert set(tree(tmp_path)) == {"in/a.png"} and not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        find_tasks(tmp_path / "missing", tmp_path / "out", [".png"], ".ugic", ())


# ---- killed runs


def start(source: Path, out: Path, **more: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ugicm", "encode", str(source), "-o", str(out), "--bundle", str(BUNDLE)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | more
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
        [*command, "--jobs", "2"],
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background ignore it
        **quiet,
    )


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def many(tmp_path: Path) -> tuple[Path, Path, dict[str, bytes]]:
    """A folder of pictures, where its outputs go, and what those are in the end."""
    source = tmp_path / "in"
    pictures(source, [f"{i % 5}/{i}.png" for i in range(150)])
    codec = Codec.from_bundle(BUNDLE, threads=1)
    whole = {
        str(path.relative_to(source).with_suffix(".ugic")): codec.encode(read_image(path))
        for path in source.rglob("*.png")
    }
    return source, tmp_path / "out", whole


def some_done(out: Path, before: int) -> Callable[[], bool]:
    return lambda: len(list(out.rglob("*.ugic"))) > before


def test_whatever_kills_a_run_each_output_is_absent_or_whole(many: tuple[Path, Path, dict[str, bytes]]) -> None:
    source, out, whole = many
    rng = random.Random(1)
    for kill in ("group", "parent"):
        process = start(source, out)
        wait_until(some_done(out, len(tree(out)) if out.exists() else 0))
        workers = children(process.pid)
        time.sleep(rng.random() * 0.05)
        if kill == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        assert process.wait() == -signal.SIGKILL
        wait_until(lambda pids=workers: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids))
        for name, data in tree(out).items():
            assert Path(name).name.startswith(".ugic-") or data == whole[name], name
    assert 0 < len(list(out.rglob("*.ugic"))) < len(whole), "the test killed nothing in the middle"
    (out / "0" / ".ugic-0123456789abcdef.part").write_bytes(b"half")
    assert start(source, out).wait() == 0
    assert tree(out) == whole


def test_a_killed_worker_costs_no_file(many: tuple[Path, Path, dict[str, bytes]]) -> None:
    source, out, whole = many
    process = start(source, out)
    wait_until(some_done(out, 0))
    os.kill(children(process.pid)[-1], signal.SIGKILL)
    assert process.wait() == 0
    assert {n: d for n, d in tree(out).items() if ".ugic-" not in n} == whole


def test_an_interrupt_says_how_to_go_on(many: tuple[Path, Path, dict[str, bytes]]) -> None:
    source, out, whole = many
    process = start(source, out, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(some_done(out, 0))
    os.killpg(process.pid, signal.SIGINT)
    output, error = process.communicate()
    assert process.returncode == 130
    assert b"not tried; the same command goes on from here" in error and error.endswith(b"error: interrupted\n")
    assert b"Traceback" not in error and b"encoded" in output
    assert 0 < len(tree(out)) < len(whole) and all(whole[name] == data for name, data in tree(out).items())


def test_a_file_whose_process_dies_twice_fails_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit of address space that the many can work within, and one image not."""
    source = tmp_path / "in"
    pictures(source, [f"{i}.png" for i in range(6)])
    write_image(source / "3.png", np.zeros((10000, 10000, 3), np.uint8))
    done = subprocess.run(
        ["bash", "-c", f'ulimit -v 1000000; exec "{sys.executable}" -m ugicm encode in -o out --jobs 1 '
         f'--bundle "{BUNDLE}" --json'],
        cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    facts = json.loads(done.stdout)
    assert facts["done"] == 5 and facts["failed"] == 1, done.stderr
    assert facts["failures"][0]["file"] == "in/3.png"
    assert "memory" in facts["failures"][0]["error"] or "BackendError" in facts["failures"][0]["error"]


def test_what_a_killed_worker_left_goes_with_the_run_it_died_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    pictures(source, ["a.png"])
    work = folders.work

    def leaving_something(*arguments: Any) -> Iterator[Any]:
        out.mkdir(exist_ok=True)
        (out / ".ugic-0123456789abcdef.part").write_bytes(b"half")
        yield from work(*arguments)

    monkeypatch.setattr(folders, "work", leaving_something)
    assert main(["encode", str(source), "-o", str(out), "--bundle", str(BUNDLE), "--jobs", "1"]) == 0
    assert set(tree(out)) == {"a.ugic"}
