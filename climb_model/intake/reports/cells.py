"""Lines of a CSV file or an Excel sheet as text, as a hospital's table programs write them."""

from __future__ import annotations

import codecs
import re
import zipfile
from datetime import date, datetime
from pathlib import Path

from openpyxl import load_workbook
from openpyxl.utils import get_column_letter
from openpyxl.utils.exceptions import InvalidFileException
from openpyxl.worksheet.formula import ArrayFormula

from climb_model.data.tables import csv_lines, folded, site_fault
from configs.errors import SettingsError

EXCEL = (".xlsx", ".xlsm")
_EXACT_DIGITS = 15
"""Excel keeps that many digits of a number; what follows is lost."""

Lines = list[tuple[int, list[str]]]
"""Line number from 1 and its cells; blank lines are left out."""


def report_lines(path: Path, *, encoding: str, sheet: str, site: str) -> Lines:
    """All lines of a table, the header first.

    Raises:
        SettingsError: an encoding or a sheet that there is not.
        DataError: another kind of file, or bytes of another encoding.
    """
    if not path.is_file():
        raise site_fault(site, "the report table is missing", path=path)
    if path.suffix.casefold() in EXCEL:
        lines = _excel_lines(path, sheet, site)
    elif path.suffix.casefold() == ".xls":
        fact = "the report table is in the old Excel format; save it as .xlsx or as CSV"
        raise site_fault(site, fact, path=path)
    else:
        lines = _text_lines(path, encoding, site)
    if not lines:
        raise site_fault(site, "the report table is empty", path=path)
    return lines


def _text_lines(path: Path, encoding: str, site: str) -> Lines:
    try:
        codec = codecs.lookup(encoding).name
    except LookupError:
        raise SettingsError(f"reports.encoding: there is no encoding '{encoding}'") from None
    content = path.read_bytes()
    utf8 = codec in ("utf-8", "utf-8-sig")
    try:
        text = content.decode("utf-8-sig" if utf8 else codec)
    except UnicodeDecodeError as error:
        hint = "; if Excel on Windows wrote it, set reports.encoding: cp1252 in the mapping" if utf8 else ""
        fact = f"the report table is not {encoding}, first at byte {error.start}{hint}"
        raise site_fault(site, fact, path=path) from None
    if not utf8 and not content.isascii() and _is_utf8(content):
        fact = f"the report table is UTF-8, not {encoding}: its umlauts would be damaged"
        raise site_fault(site, fact, path=path)
    return csv_lines(text, site, path)[1]


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _excel_lines(path: Path, sheet: str, site: str) -> Lines:
    rows = _excel_rows(path, sheet, site, values=True)
    _check_formulas(rows, _excel_rows(path, sheet, site, values=False), path, site)
    texts = [[_excel_text(value) for value in row] for row in rows]
    lines = [(number, row) for number, row in enumerate(texts, start=1) if any(row)]
    # Excel leaves out empty cells at the end of a row
    width = max((len(row) for _, row in lines), default=0)
    return [(number, row + [""] * (width - len(row))) for number, row in lines]


def _excel_rows(path: Path, sheet: str, site: str, *, values: bool) -> list[tuple[object, ...]]:
    """Cells of a sheet: of formulas their stored values, or the formulas."""
    try:
        book = load_workbook(path, read_only=True, data_only=values)
    except (InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, OSError):
        raise site_fault(site, "the report table is no Excel file, or a damaged one", path=path) from None
    try:
        names = {folded(name): name for name in book.sheetnames}
        if sheet and folded(sheet) not in names:
            raise SettingsError(f"reports.sheet: the Excel file has no sheet '{sheet}'")
        cells = book[names[folded(sheet)]] if sheet else book.worksheets[0]
        cells.reset_dimensions()  # some programs write a wrong size, and rows would be cut off
        return list(cells.iter_rows(values_only=True))
    finally:
        book.close()


def _check_formulas(
    rows: list[tuple[object, ...]], formulas: list[tuple[object, ...]], path: Path, site: str
) -> None:
    """Refuse columns of formulas that no program has computed: they would be read as empty.

    A formula whose value is an empty text looks the same, so that one value suffices in a column.
    """
    computed: dict[int, bool] = {}
    for row, kept in zip(rows, formulas, strict=True):
        for place, (value, formula) in enumerate(zip(row, kept, strict=True)):
            if isinstance(formula, ArrayFormula) or (isinstance(formula, str) and formula.startswith("=")):
                computed[place] = computed.get(place, False) or value is not None
    missing = [get_column_letter(place + 1) for place, has_value in computed.items() if not has_value]
    if missing:
        fact = f"column {missing[0]} of the report table holds formulas without values"
        raise site_fault(site, f"{fact}: save the file in Excel, or as CSV", path=path)


def _excel_text(value: object) -> str:
    """A cell as it is seen: a whole number without decimals, a date as YYYYMMDD."""
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.strftime("%Y%m%d")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def tidy_number(cell: str) -> str:
    """An accession or patient number; `4711.0`, as table programs write it, is 4711."""
    return cell[:-2] if re.fullmatch(r"\d+\.0", cell) else cell


def is_rounded(number: str) -> bool:
    """Whether a table program has kept only the first digits: 4.7E+11, or too many for a number."""
    exponent = re.fullmatch(r"\d+([.,]\d+)?[eE]\+?\d+", number) is not None and "+" in number
    return exponent or (number.isdigit() and len(number) > _EXACT_DIGITS and number.endswith("00"))
