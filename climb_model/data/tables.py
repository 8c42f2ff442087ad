"""A site's CSV tables as strings, checked where a fault would spoil the whole site."""

from __future__ import annotations

import csv
import difflib
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.data.exam import SPLITS, DataError

Row = dict[str, str]
"""Cells of one line under the names the caller asked for; always strings, outer blanks removed."""


@dataclass(frozen=True)
class Table:
    """The wanted columns of one file."""

    site: str
    path: Path = field(repr=False)
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.path.name


def site_fault(site: str, fact: str, *, detail: str = "", path: Path | None = None) -> DataError:
    """A fault of the whole site; `detail` and `path` stay on the site's own screen."""
    where = "" if path is None else f" ({path})"
    return DataError(f"site '{site}': {fact}{detail}{where}", public=f"site '{site}': {fact}")


def folded(name: str) -> str:
    """The form in which names are compared: case, outer blanks and composed umlauts do not matter."""
    return unicodedata.normalize("NFC", name).strip().casefold()


def read_table(path: Path, wanted: Sequence[str], optional: Sequence[str] = (), *, site: str) -> Table:
    """Read the wanted columns of a UTF-8 CSV file, separated by `,`, `;` or tabulators.

    Columns may come in any order and case, others are ignored, a byte order mark is skipped, and lines
    without any content too. An optional column that is not there gives empty cells.

    Raises:
        DataError: a missing file or column (naming the nearest), a column twice, bytes that are not
            UTF-8, an unclosed quote, or a line with more or fewer cells than the header.
    """
    name = path.name
    if not path.is_file():
        near = _nearest(name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise site_fault(site, f"table {name} is missing", detail=near, path=path.parent)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise site_fault(site, f"{name} is not UTF-8, first at byte {error.start}", path=path) from None
    _, lines = csv_lines(text, site, path)
    if not lines:
        raise site_fault(site, f"{name} is empty", path=path)
    places = column_places(lines[0][1], wanted, optional, site, path)
    rows: list[Row] = []
    for number, cells in lines[1:]:
        if len(cells) != len(lines[0][1]):
            fact = f"{name} line {number} has {len(cells)} cells, its header has {len(lines[0][1])}"
            raise site_fault(site, fact, path=path)
        row = {column: cells[place].strip() for column, place in places.items()}
        rows.append(row | {column: "" for column in optional if column not in places})
    return Table(site, path, tuple(rows))


def csv_lines(text: str, site: str, path: Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """The separator (`,`, `;` or a tabulator), and line numbers (from 1) and cells of all lines not blank.

    Raises:
        DataError: an unclosed quote, or what else is no CSV.
    """
    header = text.lstrip("\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise site_fault(site, f"{path.name} line {reader.line_num}: {error}", path=path) from None
    return separator, lines


def column_places(
    header: Sequence[str], wanted: Sequence[str], optional: Sequence[str], site: str, path: Path
) -> dict[str, int]:
    """Column to its place in the header; optional ones that are not there are left out.

    Raises:
        DataError: a column twice, or a wanted one missing (naming the nearest).
    """
    names = [folded(cell) for cell in header]
    places: dict[str, int] = {}
    for column in (*wanted, *optional):
        count = names.count(folded(column))
        if count > 1:
            raise site_fault(site, f"{path.name} has column '{column}' {count} times", path=path)
        if count == 1:
            places[column] = names.index(folded(column))
        elif column in wanted:
            near = _nearest(column, header)
            raise site_fault(site, f"{path.name} has no column '{column}'", detail=near, path=path)
    return places


def _nearest(name: str, there: Iterable[str]) -> str:
    known = {folded(other): other.strip() for other in there}
    match = difflib.get_close_matches(folded(name), list(known), n=1, cutoff=0.5)
    if match:
        return f"; the nearest is '{known[match[0]]}'"
    return f"; there are: {', '.join(sorted(known.values())) or 'none'}"


def by_uid(table: Table, column: str = "UID") -> dict[str, Row]:
    """Rows under their UID.

    Raises:
        DataError: a UID that is empty or comes twice.
    """
    rows: dict[str, Row] = {}
    twice: list[str] = []
    for row in table.rows:
        uid = row[column]
        if not uid:
            raise site_fault(table.site, f"{table.name} has a row without {column}", path=table.path)
        if uid in rows:
            twice.append(uid)
        rows[uid] = row
    if twice:
        fact = f"{table.name} lists {_count(len(set(twice)), 'UID')} twice"
        raise site_fault(table.site, fact, detail=f", first '{twice[0]}'", path=table.path)
    return rows


def split_rows(table: Table, fold: int) -> dict[str, Row]:
    """Rows of a split table (UID, Split, Fold) under their UID, `Split` in lower case.

    ODELIA's tables list every UID once per cross-validation fold. Where the table is such a complete
    list, the rows of `fold` count; otherwise every UID may come once, whatever its Fold.

    Raises:
        DataError: a split that is not train, val or test, a UID in two splits, a UID twice, no such fold.
    """
    rows = of_fold(table, fold)
    seen: dict[str, str] = {}
    torn: dict[str, tuple[str, str]] = {}
    for row in rows:
        split = row["Split"]
        if split not in SPLITS:
            fact = f"{table.name} has a Split that is not train, val or test"
            raise site_fault(table.site, fact, detail=f": '{split}' for UID '{row['UID']}'", path=table.path)
        first = seen.setdefault(row["UID"], split)
        if first != split:
            torn[row["UID"]] = (first, split)
    if torn:
        uid, (first, second) = next(iter(torn.items()))
        fact = f"{table.name} has {_count(len(torn), 'UID')} in two splits"
        detail = f": '{uid}' is in {first} and {second}"
        raise site_fault(table.site, fact, detail=detail, path=table.path)
    return by_uid(Table(table.site, table.path, tuple(rows)))


def of_fold(table: Table, fold: int) -> list[Row]:
    """The rows that count: of `fold` where every UID comes once per fold, else all; `Split` in lower case.

    Raises:
        DataError: no such fold.
    """
    rows = [row | {"Split": row["Split"].casefold()} for row in table.rows]
    folds = {row["Fold"] for row in rows}
    uids = {row["UID"] for row in rows}
    pairs = {(row["UID"], row["Fold"]) for row in rows}
    if len(folds) < 2 or len(pairs) < len(uids) * len(folds):
        return rows
    chosen = [row for row in rows if row["Fold"] in (str(fold), f"{fold}.0")]
    if not chosen:
        raise site_fault(table.site, f"{table.name} has no Fold {fold}", path=table.path)
    return chosen


def check_patients(splits: Mapping[str, str], patients: Mapping[str, str], *, site: str) -> None:
    """Refuse a patient whose breasts are in two splits: the model would be tested on who it was shown.

    Args:
        splits: UID to split.
        patients: UID to patient, where known.
        site: the name to put into the error.
    """
    found: dict[str, set[str]] = {}
    for uid, split in splits.items():
        if uid in patients:
            found.setdefault(patients[uid], set()).add(split)
    torn = sorted(patient for patient, where in found.items() if len(where) > 1)
    if torn:
        detail = f": '{torn[0]}' is in {' and '.join(sorted(found[torn[0]]))}"
        raise site_fault(site, f"{_count(len(torn), 'patient')} in two splits", detail=detail)


def read_findings(table: Table, findings: Sequence[str]) -> dict[str, dict[str, int | None]]:
    """UID to finding to 1, 0 or None for an empty cell.

    Raises:
        DataError: a cell that is none of the three, or a UID that comes twice.
    """
    values: dict[str, int | None] = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "": None}
    for row in table.rows:
        for finding in findings:
            if row[finding] not in values:
                fact = f"{table.name} has a cell of '{finding}' that is not 0, 1 or empty"
                detail = f": '{row[finding]}' for UID '{row['UID']}'"
                raise site_fault(table.site, fact, detail=detail, path=table.path)
    return {
        uid: {finding: values[row[finding]] for finding in findings} for uid, row in by_uid(table).items()
    }


def whole_number(cell: str) -> int | None:
    """The number in a cell, None if it is empty; `12.0`, as table programs write it, is 12.

    Raises:
        ValueError: anything else.
    """
    if not cell:
        return None
    value = float(cell)
    if not value.is_integer():
        raise ValueError(f"wanted a whole number, got {value}")
    return int(value)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
