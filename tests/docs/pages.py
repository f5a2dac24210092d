"""The pages of the documentation, taken apart: fenced blocks, text without them, inline code.

The rule for whoever writes a page: a command stands in a fence marked `sh`, a program in one marked `python`; the tests
run the fences of a page one after the other, in one folder that holds the pictures of `PICTURES`. A fence that a test
cannot run (it installs, needs a network, a GPU, data that are not here, or hours) has the line

    <!-- not run: the reason -->

directly above it. What is shown but not typed (output, formats) is fenced as `text` or indented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RUN = ("sh", "python")
PICTURES = ("photo.png", "photos/one.png", "photos/two.jpg", "photos/trip/three.png")
_IN_CI = {"demo command", "test command"}  # the README's two, which .ci/run runs
_FENCE = re.compile(r"^(`{3,})\s*(\S*)\s*$")
_COMMENT = re.compile(r"^<!-- (.*) -->$")


@dataclass(frozen=True)
class Block:
    """A fenced block: `language`, `text`, the `line` (from 1) where it opens, and the comment above it or ""."""

    language: str
    text: str
    line: int
    comment: str

    @property
    def runs(self) -> bool:
        """Whether a test of these runs it."""
        return self.language in RUN and not self.excused

    @property
    def excused(self) -> bool:
        return self.comment in _IN_CI or re.fullmatch(r"not run: \S.*", self.comment) is not None


@dataclass(frozen=True)
class Page:
    """A page: its path, its blocks, and its text with every block replaced by empty lines."""

    path: Path
    blocks: tuple[Block, ...]
    prose: str

    @property
    def name(self) -> str:
        return self.path.relative_to(ROOT).as_posix()

    @property
    def spans(self) -> list[str]:
        """Inline code, in order."""
        return re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", self.prose)

    @property
    def links(self) -> list[str]:
        """Targets of links and pictures, in order."""
        return re.findall(r"\]\(([^)\s]+)\)", self.prose)

    @property
    def anchors(self) -> set[str]:
        """What a link into the page may name: its headings as GitHub writes them."""
        heads = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def pages() -> list[Page]:
    """The README and every page of docs/."""
    return [read(path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))]


def read(path: Path) -> Page:
    """Take a page apart. Raises ValueError for a fence that is not closed."""
    blocks: list[Block] = []
    prose: list[str] = []
    body: list[str] | None = None
    fence, language, start, comment = "", "", 0, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        mark = _FENCE.match(line)
        if body is None:
            if mark:
                fence, language, start, body = mark[1], mark[2], number, []
                above = _COMMENT.match(prose[-1]) if prose else None
                comment = above[1] if above else ""
            prose.append("" if mark else line)
        elif mark and mark[1] == fence and not mark[2]:
            blocks.append(Block(language, "\n".join(body) + "\n", start, comment))
            body = None
            prose.append("")
        else:
            body.append(line)
            prose.append("")
    if body is not None:
        raise ValueError(f"{path}: the fence of line {start} is not closed")
    return Page(path, tuple(blocks), "\n".join(prose))
