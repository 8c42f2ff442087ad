"""Tables and folders held against each other: who is missing where, leakage, classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from climb_model.checking.codes import WARNING
from climb_model.checking.layout import UKA, Layout
from climb_model.checking.result import Finding, found, softened
from climb_model.checking.site_tables import SiteTables
from climb_model.data.exam import SPLITS
from climb_model.data.tables import Row, whole_number

POSITIVE, NEGATIVE, UNKNOWN = ("1", "1.0"), ("0", "0.0"), ("",)
AGE_DAYS = (10 * 365, 120 * 366)
"""Below, the age was written in years or months."""

LESIONS = ("0", "1", "2")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What the folder is for."""

    server: bool
    """The coordinator's own exams: findings are needed, reports are not."""

    measured: tuple[str, ...]
    """Splits on which AUCs are computed."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What comparing gave."""

    findings: tuple[Finding, ...]
    splits: Mapping[str, str] = field(repr=False)
    """UID to split, of the folders that have both."""

    patients: Mapping[str, str] = field(repr=False)


def compare(layout: Layout, tables: SiteTables, role: Role) -> Compared:
    """Compare the folders with each table, and the tables with each other."""
    rows = tables.splits or {}
    splits = {uid: rows[uid]["Split"] for uid in layout.folders if uid in rows}
    labels = [*tables.label_faults, *_cells(tables)]
    findings = [
        *_zeros(layout, tables),
        *_missing(layout, tables, role),
        *_extra(layout, tables),
        *_patients(tables),
        *_numbers(tables),
        *(labels if role.server else softened(labels, WARNING)),
        *_classes(tables, splits, role),
    ]
    return Compared(findings=tuple(findings), splits=splits, patients=tables.patients)


def bare(uid: str) -> str:
    """A UID without leading zeros."""
    return re.sub(r"^0+(?=.)", "", uid)


def _sources(layout: Layout, tables: SiteTables) -> list[Collection[str]]:
    named = (tables.splits, tables.annotations, tables.reports, tables.findings)
    return [layout.folders, *(table for table in named if table is not None)]


def _zeros(layout: Layout, tables: SiteTables) -> list[Finding]:
    """Spellings of one UID that differ in zeros; not where one place holds both, as two exams' names."""
    spellings: dict[str, set[str]] = {}
    both: set[str] = set()
    for source in _sources(layout, tables):
        here: dict[str, str] = {}
        for uid in source:
            key = bare(uid)
            if here.setdefault(key, uid) != uid:
                both.add(key)
            spellings.setdefault(key, set()).add(uid)
    torn = [min(uids) for key, uids in spellings.items() if len(uids) > 1 and key not in both]
    return found("tables.leading_zeros", torn)


def _bare_set(uids: Collection[str] | None) -> set[str]:
    return {bare(uid) for uid in uids or ()}


def _not_in(uids: Collection[str], others: Collection[str]) -> list[str]:
    """UIDs that have no counterpart, leading zeros apart: those are told of already."""
    there = _bare_set(others)
    return [uid for uid in uids if bare(uid) not in there]


def _missing(layout: Layout, tables: SiteTables, role: Role) -> list[Finding]:
    if tables.splits is None:
        return []
    findings = [
        *found("tables.no_folder", _not_in(tables.splits, layout.folders)),
        *found("tables.no_split", _not_in(layout.folders, tables.splits)),
    ]
    exams = [uid for uid in layout.folders if bare(uid) in _bare_set(tables.splits)]
    if tables.annotations is not None and tables.patients:  # without its column that is told instead
        findings += found("tables.no_patient", _not_in(exams, tables.patients))
    if tables.reports is not None:
        findings += found("reports.missing", _not_in(exams, tables.reports))
    if tables.findings is not None and role.server:
        findings += found("tables.no_findings", _not_in(exams, tables.findings))
    return findings


