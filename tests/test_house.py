"""The laws of the house: no circles, no private name of another module, no bare name of a room, short files."""

from __future__ import annotations

from tests import house

LONGEST = 400  # lines of a file
HEART = 2930  # lines of ours that decoding a file on a CPU imports; it may shrink
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


def test_the_heart_is_no_longer_than_it_was() -> None:
    files = house.heart()
    assert len(files) > 10 and sum(map(house.lines, files)) <= HEART


def test_each_law_notices_a_breach(tmp_path: object) -> None:
    """A circle, a private name and a bare import, drawn on small examples."""
    a, b = house.ROOT / "a.py", house.ROOT / "b.py"
    assert house.circles({a: {b}, b: {a}}) == [[a, b]] and not house.circles({a: {b}, b: set()})
    example = house.ROOT / "tests" / "house.py"
    assert not house.bare(example) and not house.privates(example)


def test_imports_are_followed_to_files() -> None:
    assert house.file_of("ugicm.runtime.codec") == house.ROOT / "runtime" / "codec.py"
    assert house.file_of("ugicm.runtime.graphs") == house.ROOT / "runtime" / "graphs" / "__init__.py"
    assert house.file_of("numpy") is None
