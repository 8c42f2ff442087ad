"""The tables of either layout under one set of names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.checking.layout import UKA, Layout
from climb_model.checking.loose import Loose, read_loosely
from climb_model.checking.result import Finding, found
from climb_model.data.exam import SPLITS, DataError
from climb_model.data.folders import request_of
from climb_model.data.tables import Row, Table, of_fold

SIDES = {"left": "Linke Mamma", "right": "Rechte Mamma"}


@dataclass(frozen=True, kw_only=True)
class SiteTables:
    """What the tables say. None: not there, not readable, or not looked at."""

    splits: dict[str, Row] | None = field(repr=False)
    """UID to its row, of those that have a split; `Split` in lower case."""

    annotations: dict[str, Row] | None = field(repr=False)
    """ODELIA only."""

    patients: dict[str, str] = field(repr=False)
    reports: dict[str, str] | None = field(repr=False)
    findings: dict[str, Row] | None = field(repr=False)
    columns: tuple[str, ...]
    """Findings that have a column."""

    faults: tuple[Finding, ...]
    """Of single tables."""

    label_faults: tuple[Finding, ...]
    """Of the table of findings, which a training site need not have."""


def read_tables(layout: Layout, findings: Sequence[str], *, reports: bool, labels: bool) -> SiteTables:
    """Read what there is.

    Args:
        findings: those of the settings.
        reports: whether reports are wanted; else they are not opened.
        labels: whether findings are wanted; else they are read where there are any.
    """
    if not layout.kind:
        return SiteTables(
            splits=None,
            annotations=None,
            patients={},
            reports=None,
            findings=None,
            columns=(),
            faults=(),
            label_faults=(),
        )
    read = _uka if layout.kind == UKA else _odelia
    return read(layout.metadata, tuple(findings), reports=reports, labels=labels)


def _odelia(folder: Path, findings: tuple[str, ...], *, reports: bool, labels: bool) -> SiteTables:
    split = read_loosely(folder / "split.csv", ("UID", "Split"), ("Fold",))
    annotation = read_loosely(folder / "annotation.csv", ("UID", "PatientID"), ("Age", "Lesion"))
    splits, split_faults = _splits("split.csv", split)
    annotations, twice = _unique("annotation.csv", annotation)
    texts: dict[str, Row] | None = None
    faults = [*split.findings, *annotation.findings, *split_faults, *twice]
    if reports:
        table = read_loosely(folder / "reports.csv", ("UID", "Report"))
        texts, twice = _unique("reports.csv", table)
        faults += [*table.findings, *twice]
    marks = Loose(rows=None)
    if labels or os.path.isfile(folder / "findings.csv"):  # no error where the folder cannot be entered
        marks = read_loosely(folder / "findings.csv", ("UID", *findings))
    marked, marks_twice = _unique("findings.csv", marks)
    rows = annotations or {}
    return SiteTables(
        splits=splits,
        annotations=annotations,
        patients={uid: row["PatientID"] for uid, row in rows.items() if row["PatientID"]},
        reports=None if texts is None else {uid: row["Report"] for uid, row in texts.items()},
        findings=marked,
        columns=tuple(name for name in findings if name in marks.columns),
        faults=tuple(faults),
        label_faults=(*marks.findings, *marks_twice),
    )


def _uka(folder: Path, findings: tuple[str, ...], *, reports: bool, labels: bool) -> SiteTables:
    wanted, optional = ("UID", "Split"), ("Fold", "PatientID")
    split = read_loosely(folder / "split_regex.csv", wanted, (*optional, *findings))
    splits, faults = _splits("split_regex.csv", split)
    columns = tuple(name for name in findings if name in split.columns)
    lacking = [name for name in findings if name not in columns] if labels or columns else []
    faults = [*split.findings, *faults]
    texts = None
    if reports:
        texts, table_faults = _uka_reports(folder / "mrt-befund.csv")
        faults += table_faults
    return SiteTables(
        splits=splits,
        annotations=None,
        patients={uid: row["PatientID"] or request_of(uid) for uid, row in (splits or {}).items()},
        reports=texts,
        findings=splits if columns else None,
        columns=columns,
        faults=tuple(faults),
        label_faults=tuple(
            each
            for name in lacking
            for each in found("tables.column_missing", count=1, detail=f"split_regex.csv: '{name}'")
        ),
    )


def _uka_reports(path: Path) -> tuple[dict[str, str] | None, list[Finding]]:
    keys = ("AnforderungsNr", "UntersuchungsNr")
    table = read_loosely(path, (*keys, *SIDES.values()))
    rows = [
        row | {"UID": row[keys[0]] + row[keys[1]].zfill(2) if all(row[key] for key in keys) else ""}
        for row in table.rows or ()
    ]
    studies, twice = _unique(path.name, Loose(rows=None if table.rows is None else tuple(rows)))
    if studies is None:
        return None, [*table.findings]
    texts = {f"{uid}_{side}": row[column] for uid, row in studies.items() for side, column in SIDES.items()}
    return texts, [*table.findings, *twice]


def _unique(name: str, table: Loose) -> tuple[dict[str, Row] | None, list[Finding]]:
    """The first row of each UID, and what is wrong with the UIDs."""
    if table.rows is None:
        return None, []
    uids = Counter(row["UID"] for row in table.rows)
    nameless = uids.pop("", 0)
    rows = {row["UID"]: row for row in reversed(table.rows) if row["UID"]}
    twice = [uid for uid, count in uids.items() if count > 1]
    faults = [
        *found("tables.no_uid", count=nameless, detail=name),
        *found("tables.uid_twice", twice, detail=name),
    ]
    return rows, faults


def _splits(name: str, table: Loose) -> tuple[dict[str, Row] | None, list[Finding]]:
    """The rows of fold 0, each UID once, in a split; and what is wrong with the others."""
    if table.rows is None:
        return None, []
    faults: list[Finding] = []
    try:
        rows = of_fold(Table("", Path(name), table.rows), 0)
    except DataError:
        faults += found("tables.no_fold", count=1)
        rows = [row | {"Split": row["Split"].casefold()} for row in table.rows]
    good = [row for row in rows if row["Split"] in SPLITS]
    where: dict[str, set[str]] = {}
    for row in good:
        where.setdefault(row["UID"], set()).add(row["Split"])
    where.pop("", None)
    torn = [uid for uid, splits in where.items() if len(splits) > 1]
    bad = {row["UID"] for row in rows if row["Split"] not in SPLITS and row["UID"]}
    if "Split" in table.columns:
        faults += found("tables.bad_split", bad)
    unique, twice = _unique(name, Loose(rows=tuple(rows)))
    named = {uid for each in twice for uid in each.who} - set(torn)
    faults += found("tables.uid_two_splits", torn)
    faults += [each for each in twice if each.code == "tables.no_uid"]
    faults += found("tables.uid_twice", named, detail=name)
    return unique, faults