def _extra(layout: Layout, tables: SiteTables) -> list[Finding]:
    exams = [*layout.folders, *(tables.splits or {})]
    reports = tables.reports or {}
    if layout.kind == UKA:  # a study has one row with both breasts, also where only one is a folder
        studies = {uid.rpartition("_")[0] for uid in exams}
        strange = {uid.rpartition("_")[0] for uid in reports}
        more = found("tables.reports_extra", _not_in(strange, studies))
    else:
        more = found("tables.reports_extra", _not_in(reports, exams))
    return [
        *found("tables.annotation_extra", _not_in(tables.annotations or {}, exams)),
        *more,
        *found("tables.findings_extra", _not_in(tables.findings or {}, exams)),
    ]


def _patients(tables: SiteTables) -> list[Finding]:
    where: dict[str, set[str]] = {}
    for uid, row in (tables.splits or {}).items():
        if uid in tables.patients and row["Split"] in SPLITS:
            where.setdefault(tables.patients[uid], set()).add(row["Split"])
    return found("tables.patient_two_splits", [who for who, splits in where.items() if len(splits) > 1])


def _numbers(tables: SiteTables) -> list[Finding]:
    """Cells of Fold, Age and Lesion."""
    bad: list[str] = []
    ages: list[str] = []
    lesions: list[str] = []
    annotations = tables.annotations or {}
    for uid in {*(tables.splits or {}), *annotations}:
        row = annotations.get(uid, {})
        fold = (tables.splits or {}).get(uid, {}).get("Fold", "")
        try:
            _, age, lesion = (
                whole_number(cell) for cell in (fold, row.get("Age", ""), row.get("Lesion", ""))
            )
        except (ValueError, OverflowError):
            bad.append(uid)
            continue
        if age is not None and not AGE_DAYS[0] <= age <= AGE_DAYS[1]:
            ages.append(uid)
        if lesion is not None and str(lesion) not in LESIONS:
            lesions.append(uid)
    return [
        *found("tables.not_whole", bad),
        *found("tables.age_range", ages),
        *found("tables.lesion_range", lesions),
    ]


def _cells(tables: SiteTables) -> list[Finding]:
    sound = (*POSITIVE, *NEGATIVE, *UNKNOWN)
    rows = (tables.findings or {}).items()
    bad = [f"{uid}/{name}" for uid, row in rows for name in tables.columns if row[name] not in sound]
    return found("tables.finding_cell", bad)


def class_counts(tables: SiteTables, splits: Mapping[str, str]) -> dict[str, dict[str, dict[str, int]]]:
    """Split to finding to how many exams are positive, negative and unknown."""
    counts: dict[str, dict[str, dict[str, int]]] = {}
    if tables.findings is None:
        return counts
    kinds = {"positive": POSITIVE, "negative": NEGATIVE}
    for split in SPLITS:
        uids = [uid for uid, where in splits.items() if where == split]
        counts[split] = {}
        for name in tables.columns:
            cells = [tables.findings.get(uid, {}).get(name, "") for uid in uids]
            told = {kind: sum(cell in values for cell in cells) for kind, values in kinds.items()}
            counts[split][name] = told | {"unknown": len(cells) - sum(told.values())}
    return counts


def lesion_counts(annotations: Mapping[str, Row], splits: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """Split to Lesion (0, 1, 2) to exams."""
    return {
        split: {
            lesion: sum(
                annotations.get(uid, {}).get("Lesion", "").removesuffix(".0") == lesion
                for uid, where in splits.items()
                if where == split
            )
            for lesion in LESIONS
        }
        for split in SPLITS
    }


def _classes(tables: SiteTables, splits: Mapping[str, str], role: Role) -> list[Finding]:
    """Findings whose AUC cannot be computed on a measured split that has exams."""
    findings: list[Finding] = []
    counts = class_counts(tables, splits)
    for split in role.measured:
        if split not in splits.values():
            continue
        for code, kind in (("tables.no_positive", "positive"), ("tables.no_negative", "negative")):
            none = [name for name, told in counts.get(split, {}).items() if not told[kind]]
            detail = f"split {split}: {', '.join(none)}"
            findings += found(code, count=len(none), detail=detail)
    return findings
