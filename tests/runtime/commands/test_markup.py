"""Elements: whatever text goes in, an HTML parser gets the same text out and no element more."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from ugicm.runtime.commands.report.markup import Markup, element, join


class Read(HTMLParser):
    """Start tags, attributes and text of a piece of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


# Parsers replace these by other characters, escaped or not.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)


@given(TEXT, TEXT)
def test_text_is_text_wherever_it_stands(text: str, value: str) -> None:
    found = Read(element("p", text, element("img", alt=value), text, class_="quiet", data_name=value))
    assert found.tags == [("p", {"class": "quiet", "data-name": value}), ("img", {"alt": value})]
    assert found.text == text + text


def test_only_markup_is_markup() -> None:
    assert join(["<b>", Markup("<b>"), 3], " & ") == "&lt;b&gt; &amp; <b> &amp; 3"
    assert element("input", hidden=True, min=0, max=None, disabled=False) == '<input hidden min="0">'
    assert isinstance(element("p"), Markup) and element("p") == "<p></p>"
