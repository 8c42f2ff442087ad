"""A hospital's own table of reports, and its rows under the numbers of DICOM studies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from climb_model.data.exam import SPLITS, DataError
from climb_model.data.tables import Row, column_places, folded, site_fault
from climb_model.intake.mapping import ReportMapping
from climb_model.intake.reports.cells import num_rounded, report_lines, tidy_number
from climb_model.intake.reports.dates import column_dates
from climb_model.intake.reports.numbers import NumberIndex, is_same_number
from climb_model.intake.study import Study
from configs.errors import SettingsError

NO_ROW = "no row in the report table"
NO_DATE = "the study has no date, and the report table tells a patient's studies by their dates"
SEVERAL_STUDIES = "the patient has several studies and the report table no column of dates"
OTHER_PATIENT = "the report table has another patient for this accession number"
BAD_SIDE = "a row of the report table is about neither the left nor the right breast"

_NUMBERS = ("accession", "patient")
_TOLD: tuple[str, ...] = ("text", "left", "right", "side", "split", "lesion", "lesion_left", "lesion_right")
"""Fields in which two rows of a study must agree."""

_KINDS = (*_NUMBERS, "date", "names", *_TOLD)
"""Fields of the mapping that name columns."""

_CLASSES = {"": "", "0": "0", "0.0": "0", "1": "1", "1.0": "1", "2": "2", "2.0": "2"}


@dataclass(frozen=True, kw_only=True)
class StudyReport:
    """What the table says of one study. Texts as they stand: neither divided nor redacted."""

    left: str = field(default="", repr=False)
    right: str = field(default="", repr=False)
    whole: str = field(default="", repr=False)
    """One text for both breasts; `sides.split_report` divides it."""

    names: frozenset[str] = field(default=frozenset(), repr=False)
    """Cells of the columns of persons' names."""

    split: str = ""
    """`train`, `val`, `test`, or empty."""

    lesions: dict[str, int] = field(default_factory=dict)
    """`left`, `right` to ODELIA's class, where the table says it."""


