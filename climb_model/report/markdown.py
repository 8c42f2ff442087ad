"""Markdown that reads well as plain text and in which the words of others stay words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from climb_model.results import printable

# As numbers: also a renderer that knows no backslash, or passes HTML through, shows the sign itself.
_SIGNS = re.compile(r"[\\`*\[\]<>|~&!$@{}#]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


def words(text: str) -> str:
    """The text on one line, without a sign that Markdown, HTML or a hub would read as more than itself.

    For table cells and the inside of lines: at the beginning of a line `-`, `+`, `=` and `1.` mean
    something too.
    """
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", printable(text)).strip()


def bullets(lines: Sequence[str]) -> str:
    """A list, one line an entry."""
    return "\n".join(f"- {line}" for line in lines)


def block(lines: Sequence[str], language: str = "text") -> str:
    """Lines shown as they stand; none may begin with a backtick."""
    shown = [printable(line) for line in lines]
    assert not any(line.lstrip().startswith("`") for line in shown)
    return "\n".join([f"```{language}", *shown, "```"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns also stand below each other as text; all but the first to the right.

    Args:
        rows: cells of others' words must have gone through `words`.
    """
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    widths = [max(width, 3) for width in widths]
    rule = [f"{'-' * (width - 1)}{'-' if not column else ':'}" for column, width in enumerate(widths)]
    return "\n".join(
        f"| {' | '.join(_placed(cell, widths[column], column) for column, cell in enumerate(line))} |"
        for line in (lines[0], rule, *lines[1:])
    )


def _placed(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)
