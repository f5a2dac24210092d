"""Every command that the documentation shows: run here, or marked as not run; options and modules that exist."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PICTURES, ROOT, pages
from ugicm.runtime.commands import cli

_OF_OTHERS = ("venv", "pip", "http.server", "coverage")
PAGES = {page.name: page for page in pages()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the pictures that pages may name, and `python` and `ugicm` of this installation."""
    from PIL import Image
    from skimage.data import astronaut

    work = tmp_path / "work"
    for i, name in enumerate(PICTURES):
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(astronaut()[20 * i : 20 * i + 128, 130:322]).save(work / name)
    (tmp_path / "bin").mkdir()
    for name, arguments in (("python", ""), ("ugicm", "-m ugicm ")):
        shim = tmp_path / "bin" / name
        shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        shim.chmod(0o755)
    return work


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if any(block.runs for block in page.blocks)])
def test_a_pages_commands_run(name: str, folder: Path) -> None:
    blocks = [block for block in PAGES[name].blocks if block.runs]
    script = ["set -euo pipefail"]
    for i, block in enumerate(blocks):
        program = folder.parent / f"block{i}.py"
        program.write_text(block.text, encoding="utf-8")
        text = block.text if block.language == "sh" else f"python '{program}'\n"
        script.append(f"echo ':: {name}:{block.line}' >&2\n{text}")
    closed = "http://127.0.0.1:9"  # a command that needs a network is marked as not run
    environment = {
        **os.environ,
        "PATH": f"{folder.parent}/bin{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **{name: closed for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")},
    }
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("name", PAGES)
def test_commands_stand_in_fences_and_reasons_are_given(name: str) -> None:
    page = PAGES[name]
    typed = re.compile(r"^(?:    |\t)\s*(?:\$ )?(?:python3?|ugicm|pip|\.venv\S*/python)\s+\S")
    loose = [line for line in page.prose.splitlines() if typed.match(line)]
    assert not loose, f"{name}: put {loose} in a fence marked sh"
    for block in page.blocks:
        where = f"{name}:{block.line}"
        assert block.language, f"{where}: say what the fence holds: sh, python, text, …"
        assert block.language not in ("bash", "shell", "console", "py"), f"{where}: use sh, python or text"
        assert block.excused or not block.comment.startswith("not run"), f"{where}: give the reason"


def test_the_readmes_two_commands_are_those_that_ci_runs() -> None:
    found = [block for block in PAGES["README.md"].blocks if block.comment in ("demo command", "test command")]
    assert [block.comment for block in found] == ["demo command", "test command"]
    assert all(block.text.startswith("python3.11 -m venv ") and block.text.count("\n") == 1 for block in found)
    steps = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert "<!-- test command -->" in steps and "ugicm demo" in steps
    assert "ugicm demo" in found[0].text and "-m pytest" in found[1].text


@pytest.mark.parametrize("name", PAGES)
def test_commands_in_the_text_exist(name: str) -> None:
    page = PAGES[name]
    fenced = [line for block in page.blocks if block.language == "sh" for line in _lines(block.text)]
    for command in (*page.spans, *fenced):
        check(command, name)


def check(command: str, where: str) -> None:
    """Modules, verbs, options, our extras and test files that a command names are there."""
    words = command.split("#")[0].split()
    for i, word in enumerate(words):
        if word == "-m" and i and re.search(r"python[\d.]*$", words[i - 1]) and i + 1 < len(words):
            module, rest = words[i + 1], words[i + 2 :]
            if module in _OF_OTHERS:
                continue
            if module == "pytest":
                missing = [path for path in rest if path.startswith("tests/") and not (ROOT / path).exists()]
                assert not missing, f"{where}: {command}: no {missing}"
                continue
            assert source(module), f"{where}: {command}: there is no module {module}"
            assert_options(rest, source(module), f"{where}: {command}")
    if words[:1] == ["ugicm"] and len(words) > 1 and words[1].isidentifier() and words[1].islower():
        assert words[1] in cli.VERBS, f"{where}: {command}: there is no verb {words[1]}"
        assert_options(words[2:], help_of(words[1]), f"{where}: {command}")
    if "pip" in " ".join(words[:2]) and "install" in words:
        for extra in re.findall(r"(?:ugicm|\.)\[([\w,]+)\]", command):
            for one in extra.split(","):
                assert f'"{one}": ' in (ROOT / "setup.py").read_text(encoding="utf-8"), f"{where}: no extra {one}"


def assert_options(words: list[str], known: str, where: str) -> None:
    for word in words:
        option = re.match(r"\[?(--[a-z][\w-]*)", word)
        assert not option or option[1] in known, f"{where}: there is no option {option[1]}"


@cache
def help_of(verb: str) -> str:
    """What `ugicm VERB --help` prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(SystemExit):
        cli.main([verb, "--help"])
    return printed.getvalue()


@cache
def source(module: str) -> str:
    """The source of a module and of those beside it, which may add options; empty where there is none."""
    path = ROOT / Path(*module.removeprefix("ugicm.").split("."))
    file = next((f for f in (path.with_suffix(".py"), path / "__main__.py") if f.is_file()), None)
    if file is None:
        return ""
    return "\n".join(f.read_text(encoding="utf-8") for f in sorted(file.parent.glob("*.py")))


def _lines(text: str) -> list[str]:
    return [
        part for line in text.replace("\\\n", " ").splitlines() for part in re.split(r"\s+(?:&&|\|\||;|\|)\s+", line)
    ]


def test_the_readme_names_every_verb() -> None:
    missing = [verb for verb in cli.VERBS if f"| `ugicm {verb}" not in PAGES["README.md"].prose]
    assert not missing, f"README.md: the table of commands lacks {missing}"
