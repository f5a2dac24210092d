"""The laws of the house: no circles, no private name of another module, no bare name of a room, short files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import house

LONGEST = 400  # lines of a file
HEART = 2600  # lines of ours that decoding a file on a CPU imports; it may shrink
ALLOWED = {
    "_asdict": "public, of a named tuple",
    "_exit": "public, of os",
    "_fields_": "public, of ctypes",
    "_get_medians": "of compressai, which has no public name for it",
    "_logits_cumulative": "of compressai, which has no public name for it",
}


def test_no_circles_between_files() -> None:
    found = house.circles(house.graph(house.sources("ugicm", *house.ROOMS)))
    assert not found, [[str(path.relative_to(house.ROOT)) for path in circle] for circle in found]


def test_no_private_name_of_another_module() -> None:
    found = [line for path in house.sources("ugicm", *house.ROOMS, "benchmarks") for line in house.privates(path)]
    assert not [line for line in found if line.split(".")[-1] not in ALLOWED]


def test_no_room_by_its_bare_name() -> None:
    files = house.sources("ugicm", *house.ROOMS, "benchmarks", "tests", "docs")
    assert not {str(path): names for path in files if (names := house.bare(path))}


def test_no_file_over_its_length() -> None:
    files = house.sources("ugicm", *house.ROOMS, "benchmarks", "tests", "docs")
    assert not {str(path): house.lines(path) for path in files if house.lines(path) > LONGEST}


def test_the_heart_is_small() -> None:
    files = house.heart()
    assert len(files) > 10 and sum(map(house.lines, files)) <= HEART


BREACHES: dict[str, tuple[Callable[[], None], dict[str, str]]] = {
    "circle": (
        test_no_circles_between_files,
        {
            "runtime/a.py": "from ugicm.runtime import b\n",
            "runtime/b.py": "def late():\n    from ugicm.runtime.a import x\n    return x\n",
        },
    ),
    "private name of an object": (
        test_no_private_name_of_another_module,
        {"runtime/a.py": "from ugicm.runtime import b\n\nb.thing._inside()\n"},
    ),
    "private name imported": (test_no_private_name_of_another_module, {"export/a.py": "from os import _wrap_close\n"}),
    "bare room": (test_no_room_by_its_bare_name, {"tests/a.py": "import runtime.codec\n"}),
    "bare room inside a function": (
        test_no_room_by_its_bare_name,
        {"models/a.py": "def late():\n    from training import loop\n    return loop\n"},
    ),
    "long file": (test_no_file_over_its_length, {"docs/a.py": "x = 1\n" * (LONGEST + 1)}),
    "large heart": (test_the_heart_is_small, {f"runtime/a{i}.py": "x = 1\n" * 300 for i in range(11)}),
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_law_fails_when_it_is_broken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small tree of its own, which keeps every law but one."""
    law, files = BREACHES[name]
    (tmp_path / "ugicm").mkdir()
    (tmp_path / "ugicm" / "__init__.py").write_text("")
    for room in (*house.ROOMS, "benchmarks", "tests", "docs"):
        (tmp_path / room).mkdir()
    monkeypatch.setattr(house, "ROOT", tmp_path)
    monkeypatch.setattr(house, "heart", lambda: [*house.sources("runtime"), *[tmp_path / "ugicm/__init__.py"] * 11])
    law()
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    with pytest.raises(AssertionError):
        law()


def test_imports_are_followed_to_files() -> None:
    assert house.file_of("ugicm.runtime.codec") == house.ROOT / "runtime" / "codec.py"
    assert house.file_of("ugicm.runtime.graphs") == house.ROOT / "runtime" / "graphs" / "__init__.py"
    assert house.file_of("numpy") is None
