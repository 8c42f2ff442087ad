"""A site's tables of the ODELIA layout: rows of an import join those that are there."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import SPLITS
from climb_model.data.tables import csv_lines, folded, site_fault
from climb_model.intake.pseudonym import pseudonym
from climb_model.intake.study import LeftOut

FOLDER = "metadata_unilateral"
COLUMNS = {
    "annotation.csv": ("UID", "PatientID", "Age", "Lesion"),
    "split.csv": ("UID", "Split", "Fold"),
    "reports.csv": ("UID", "Report"),
}
TORN = "its patient's other exams are in another split"
_HASH_BITS = 80

_Cells = Mapping[str, str | None]
"""Column to its cell; None: nothing is known, and an earlier cell stays."""


@dataclass(frozen=True, kw_only=True)
class ExamRow:
    """What the tables hold of one breast."""

    uid: str
    patient: str
    """Pseudonym of the patient."""

    age_days: int | None
    lesion: int | None
    split: str
    fold: int
    report: str = field(repr=False)
    """Redacted text of this breast; empty: it gets no row in reports.csv."""

    told: frozenset[str] = frozenset()
    """`report`, `lesion`: what is known also where it is empty, so that an earlier cell is cleared."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write_tables` did."""

    notices: tuple[str, ...]
    """Counts, without identifiers."""

    left_out: tuple[LeftOut, ...]
    """Exams that got no rows."""


@dataclass
class _Table:
    """A CSV file in memory, with its foreign columns and rows."""

    path: Path
    header: list[str]
    lines: list[list[str]]
    separator: str = ","

    def places(self) -> dict[str, int]:
        return {folded(name): place for place, name in enumerate(self.header)}

    def cells(self, column: str) -> list[str]:
        place = self.places()[folded(column)]
        return [line[place].strip() for line in self.lines]


def assign_split(
    patient: str, key: bytes, shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
) -> tuple[str, int]:
    """The split of a patient, by a keyed hash: the same in every import, whoever else is imported.

    Args:
        patient: pseudonym of the patient, so that all exams and both breasts stay together.
        key: the site's key.
        shares: of train, val and test; the real shares of n patients differ by about sqrt(n).

    Returns:
        Split and fold. The fold is always 0: one division, not one of five.

    Raises:
        ValueError: shares that are negative or do not add up to 1.
    """
    if min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ValueError(f"shares of train, val and test must add up to 1, got {shares}")
    place = int(pseudonym(key, "split", patient), 16) / 2**_HASH_BITS
    if place < shares[0]:
        return "train", 0
    return ("val", 0) if place < shares[0] + shares[1] else ("test", 0)


def exams_of_patients(site_dir: Path) -> dict[str, frozenset[str]]:
    """Pseudonym of each patient in annotation.csv to her exams.

    Raises:
        DataError: a table that is there but cannot be read, or lacks a column.
    """
    name = "annotation.csv"
    table = _load(site_dir / FOLDER / name, COLUMNS[name], site_dir.resolve().name)
    exams: dict[str, set[str]] = {}
    for uid, patient in zip(table.cells("UID"), table.cells("PatientID"), strict=True):
        exams.setdefault(patient, set()).add(uid.rpartition("_")[0])
    return {patient: frozenset(each) for patient, each in exams.items()}


def write_tables(site_dir: Path, rows: Sequence[ExamRow]) -> Written:
    """Merge rows into annotation.csv, split.csv and reports.csv by UID.

    Rows and columns that the import does not know stay, also cells for which it has nothing new: an
    import without a report table deletes no report. What a row is told to have empty leaves the tables,
    as after a corrected report table: its Lesion cell, its line in reports.csv. Lines are
    sorted by UID, so that the same rows give the same bytes in however many imports they came. Text keeps
    its line breaks, quoted.

    Raises:
        DataError: a table that is there but cannot be read, or lacks a column.
    """
    folder = site_dir / FOLDER
    site = site_dir.resolve().name
    tables = {name: _load(folder / name, columns, site) for name, columns in COLUMNS.items()}
    torn = _torn(tables["annotation.csv"], tables["split.csv"], rows)
    kept = [row for row in rows if row.uid not in torn]
    contents: dict[str, dict[str, _Cells]] = {
        "annotation.csv": {row.uid: _annotation(row) for row in kept},
        "split.csv": {row.uid: {"Split": row.split, "Fold": str(row.fold)} for row in kept},
        "reports.csv": {row.uid: {"Report": _tidy(row.report)} for row in kept if _tidy(row.report)},
    }
    cleared = {row.uid for row in kept if "report" in row.told and not _tidy(row.report)}
    notices: list[str] = []
    for name, table in tables.items():
        num_changed = _merge(table, contents[name])
        if name == "reports.csv":
            num_changed += _remove(table, cleared)
        if num_changed:
            notices.append(f"{name}: {num_changed} {'row' if num_changed == 1 else 'rows'} changed")
        _save(table)
    left_out = tuple(LeftOut(what="exam", reason=TORN, study=uid, num_files=0) for uid in sorted(torn))
    return Written(notices=tuple(notices), left_out=left_out)


