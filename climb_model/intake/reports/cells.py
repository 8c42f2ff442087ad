"""Lines of a CSV file or an Excel sheet as text, as a hospital's table programs write them."""

from __future__ import annotations

import codecs
import io
import re
import warnings
import zipfile
import zlib
from collections.abc import Sequence
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

_DAMAGE = (
    InvalidFileException,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,  # of XML
    EOFError,
    OSError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    TypeError,
    AssertionError,
    RuntimeError,  # encrypted, or compressed as nobody does
    MemoryError,
)
"""What openpyxl and the zip and XML readers below it raise on damaged files."""

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
    content = path.read_bytes()
    utf8 = False
    try:
        codec = codecs.lookup(encoding).name
        utf8 = codec in ("utf-8", "utf-8-sig")
        text = content.decode("utf-8-sig" if utf8 else codec)
    except UnicodeDecodeError as error:
        hint = "; if Excel on Windows wrote it, set reports.encoding: cp1252 in the mapping" if utf8 else ""
        fact = f"the report table is not {encoding}, first at byte {error.start}{hint}"
        raise site_fault(site, fact, path=path) from None
    except (LookupError, ValueError):  # unknown, or one that gives no text, such as rot13
        fact = f"there is no encoding '{encoding}' of texts; wanted one such as utf-8 or cp1252"
        raise SettingsError(f"reports.encoding: {fact}") from None
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
    try:
        content = path.read_bytes()  # a damaged file would be left open
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and checks, which no text depends on
            rows = _excel_rows(content, sheet, values=True)
            missing = _missing_values(rows, _excel_rows(content, sheet, values=False))
        texts = [[_excel_text(value) for value in row] for row in rows]
    except SettingsError:
        raise
    except _DAMAGE:
        raise site_fault(site, "the report table is no Excel file, or a damaged one", path=path) from None
    if missing:
        fact = f"column {missing} of the report table holds formulas without values"
        raise site_fault(site, f"{fact}: save the file in Excel, or as CSV", path=path)
    lines = [(number, row) for number, row in enumerate(texts, start=1) if any(row)]
    # Excel leaves out empty cells at the end of a row
    width = max((len(row) for _, row in lines), default=0)
    return [(number, row + [""] * (width - len(row))) for number, row in lines]


def _excel_rows(content: bytes, sheet: str, *, values: bool) -> list[tuple[object, ...]]:
    """Cells of a sheet: of formulas their stored values, or the formulas."""
    book = load_workbook(io.BytesIO(content), read_only=True, data_only=values)
    try:
        names = {folded(name): name for name in book.sheetnames}
        if sheet and folded(sheet) not in names:
            raise SettingsError(f"reports.sheet: the Excel file has no sheet '{sheet}'")
        cells = book[names[folded(sheet)]] if sheet else book.worksheets[0]
        cells.reset_dimensions()  # some programs write a wrong size, and rows would be cut off
        return list(cells.iter_rows(values_only=True))
    finally:
        book.close()


def _missing_values(rows: list[tuple[object, ...]], formulas: list[tuple[object, ...]]) -> str:
    """The first column of formulas that no program has computed, or nothing: it would be read as empty.

    A formula whose value is an empty text looks the same, so that one value suffices in a column.
    """
    computed: dict[int, bool] = {}
    for row, kept in zip(rows, formulas, strict=True):
        for place, (value, formula) in enumerate(zip(row, kept, strict=True)):
            if isinstance(formula, ArrayFormula) or (isinstance(formula, str) and formula.startswith("=")):
                computed[place] = computed.get(place, False) or value is not None
    missing = (get_column_letter(place + 1) for place, has_value in computed.items() if not has_value)
    return next(missing, "")


def _excel_text(value: object) -> str:
    """A cell as it is seen: a whole number without decimals, a date as YYYYMMDD.

    A number of more digits than Excel keeps has an exponent, so that it is not taken for another one.
    """
    if value is None:
        return ""
    if isinstance(value, datetime | date):
        return value.strftime("%Y%m%d")
    if isinstance(value, int | float) and abs(value) >= 10**_EXACT_DIGITS:
        return f"{value:.{_EXACT_DIGITS - 1}E}"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def tidy_number(cell: str) -> str:
    """An accession or patient number; `4711.0`, as table programs write it, is 4711."""
    return cell[:-2] if re.fullmatch(r"\d+\.0", cell) else cell


def num_rounded(numbers: Sequence[str]) -> int:
    """Of how many numbers of a column a table program has kept only the first digits.

    4.7E+11 is one. What stands in full is rounded if each long number of the column ends in zeros.
    """
    exponents = sum(re.fullmatch(r"\d+([.,]\d+)?[eE]\+\d+", number) is not None for number in numbers)
    long = [number for number in numbers if number.isdigit() and len(number) > _EXACT_DIGITS]
    return exponents + (0 if any(number[_EXACT_DIGITS:].strip("0") for number in long) else len(long))