@dataclass(frozen=True, kw_only=True)
class Unmatched:
    """What did not come together."""

    num_rows: int
    """Rows that no study asked for."""

    num_studies: int
    """Studies without a report, for whatever reason."""

    num_zeros: int
    """Studies that found their row only by leading zeros, which table programs drop."""

    notices: tuple[str, ...]
    """The same in words, without identifiers."""


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """The rows of a report table; nothing of them shows in its repr."""

    mapping: ReportMapping
    rows: tuple[Row, ...] = field(repr=False)
    """Cells under the field names of the mapping, tidied; persons' names under `names`, a line each."""

    num_rounded: int
    """Numbers that Excel may have rounded."""

    accessions: NumberIndex = field(repr=False)
    patients: NumberIndex = field(repr=False)
    known_accessions: Counter[str] = field(default_factory=Counter[str], repr=False)
    known_patients: Counter[str] = field(default_factory=Counter[str], repr=False)
    """How many different numbers of the import are the same without leading zeros."""

    studies_of: Counter[str] = field(default_factory=Counter[str], repr=False)
    """Patient to how many studies of hers there are, in the import and before."""

    earlier: Mapping[str, int] = field(default_factory=dict[str, int], repr=False)
    """Patient to how many further studies of hers earlier imports have left."""

    @property
    def fields(self) -> frozenset[str]:
        """`report`, `lesion`: what the table has columns for."""
        given = self.mapping
        kinds = {
            "report": given.text or given.left,
            "lesion": given.lesion or given.lesion_left or given.lesion_right,
        }
        return frozenset(kind for kind, column in kinds.items() if column)

    def knowing(self, studies: Collection[Study]) -> ReportTable:
        """The same table, told of all studies of the import: needed to see what is ambiguous."""
        return replace(
            self,
            known_accessions=Counter(key.lstrip("0") for key in {study.accession for study in studies}),
            known_patients=Counter(key.lstrip("0") for key in {study.patient for study in studies}),
            studies_of=Counter(study.patient for study in studies) + Counter(self.earlier),
        )

    def for_study(self, *, accession: str, patient: str, date: str) -> StudyReport | str:
        """The report of a study, or the reason why it has none.

        Args:
            accession: AccessionNumber as the DICOM files have it.
            patient: PatientID likewise.
            date: StudyDate, YYYYMMDD.
        """
        found, _ = self._find(accession, patient, date)
        return found if isinstance(found, str) else self._report(found)

    def unmatched(self, studies: Collection[Study]) -> Unmatched:
        """What these studies leave over."""
        told = self.knowing(studies)
        taken: set[int] = set()
        num_without = num_zeros = 0
        for study in studies:
            found, by_zeros = told._find(study.accession, study.patient, study.date)
            if isinstance(found, str):
                num_without += 1
                continue
            taken.update(found)
            num_zeros += by_zeros
            num_without += isinstance(told._report(found), str)
        num_rows = len(self.rows) - len(taken)
        facts = (
            (num_rows, "rows of the report table belong to no study"),
            (num_without, "studies have no report"),
            (num_zeros, "studies found their row only by leading zeros; format that column as text"),
            (self.num_rounded, "numbers in the report table may be rounded; format that column as text"),
        )
        notices = tuple(f"{number} {fact}" for number, fact in facts if number)
        return Unmatched(num_rows=num_rows, num_studies=num_without, num_zeros=num_zeros, notices=notices)

    def _find(self, accession: str, patient: str, date: str) -> tuple[list[int] | str, bool]:
        """Rows of a study or a reason, and whether leading zeros had to be dropped."""
        rows, by_zeros = self.accessions.find(accession, self.known_accessions)
        agrees = all(is_same_number(self.rows[row]["patient"], patient) for row in rows)
        if rows and agrees:
            return rows, by_zeros
        if rows and not by_zeros:
            return OTHER_PATIENT, False
        rows, by_zeros = self.patients.find(patient, self.known_patients)
        if rows and self.mapping.date and not date:
            return NO_DATE, False
        if self.mapping.date:
            rows = [row for row in rows if self.rows[row]["date"] == date]
        elif rows and self.studies_of[patient] > 1:
            return SEVERAL_STUDIES, False
        return rows or NO_ROW, by_zeros

    def _report(self, places: Sequence[int]) -> StudyReport | str:
        names = {self.rows[place]["names"] for place in places}
        told = {tuple(self.rows[place][kind] for kind in _TOLD) for place in places}
        rows = [dict(zip(_TOLD, cells, strict=True)) for cells in sorted(told)]
        sides = Counter(row["side"] for row in rows)
        if "unknown" in sides:
            return BAD_SIDE
        if max(sides.values()) > 1:
            return f"{max(sides.values())} different reports for one study"
        splits = {row["split"] for row in rows} - {""}
        if len(splits) > 1:
            return "its rows in the report table are in different splits"
        texts: dict[str, str] = {}
        lesions: dict[str, int] = {}
        for row in rows:
            own = row["side"]
            texts |= {own: row["text"]} if own else {side: row[side] for side in ("left", "right")}
            cells = {own: row["lesion"]} if own else {s: row[f"lesion_{s}"] for s in ("left", "right")}
            lesions |= {side: int(cell) for side, cell in cells.items() if cell}
        return StudyReport(
            left=texts.get("left", ""),
            right=texts.get("right", ""),
            whole="" if rows[0]["side"] else rows[0]["text"],
            names=frozenset(name for cell in names for name in cell.splitlines() if name.strip()),
            split=splits.pop() if splits else "",
            lesions=lesions,
        )


