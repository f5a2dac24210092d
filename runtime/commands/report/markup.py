"""HTML and SVG by elements: text is escaped unless it is `Markup`."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = frozenset({"br", "img", "input", "link", "meta"})


class Markup(str):
    """Finished HTML; only functions of this module make it from text, or a constant that is written as such."""


def element(tag: str, *content: object, **attributes: object) -> Markup:
    """An element.

    Args:
        tag: its name.
        content: texts, numbers and other elements, in order.
        attributes: by name, "_" for "-" and one at the end dropped (`class_`). None and False leave one out, True
            gives it no value.
    """
    given = "".join(
        f" {_name(name)}" if value is True else f' {_name(name)}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    start = f"<{tag}{given}>"
    return Markup(start if tag in _VOID else f"{start}{join(content)}</{tag}>")


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Texts and elements in order, and `between`, white space or punctuation, between them."""
    return Markup(escape(between).join(part if isinstance(part, Markup) else escape(str(part)) for part in parts))


def _name(name: str) -> str:
    return name.removesuffix("_").replace("_", "-")