def _load(path: Path, columns: tuple[str, ...], site: str) -> _Table:
    if not path.is_file():
        return _Table(path, list(columns), [])
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise site_fault(site, f"{path.name} is not UTF-8, first at byte {error.start}", path=path) from None
    separator, numbered = csv_lines(text, site, path)
    if not numbered:
        return _Table(path, list(columns), [])
    table = _Table(path, numbered[0][1], [cells for _, cells in numbered[1:]], separator)
    for number, cells in numbered[1:]:
        if len(cells) != len(table.header):
            fact = f"{path.name} line {number} has {len(cells)} cells, its header has {len(table.header)}"
            raise site_fault(site, fact, path=path)
    for column in columns:
        if [folded(name) for name in table.header].count(folded(column)) != 1:
            raise site_fault(site, f"{path.name} must have column '{column}' once", path=path)
    return table


def _torn(annotation: _Table, split: _Table, rows: Sequence[ExamRow]) -> set[str]:
    """UIDs of new rows whose patient is also in another split, among the new or the earlier rows."""
    new = {row.uid for row in rows}
    patients = dict(zip(annotation.cells("UID"), annotation.cells("PatientID"), strict=True))
    earlier: dict[str, set[str]] = {}
    for uid, name in zip(split.cells("UID"), split.cells("Split"), strict=True):
        if uid not in new and uid in patients:
            earlier.setdefault(patients[uid], set()).add(name.casefold())
    wanted: dict[str, set[str]] = {}
    for row in rows:
        assert row.split in SPLITS, "a split is train, val or test"
        wanted.setdefault(row.patient, set()).add(row.split)
    return {row.uid for row in rows if len(wanted[row.patient] | earlier.get(row.patient, set())) > 1}


def _annotation(row: ExamRow) -> _Cells:
    lesion = "" if row.lesion is None else str(row.lesion)
    return {
        "PatientID": row.patient,
        "Age": None if row.age_days is None else str(row.age_days),
        "Lesion": lesion if lesion or "lesion" in row.told else None,
    }


def _merge(table: _Table, contents: Mapping[str, _Cells]) -> int:
    """Put cells into the table; how many earlier lines got another cell.

    A UID with several lines, as in ODELIA's lists of one line per fold, keeps them as they are.
    """
    places = table.places()
    uids = table.cells("UID")
    num_lines = Counter(uids)
    num_changed = 0
    for uid, line in zip(uids, table.lines, strict=True):
        fresh = {
            places[folded(name)]: cell for name, cell in contents.get(uid, {}).items() if cell is not None
        }
        if num_lines[uid] == 1 and any(line[place] != cell for place, cell in fresh.items()):
            num_changed += 1
            for place, cell in fresh.items():
                line[place] = cell
    for uid in set(contents) - set(uids):
        line = [""] * len(table.header)
        for name, cell in {"UID": uid, **contents[uid]}.items():
            line[places[folded(name)]] = cell or ""
        table.lines.append(line)
    place = places["uid"]
    table.lines.sort(key=lambda line: line[place].strip())
    return num_changed


def _remove(table: _Table, uids: Collection[str]) -> int:
    """Take lines out of the table; how many."""
    kept = [line for uid, line in zip(table.cells("UID"), table.lines, strict=True) if uid not in uids]
    num_removed = len(table.lines) - len(kept)
    table.lines = kept
    return num_removed


def _save(table: _Table) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=table.separator, lineterminator="\n").writerows([table.header, *table.lines])
    write_text_atomic(table.path, text.getvalue())


def _tidy(report: str) -> str:
    """Without outer blanks and control characters; line breaks are line feeds."""
    lines = report.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(sign for sign in lines if sign in "\n\t" or ord(sign) >= 32).strip()