def read_report_table(path: Path, mapping: ReportMapping, *, site: str) -> ReportTable:
    """Read a report table: CSV (`,`, `;`, tabulator) or Excel, with the columns of the mapping.

    Where both numbers have columns, the patient number counts for rows without an accession number, and
    must agree in the others.

    Raises:
        SettingsError: a mapping that names no number, or mixes the three forms of a table.
        DataError: a missing file or column, another encoding, a split or a class of another kind.
    """
    columns = _columns(mapping)
    try:
        rows = _rows(path, mapping, columns, site)
    except DataError as error:
        # the file's name is the hospital's own
        raise DataError(str(error), public=error.public.replace(path.name, "the report table")) from None
    return ReportTable(
        mapping=mapping,
        rows=tuple(rows),
        num_rounded=sum(num_rounded([row[kind] for row in rows]) for kind in _NUMBERS),
        accessions=NumberIndex.of(row["accession"] for row in rows),
        patients=NumberIndex.of("" if row["accession"] else row["patient"] for row in rows),
    )


def _rows(path: Path, mapping: ReportMapping, columns: Mapping[str, tuple[str, ...]], site: str) -> list[Row]:
    lines = report_lines(path, encoding=mapping.encoding, sheet=mapping.sheet, site=site)
    header = lines[0][1]
    places = column_places(header, [each for kind in columns.values() for each in kind], (), site, path)
    rows: list[Row] = []
    for number, cells in lines[1:]:
        if len(cells) != len(header):
            fact = f"{path.name} line {number} has {len(cells)} cells, its header has {len(header)}"
            raise site_fault(site, fact, path=path)
        row = {
            kind: "\n".join(cells[places[column]].strip() for column in columns.get(kind, ()))
            for kind in _KINDS
        }
        fault = _tidy(row, mapping)
        if fault:
            raise site_fault(site, f"{path.name} line {number}: {fault}", path=path)
        rows.append(row)
    try:
        dates = column_dates([row["date"] for row in rows])
    except ValueError as error:
        raise site_fault(site, f"{path.name}: {error}", path=path) from None
    return [{**row, "date": date} for row, date in zip(rows, dates, strict=True)]


def _columns(mapping: ReportMapping) -> dict[str, tuple[str, ...]]:
    """Field of the mapping to its columns; only those that are set."""
    given: dict[str, Any] = asdict(mapping)
    columns: dict[str, tuple[str, ...]] = {
        kind: (given[kind],) for kind in _KINDS if kind != "names" and given[kind]
    }
    if mapping.names:
        columns["names"] = mapping.names
    if not mapping.accession and not mapping.patient:
        raise SettingsError("mapping: reports needs a column of numbers: accession or patient")
    if bool(mapping.left) != bool(mapping.right):
        raise SettingsError("mapping: reports.left and reports.right go together")
    if mapping.left and (mapping.text or mapping.side):
        raise SettingsError("mapping: reports has either left and right, or text")
    if mapping.lesion and not mapping.side:
        raise SettingsError(
            "mapping: reports.lesion needs side; without it there are lesion_left, lesion_right"
        )
    if mapping.side and (mapping.lesion_left or mapping.lesion_right):
        raise SettingsError("mapping: with reports.side, the class of a row's breast is reports.lesion")
    return columns


def _tidy(row: Row, mapping: ReportMapping) -> str:
    """Bring the cells of a row into one form; what is wrong with one of them, or nothing."""
    for kind in _NUMBERS:
        row[kind] = tidy_number(row[kind])
    if mapping.side:
        row["side"] = _side(row["side"], mapping)
    row["split"] = row["split"].casefold()
    if row["split"] not in ("", *SPLITS):
        return "wanted train, val, test or nothing as the split"
    for kind in ("lesion", "lesion_left", "lesion_right"):
        if row[kind] not in _CLASSES:
            return "wanted 0, 1, 2 or nothing as the class of a breast"
        row[kind] = _CLASSES[row[kind]]
    return ""


def _side(cell: str, mapping: ReportMapping) -> str:
    value = folded(cell).rstrip(".")
    if value in {folded(each).rstrip(".") for each in mapping.left_values}:
        return "left"
    return "right" if value in {folded(each).rstrip(".") for each in mapping.right_values} else "unknown"
