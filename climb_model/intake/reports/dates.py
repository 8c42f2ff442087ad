"""A column of dates as YYYYMMDD, in whatever form a table program wrote it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from openpyxl.utils.datetime import from_excel

_FORMS = ("%Y%m%d", "%Y-%m-%d", "%Y/%m/%d", "%d.%m.%Y", "%d.%m.%y")
_DAY_FIRST = ("%d/%m/%Y", "%d/%m/%y")
_MONTH_FIRST = ("%m/%d/%Y", "%m/%d/%y")
_SLASHED = re.compile(r"(\d{1,2})/(\d{1,2})/(?:\d{4}|\d{2})")
_SERIAL = re.compile(r"[1-7]\d{4}(?:\.\d+)?")
"""Days since 1900, as Excel keeps a date whose cell is formatted as a number."""

_LAST_MONTH = 12
_YEARS = range(1900, 2100)


def column_dates(cells: Sequence[str]) -> list[str]:
    """The dates of a column without their time of day; empty cells stay empty.

    `05/04/2024` is read by the column: a number above 12 tells where the day stands.

    Raises:
        ValueError: a cell that is no date, or a column in which day and month cannot be told apart. The
            message holds no cell.
    """
    days = [cell.split("T")[0].split()[0] if cell.split() else "" for cell in cells]
    forms = (*_FORMS, *_slashed_forms(days))
    dates = [_date(day, forms) for day in days]
    num_unread = sum(bool(day) and not date for day, date in zip(days, dates, strict=True))
    if num_unread:
        lines = "1 line has" if num_unread == 1 else f"{num_unread} lines have"
        raise ValueError(f"{lines} a date that cannot be read; write YYYY-MM-DD")
    return dates


def _slashed_forms(days: Sequence[str]) -> tuple[str, ...]:
    pairs = {(int(match.group(1)), int(match.group(2))) for day in days if (match := _SLASHED.fullmatch(day))}
    day_first = any(first > _LAST_MONTH for first, _ in pairs)
    month_first = any(second > _LAST_MONTH for _, second in pairs)
    if day_first and month_first:
        raise ValueError("some dates with '/' begin with the day, others with the month; write YYYY-MM-DD")
    if not day_first and not month_first and any(first != second for first, second in pairs):
        raise ValueError("dates with '/' may begin with the day or with the month; write YYYY-MM-DD")
    return _MONTH_FIRST if month_first else _DAY_FIRST


def _date(day: str, forms: Sequence[str]) -> str:
    if _SERIAL.fullmatch(day):
        return f"{from_excel(float(day)):%Y%m%d}"
    for form in forms:
        try:
            found = datetime.strptime(day, form)
        except ValueError:
            continue
        if found.year in _YEARS and (form != "%Y%m%d" or len(day) == len("YYYYMMDD")):
            return found.strftime("%Y%m%d")
    return ""
