"""ODELIA's tables of exams with both breasts: `metadata/{annotation,split}.csv`, each optional."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.data.tables import by_uid, read_table, site_fault, split_rows, whole_number
from climb_model.intake.nifti.folders import OUTSIDE, inside
from climb_model.intake.study import LeftOut


@dataclass(frozen=True, kw_only=True)
class ExamFacts:
    """What the tables say of one exam."""

    patient: str = field(default="", repr=False)
    lesions: dict[str, int] = field(default_factory=dict)
    """`left`, `right` to 0 none, 1 benign, 2 malignant."""

    split: str = ""
    age_days: int | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the tables say of all exams."""

    exams: dict[str, ExamFacts] = field(repr=False)

    def missing(self, there: Collection[str]) -> tuple[LeftOut, ...]:
        """Rows without an exam, and exams without a row, in counts."""
        if not self.exams:
            return ()
        counts = {
            "rows of the tables without an exam": len(set(self.exams) - set(there)),
            "exams without a row in the tables": len(set(there) - set(self.exams)),
        }
        return tuple(
            LeftOut(what="notice", reason=f"{number} {fact}", num_files=0)
            for fact, number in counts.items()
            if number
        )


def read_facts(source: Path, *, site: str) -> Facts:
    """Patient, age, both breasts' classes and split of every exam listed in `metadata/`.

    Args:
        source: the folder that is imported; a link out of it is refused, not skipped: without its patient
            numbers the exams of one patient could get into two splits.
        site: its name, for errors.

    Raises:
        DataError: a table that cannot be read or lies outside, a class that is not 0, 1 or 2, an age that
            is no number, a UID in two splits.
    """
    facts: dict[str, ExamFacts] = {}
    annotation, split = (source / "metadata" / f"{name}.csv" for name in ("annotation", "split"))
    for path in (annotation, split):
        _check_inside(path, source)
    splits: dict[str, str] = {}
    if split.is_file():
        table = read_table(split, ("UID", "Split"), ("Fold",), site=site)
        splits = {uid: row["Split"] for uid, row in split_rows(table, 0).items()}
        facts = {uid: ExamFacts(split=name) for uid, name in splits.items()}
    if annotation.is_file():
        optional = ("PatientID", "Age", "Lesion_Left", "Lesion_Right")
        table = read_table(annotation, ("UID",), optional, site=site)
        for uid, row in by_uid(table).items():
            try:
                age = whole_number(row["Age"])
                told = {side: whole_number(row[f"Lesion_{side.title()}"]) for side in ("left", "right")}
            except ValueError:
                raise _unreadable(site, uid, annotation) from None
            lesions = {side: lesion for side, lesion in told.items() if lesion is not None}
            if not set(lesions.values()) <= {0, 1, 2}:
                raise _unreadable(site, uid, annotation)
            facts[uid] = ExamFacts(
                patient=row["PatientID"], lesions=lesions, split=splits.get(uid, ""), age_days=age
            )
    return Facts(exams=facts)


def _check_inside(path: Path, source: Path) -> None:
    if os.path.lexists(path) and not inside(path, source):
        fact = f"metadata/{path.name}: {OUTSIDE}; put a copy of the table into the folder"
        raise DataError(f"{fact} ({path})", fact)


def _unreadable(site: str, uid: str, path: Path) -> DataError:
    fact = "annotation.csv has a lesion that is not 0, 1 or 2, or an Age that is no whole number"
    return site_fault(site, fact, detail=f", UID '{uid}'", path=path)
