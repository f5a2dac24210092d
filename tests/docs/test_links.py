"""Links of the documentation lead somewhere, every page can be reached, and pictures are small."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

import pytest

from tests.docs.pages import ROOT, pages, read
from ugicm.runtime import errors

PAGES = {page.name: page for page in pages()}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    page = PAGES[name]
    for link in page.links:
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.path.parent / file) if file else page.path
        assert target.exists(), f"{name}: {link}"
        assert target.resolve().is_relative_to(ROOT), f"{name}: {link} leaves the project"
        if anchor:
            assert anchor in read(target).anchors, f"{name}: {link}: no such heading"


@pytest.mark.parametrize("name", PAGES)
def test_files_of_code_that_are_named_are_there(name: str) -> None:
    for path in re.findall(r"`([a-z_][\w./-]*/[\w./-]*\.py)`", PAGES[name].path.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), f"{name}: there is no {path}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        if path in reached:
            continue
        reached.add(path)
        page = read(path)
        targets = [(path.parent / link.partition("#")[0]).resolve() for link in page.links if "://" not in link]
        waiting += [target for target in targets if target.suffix == ".md" and target.is_file()]
    missed = {page.path for page in PAGES.values()} - reached
    assert not missed, f"no link leads to {missed}"


def test_pictures_are_small_and_well_formed() -> None:
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in (".png", ".jpg", ".webp", ".svg"):
            assert path.stat().st_size < 400_000, f"{path} is larger than 400 kB"
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("}svg")


def test_troubleshooting_names_every_error() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, errors.UgicError) and value is not errors.UgicError:
            assert f"`{name}`" in text, f"docs/troubleshooting.md says nothing of {name}"


def test_troubleshooting_quotes_what_is_said() -> None:
    """The first cell of each of its rows stands in the runtime's source, spread over lines or not."""
    sources = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "runtime").rglob("*.py")))
    said = re.sub(r'"\s*\n?\s*f?"', "", sources)
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) > 20
    for words in rows:
        assert words in said, f"docs/troubleshooting.md: nothing says {words!r}"


def test_the_readmes_figures_stand_in_the_results() -> None:
    readme, results = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    measured = readme.partition("\n| measured")[2].partition("\n\n")[0]
    assert measured, "README.md: the table of figures begins with | measured"
    known = set(re.findall(r"\d[\d,.]*\d|\d", results))
    missing = [number for number in re.findall(r"\d[\d,.]*\d|\d", measured) if number not in known]
    assert not missing, f"README.md has {missing}, docs/results.md has not"
