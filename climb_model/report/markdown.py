"""Markdown that reads well as plain text and in which the words of others stay words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from climb_model.results import printable

# As numbers: also a renderer that knows no backslash, or passes HTML through, shows the sign itself.
_SIGNS = re.compile(r"[\\`*\[\]<>|~&!$@#]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=www)\.", re.IGNORECASE)


WIDTH = 100
"""Signs in a line of text."""


def words(text: str) -> str:
    """The text on one line, without a sign that Markdown, HTML or a hub would read as more than itself.

    For table cells and the inside of lines: at the beginning of a line `-`, `+`, `=` and `1.` mean
    something too.
    """
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", printable(text)).strip()


def bullets(lines: Sequence[str]) -> str:
    """A list with an entry for each line; long ones go on below, indented."""
    return "\n".join(wrapped(f"- {line}", indent="  ") for line in lines)


def wrapped(line: str, indent: str = "") -> str:
    """The line broken before words, so that its pieces have at most `WIDTH` signs where they can.

    Only before a word that begins with a letter: a piece that begins with `-` or `1.` would be a list.
    """
    pieces = [""]
    for part in re.split(r" (?=[^\W\d_])", line):
        longer = f"{pieces[-1]} {part}" if pieces[-1] else part
        if len(longer) <= WIDTH or not pieces[-1]:
            pieces[-1] = longer
        else:
            pieces.append(f"{indent}{part}")
    return "\n".join(pieces)


def block(lines: Sequence[str], language: str = "text") -> str:
    """Lines shown as they stand; none may begin with a backtick."""
    shown = [printable(line) for line in lines]
    assert not any(line.lstrip().startswith("`") for line in shown)
    return "\n".join([f"```{language}", *shown, "```"])


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, num_left: int = 1) -> str:
    """A table whose columns also stand below each other as text.

    Args:
        num_left: columns that begin at the left; the others, numbers, end at the right.
        rows: cells of others' words must have gone through `words`.
    """
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    widths = [max(width, 3) for width in widths]
    rule = [f"{'-' * (width - 1)}{'-' if column < num_left else ':'}" for column, width in enumerate(widths)]
    placed = [
        [
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in (lines[0], rule, *lines[1:])
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in placed)
