"""From a hospital's report table to one row a breast: joined, redacted, divided between the sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import replace

from climb_model.data.exam import SPLITS
from climb_model.intake.pseudonym import exam_id, patient_id
from climb_model.intake.reports.redact import redact
from climb_model.intake.reports.sides import split_report
from climb_model.intake.reports.site_tables import ExamRow, assign_split
from climb_model.intake.reports.table import NO_DATE, NO_ROW, ReportTable, StudyReport
from climb_model.intake.study import LeftOut, Study

NO_REPORT = "no report for this breast"

Shares = tuple[float, float, float]
"""Of patients in train, val and test."""


class ExamTexts:
    """Makes the rows of exams and counts what it took out of their texts. Raw numbers stay in memory."""

    def __init__(
        self,
        table: ReportTable | None,
        studies: Collection[Study],
        *,
        key: bytes,
        shares: Shares,
        splits: Mapping[str, str] | None = None,
        earlier: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        """Join a table to the studies of an import.

        Args:
            table: of the hospital, or None without one.
            studies: all of the import.
            key: the site's key.
            shares: of the splits.
            earlier: patients' pseudonyms to their exams that the site holds, as `exams_of_patients` reads
                them: a table without dates may mean any of a patient's exams.
            splits: patients' pseudonyms to the split that they have at the site; only a table moves them.
        """
        if table is not None:
            table = replace(table, earlier=_earlier_studies(studies, earlier or {}, key)).knowing(studies)
        self._table = table
        self._key = key
        self._shares = shares
        self._known = splits or {}
        self._splits: dict[str, str] = {}
        self.redacted: Counter[str] = Counter()
        self.left_out: list[LeftOut] = []

    def unmatched(self, studies: Collection[Study]) -> tuple[str, ...]:
        """What of the table and of the import's studies did not come together, in words."""
        return () if self._table is None else self._table.unmatched(studies).notices

    def learn_split(self, study: Study, patient: str) -> None:
        """Note the split that the table gives a patient: it holds for all exams of hers."""
        found = self._found(study)
        if isinstance(found, StudyReport) and found.split:
            self._splits.setdefault(patient, found.split)

    def rows(
        self,
        study: Study,
        exam: str,
        patient: str,
        sides: tuple[str, ...],
        *,
        told: Mapping[str, int] | None = None,
        split: str = "",
    ) -> list[ExamRow]:
        """One row for each breast of an exam.

        Args:
            study: the raw numbers that the table is asked for, and the names to take out.
            exam: pseudonym of the exam.
            patient: pseudonym of the patient.
            sides: `left`, `right`: the breasts that are there.
            told: classes of the breasts that the export itself tells; the table's count before them.
            split: the export's own split; the table's counts before it.
        """
        report, told_here = self._report(study, exam)
        lesions = {**(told or {}), **report.lesions}
        texts = self._texts(report, study, exam)
        drawn, fold = assign_split(patient, self._key, self._shares)
        chosen = report.split or self._splits.get(patient) or self._known.get(patient) or split or drawn
        assert chosen in SPLITS, "checked where it was read"
        known = self._known.get(patient, chosen)
        if chosen != known:
            moved = f"its split is {chosen} now, as the report table says; it was {known}"
            self.left_out.append(LeftOut(what="notice", reason=moved, study=exam, num_files=0))
        rows: list[ExamRow] = []
        for side in sides:
            uid = f"{exam}_{side}"
            if self._table is not None and not texts[side]:
                self.left_out.append(LeftOut(what="report", reason=NO_REPORT, study=uid, num_files=0))
            row = ExamRow(
                uid=uid,
                patient=patient,
                age_days=study.age_days,
                lesion=lesions.get(side),
                split=chosen,
                fold=fold,
                report=texts[side],
                told=told_here,
            )
            rows.append(row)
        return rows

    def _found(self, study: Study) -> StudyReport | str:
        if self._table is None:
            return StudyReport()
        return self._table.for_study(accession=study.accession, patient=study.patient, date=study.date)

    def _report(self, study: Study, exam: str) -> tuple[StudyReport, frozenset[str]]:
        """What the table says of a study, and which fields it knows: also empty ones, for any of its rows."""
        found = self._found(study)
        known = frozenset[str]() if self._table is None or found in (NO_ROW, NO_DATE) else self._table.fields
        if isinstance(found, str):
            self.left_out.append(LeftOut(what="report", reason=found, study=exam, num_files=0))
            return StudyReport(), known
        return found, known

    def _texts(self, report: StudyReport, study: Study, exam: str) -> dict[str, str]:
        """The text of each breast, without identifiers."""
        names = {*report.names, *study.names}
        numbers = tuple(number for number in (study.accession, study.patient) if number)

        def clean(text: str) -> str:
            found = redact(text, names, numbers=numbers)
            self.redacted.update(found.counts)
            return found.text

        if not report.whole:
            return {"left": clean(report.left), "right": clean(report.right)}
        divided = split_report(clean(report.whole))
        if divided.unsplit:
            self.left_out.append(LeftOut(what="report", reason=divided.unsplit, study=exam, num_files=0))
        return {"left": divided.left, "right": divided.right}


def _earlier_studies(
    studies: Collection[Study], earlier: Mapping[str, frozenset[str]], key: bytes
) -> dict[str, int]:
    """Raw patient number to how many exams of hers the site holds that are not of this import."""
    imported = {exam_id(study, key) for study in studies}
    patients = {study.patient for study in studies} - {""}
    return {
        patient: len(earlier.get(patient_id(patient, key), frozenset()) - imported) for patient in patients
    }
