"""Markup in which every text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

from climb_model.results import printable

Attributes = Mapping[str, str | float]

_WITHOUT_CONTENT = frozenset({"meta", "br"})


class Html(str):
    """Markup made by this module: safe to put into a page as it stands."""

    __slots__ = ()


def tag(name: str, attributes: Attributes | None = None, *children: str) -> Html:
    """An element; children that are plain text are escaped and lose control codes.

    Args:
        attributes: numbers are written with at most two decimals, texts are escaped.
    """
    written = "".join(f' {key}="{_value(value)}"' for key, value in (attributes or {}).items())
    if name in _WITHOUT_CONTENT:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def join(parts: Iterable[str], between: str = "") -> Html:
    """Parts one after the other; those that are plain text are escaped."""
    return Html(safe(between).join(safe(part) for part in parts))


def safe(text: str) -> Html:
    """The text as markup that shows exactly it. Line breaks stay."""
    if isinstance(text, Html):
        return text
    return Html("\n".join(escape(printable(line)) for line in text.split("\n")))


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return escape(printable(value))
    return f"{value:.2f}".rstrip("0").rstrip(".")
