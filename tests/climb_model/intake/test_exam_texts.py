"""Rows of exams from a report table: what it says, also that there is nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.intake.exam_texts import ExamTexts
from climb_model.intake.mapping import ReportMapping
from climb_model.intake.pseudonym import exam_id, patient_id
from climb_model.intake.reports.site_tables import FOLDER, ExamRow, exams_of_patients, write_tables
from climb_model.intake.reports.table import SEVERAL_STUDIES, read_report_table
from climb_model.intake.study import Study

SIDES = ("left", "right")
SWAPPED = ReportMapping(accession="Nr", left="R", right="L", lesion_left="KR", lesion_right="KL")
CORRECT = ReportMapping(accession="Nr", left="L", right="R", lesion_left="KL", lesion_right="KR")


def study(accession: str = "1", patient: str = "7") -> Study:
    return Study(
        uid=f"1.2.{accession}",
        accession=accession,
        patient=patient,
        date="20210312",
        age_days=None,
        names=frozenset(),
        vendor="other",
        field_strength_t=None,
        series=(),
    )


def rows_of(folder: Path, content: str | None, mapping: ReportMapping = CORRECT) -> list[ExamRow]:
    table = None
    if content is not None:
        path = folder / "t.csv"
        path.write_text(content, encoding="utf-8")
        table = read_report_table(path, mapping, site="A")
    texts = ExamTexts(table, [study()], key=bytes(32), shares=(1.0, 0.0, 0.0))
    return texts.rows(study(), "e", "p", SIDES)


def tables(site: Path) -> tuple[str, str]:
    return (site / FOLDER / "annotation.csv").read_text(), (site / FOLDER / "reports.csv").read_text()


def test_a_corrected_mapping_leaves_nothing_on_the_wrong_breast(tmp_path: Path) -> None:
    content = "Nr,L,R,KL,KR\n1,Karzinom,,2,\n"
    write_tables(tmp_path, rows_of(tmp_path, content, SWAPPED))
    assert "e_right,Karzinom" in tables(tmp_path)[1]
    write_tables(tmp_path, rows_of(tmp_path, content))
    annotation, reports = tables(tmp_path)
    assert annotation.splitlines()[1:] == ["e_left,p,,2", "e_right,p,,"]
    assert reports.splitlines()[1:] == ["e_left,Karzinom"]


@pytest.mark.parametrize("content", [None, "Nr,L,R,KL,KR\n2,Zyste,,1,\n"])
def test_without_a_table_or_a_row_what_was_told_stays(tmp_path: Path, content: str | None) -> None:
    write_tables(tmp_path, rows_of(tmp_path, "Nr,L,R,KL,KR\n1,Karzinom,,2,\n"))
    before = tables(tmp_path)
    write_tables(tmp_path, rows_of(tmp_path, content))
    assert tables(tmp_path) == before


@pytest.mark.parametrize("content", ["Nr,T\n1,Karzinom.\n", "Nr,T\n1,Rechts frei.\n1,Links frei.\n"])
def test_a_report_that_cannot_be_told_clears_the_earlier_one(tmp_path: Path, content: str) -> None:
    one_text = ReportMapping(accession="Nr", text="T")
    write_tables(tmp_path, rows_of(tmp_path, "Nr,T\n1,Rechts Zyste. Links frei.\n", one_text))
    assert tables(tmp_path)[1].count("\n") == 3
    write_tables(tmp_path, rows_of(tmp_path, content, one_text))
    assert tables(tmp_path)[1] == "UID,Report\n"


def test_without_dates_an_earlier_exam_of_the_patient_counts(tmp_path: Path) -> None:
    path, key = tmp_path / "t.csv", bytes(32)
    path.write_text("Pat,T\n7,Rechts Zyste. Links frei.\n", encoding="utf-8")
    table = read_report_table(path, ReportMapping(patient="Pat", text="T"), site="A")

    def imported(one: Study) -> ExamTexts:
        earlier = exams_of_patients(tmp_path)
        texts = ExamTexts(table, [one], key=key, shares=(1.0, 0.0, 0.0), earlier=earlier)
        write_tables(tmp_path, texts.rows(one, exam_id(one, key), patient_id(one.patient, key), SIDES))
        return texts

    for _ in range(2):
        assert imported(study("1")).left_out == []
    again = imported(study("2"))
    assert again.left_out[0].reason == SEVERAL_STUDIES
    assert "1 studies have no report" in again.unmatched([study("2")])
    assert tables(tmp_path)[1].count("\n") == 3
