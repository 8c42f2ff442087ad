"""CSV tables read on after a fault, with all faults collected."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.checking.result import Finding, found
from climb_model.data.tables import Row, folded

NEAR = 0.7
"""Likeness from which a header cell is taken for a wrong spelling of a column and may be shown: a table
without a header has data there."""


@dataclass(frozen=True, kw_only=True)
class Loose:
    """What could be read of a table."""

    rows: tuple[Row, ...] | None = field(repr=False)
    """None where there is nothing to go on with."""

    columns: frozenset[str] = frozenset()
    """Those asked for that are there."""

    findings: tuple[Finding, ...] = ()


def read_loosely(path: Path, wanted: Sequence[str], optional: Sequence[str] = ()) -> Loose:
    """Read a table as `read_table` does, but past its faults.

    A line with more or fewer cells than the header is counted and left out; a column that is missing
    is taken from the one whose name is nearly it, so that its cells are checked too, or gives empty
    cells; bytes that are not UTF-8 are read as Windows-1252.
    """
    name = path.name
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        near = _nearest(name, [other.name for other in path.parent.glob("*.*")])
        told = f"; there is '{near}'" if near else ""
        return Loose(rows=None, findings=tuple(found("tables.missing", count=1, detail=f"{name}{told}")))
    except OSError:
        return Loose(rows=None, findings=tuple(found("files.unreadable", [name], detail=name)))
    findings: list[Finding] = []
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("cp1252", errors="replace")
        findings += found("tables.not_utf8", count=1, detail=name)
    lines, broken = _lines(text)
    if broken:
        findings += found("tables.broken", count=1, detail=f"{name} line {broken}")
    if not lines:
        empty = [] if broken else found("tables.empty", count=1, detail=name)
        return Loose(rows=None, findings=(*findings, *empty))
    header, body = lines[0], lines[1:]
    places, faults = _places(name, header, wanted, optional)
    whole = [cells for cells in body if len(cells) == len(header)]
    findings += [*faults, *found("tables.cells", count=len(body) - len(whole), detail=name)]
    if not body and not broken:
        findings += found("tables.empty", count=1, detail=name)
    rows = tuple(
        {column: cells[places[column]].strip() if column in places else "" for column in (*wanted, *optional)}
        for cells in whole
    )
    return Loose(rows=rows, columns=frozenset(places), findings=tuple(findings))


def _lines(text: str) -> tuple[list[list[str]], int]:
    """Cells of all lines that are not blank, and the line (from 1) behind which nothing can be read, or 0."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[list[str]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                lines.append(cells)
    except csv.Error:
        return lines, reader.line_num
    return lines, 0


def _places(
    name: str, header: Sequence[str], wanted: Sequence[str], optional: Sequence[str]
) -> tuple[dict[str, int], list[Finding]]:
    names = [folded(cell) for cell in header]
    known = {folded(column) for column in (*wanted, *optional)}
    places: dict[str, int] = {}
    findings: list[Finding] = []
    for column in (*wanted, *optional):
        count = names.count(folded(column))
        if count > 1:
            findings += found("tables.column_twice", count=1, detail=f"{name}: '{column}'")
        if count:
            places[column] = names.index(folded(column))
            continue
        near = _nearest(column, [cell for cell in header if folded(cell) not in known])
        told = f"; there is '{near}', read as that here" if near else ""
        if near:
            places[column] = names.index(folded(near))
        if near or column in wanted:
            code = "tables.column_missing" if column in wanted else "tables.column_near"
            findings += found(code, count=1, detail=f"{name}: '{column}'{told}")
    return places, findings


def _nearest(name: str, there: Sequence[str]) -> str:
    known = {folded(other): other.strip() for other in there}
    match = difflib.get_close_matches(folded(name), list(known), n=1, cutoff=NEAR)
    return known[match[0]] if match else ""
