"""Changes of single rows of a CSV table; all other bytes stay as they are."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.data.tables import Row, folded

Change = Callable[[Row], Row | None]
"""From a row (cells under the folded names of their columns, outer blanks removed) to the same row, another,
or None: take it out. Cells under an empty or repeated name are not given."""


def change_rows(path: Path, change: Change) -> tuple[bytes, int]:
    """The content of a UTF-8 CSV file after a change, and how many rows it touched. Nothing is written.

    Separators, quotes, line ends and a byte order mark of rows that stay are kept to the byte.

    Raises:
        DataError: bytes that are not UTF-8 or an unclosed quote: rows cannot be told apart.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        fact = f"{path.name} is not UTF-8, first at byte {error.start}"
        raise DataError(f"{fact} ({path})", public=fact) from None
    header = text.lstrip("\ufeff\r\n").split("\n", 1)[0]
    separator = max(",;\t", key=header.count)
    columns: list[str] | None = None
    kept: list[str] = []
    num_changed = 0
    for raw, cells in _records(text, separator, path):
        if columns is None or not any(cell.strip() for cell in cells):
            if columns is None and any(cell.strip("\ufeff ") for cell in cells):
                columns = [folded(cell.lstrip("\ufeff")) for cell in cells]
            kept.append(raw)
            continue
        row = {name: cell.strip() for name, cell in zip(columns, cells, strict=False)}
        changed = change(row)
        if changed == row:
            kept.append(raw)
            continue
        num_changed += 1
        if changed is not None:
            kept.append(_record(columns, cells, row, changed, separator, raw))
    return "".join(kept).encode(), num_changed


def _records(text: str, separator: str, path: Path) -> Iterator[tuple[str, list[str]]]:
    """Each record as it stands in the file, and its cells."""
    taken: list[str] = []

    def lines() -> Iterator[str]:
        for line in io.StringIO(text, newline=""):
            taken.append(line)
            yield line

    reader = csv.reader(lines(), delimiter=separator, strict=True)
    try:
        for cells in reader:
            yield "".join(taken), cells
            taken.clear()
    except csv.Error as error:
        fact = f"{path.name} line {reader.line_num}: {error}"
        raise DataError(f"{fact} ({path})", public=fact) from None


def _record(columns: list[str], cells: list[str], row: Row, changed: Row, separator: str, raw: str) -> str:
    """A record with some cells changed, ending as before."""
    values = [
        changed[name] if name in row and changed[name] != row[name] else cell
        for name, cell in zip(columns, cells, strict=False)
    ]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=separator, lineterminator="").writerow(values)
    return text.getvalue() + raw[len(raw.rstrip("\r\n")) :]
