"""Rows of an import join the tables of a site."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from climb_model.data.exam import DataError
from climb_model.data.tables import read_table
from climb_model.intake.reports.site_tables import FOLDER, TORN, ExamRow, assign_split, write_tables

KEY = bytes(range(32))
NAMES = ("annotation.csv", "split.csv", "reports.csv")


def row(uid: str, *, split: str = "train", report: str = "Zyste.", lesion: int | None = 1) -> ExamRow:
    patient = uid.split("_")[0]
    return ExamRow(
        uid=uid, patient=patient, age_days=20000, lesion=lesion, split=split, fold=0, report=report
    )


def contents(site: Path) -> list[bytes]:
    return [(site / FOLDER / name).read_bytes() for name in NAMES]


def test_tables_are_of_the_odelia_layout(tmp_path: Path) -> None:
    write_tables(tmp_path, [row("007_right", lesion=None), row("007_left")])
    annotation, split, reports = (content.decode() for content in contents(tmp_path))
    assert annotation == "UID,PatientID,Age,Lesion\n007_left,007,20000,1\n007_right,007,20000,\n"
    assert split == "UID,Split,Fold\n007_left,train,0\n007_right,train,0\n"
    assert reports == "UID,Report\n007_left,Zyste.\n007_right,Zyste.\n"


def test_the_same_rows_give_the_same_bytes_in_however_many_imports(tmp_path: Path) -> None:
    rows = [row(f"{number}_left", report=f"Text {number}, mit Komma\nund Zeile.") for number in range(5)]
    write_tables(tmp_path / "at_once", rows)
    for each in (rows[3], rows[0], rows[4], rows[1], rows[2], rows[0]):
        written = write_tables(tmp_path / "one_by_one", [each])
        assert written.notices == ()
    assert contents(tmp_path / "at_once") == contents(tmp_path / "one_by_one")


def test_an_import_without_reports_or_classes_deletes_none(tmp_path: Path) -> None:
    write_tables(tmp_path, [row("1_left")])
    before = contents(tmp_path)
    write_tables(tmp_path, [row("1_left", report="", lesion=None)])
    assert contents(tmp_path) == before


def test_what_is_told_to_be_empty_leaves_the_tables(tmp_path: Path) -> None:
    write_tables(tmp_path, [row("1_left"), row("1_right")])
    cleared = replace(row("1_left", report="", lesion=None), told=frozenset({"report", "lesion"}))
    written = write_tables(tmp_path, [cleared, row("1_right")])
    annotation, _, reports = (content.decode() for content in contents(tmp_path))
    assert annotation == "UID,PatientID,Age,Lesion\n1_left,1,20000,\n1_right,1,20000,1\n"
    assert reports == "UID,Report\n1_right,Zyste.\n"
    assert written.notices == ("annotation.csv: 1 row changed", "reports.csv: 1 row changed")
    assert write_tables(tmp_path, [cleared]).notices == ()


def test_only_what_the_table_has_columns_for_is_cleared(tmp_path: Path) -> None:
    write_tables(tmp_path, [row("1_left")])
    write_tables(tmp_path, [replace(row("1_left", report="", lesion=None), told=frozenset({"report"}))])
    annotation, _, reports = (content.decode() for content in contents(tmp_path))
    assert "1_left,1,20000,1" in annotation
    assert "1_left" not in reports


def test_a_changed_cell_is_counted(tmp_path: Path) -> None:
    write_tables(tmp_path, [row("1_left"), row("2_left")])
    written = write_tables(tmp_path, [row("1_left", report="MARKER"), row("2_left")])
    assert written.notices == ("reports.csv: 1 row changed",)


def test_foreign_rows_columns_and_separator_stay(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "annotation.csv").write_text("\ufeffAge;uid;PatientID;Lesion;Center\n9;b_left;b;0;X\n")
    write_tables(tmp_path, [row("a_left"), row("b_left")])
    text = (folder / "annotation.csv").read_text()
    assert text == "Age;uid;PatientID;Lesion;Center\n20000;a_left;a;1;\n20000;b_left;b;1;X\n"


def test_lists_of_one_line_a_fold_stay(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "split.csv").write_text("UID,Split,Fold\nb_left,train,0\nb_left,test,1\n")
    write_tables(tmp_path, [row("b_left"), row("c_left")])
    assert (folder / "split.csv").read_text().splitlines()[1:] == [
        "b_left,train,0",
        "b_left,test,1",
        "c_left,train,0",
    ]


def test_a_table_that_cannot_be_read_is_refused_and_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "reports.csv").write_bytes("UID,Report\nm\xe4rker,x\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"reports\.csv is not UTF-8, first at byte 12") as caught:
        write_tables(tmp_path, [row("1_left")])
    assert str(tmp_path) not in caught.value.public
    assert not (folder / "split.csv").exists()


def test_a_patient_in_two_splits_gets_no_rows(tmp_path: Path) -> None:
    rows = [row("p_left"), replace(row("p_right"), split="test"), row("q_left")]
    written = write_tables(tmp_path, rows)
    assert [(each.study, each.reason) for each in written.left_out] == [("p_left", TORN), ("p_right", TORN)]
    assert "p_" not in contents(tmp_path)[1].decode()


def test_a_patient_is_not_torn_from_earlier_exams(tmp_path: Path) -> None:
    first = replace(row("x1_left"), patient="p")
    write_tables(tmp_path, [first])
    later = replace(row("x2_left", split="test"), patient="p")
    assert [each.study for each in write_tables(tmp_path, [later]).left_out] == ["x2_left"]
    both = [replace(first, split="test"), later]
    assert write_tables(tmp_path, both).left_out == ()


def test_text_survives_the_door(tmp_path: Path) -> None:
    text = '=1+1 "Zitat"; a,b\n-Zeile\tzwei\n\n@drei'
    write_tables(tmp_path, [row("1_left", report=f"  {text}\r\n"), row("2_left", report="a\x00b\rc")])
    table = read_table(tmp_path / FOLDER / "reports.csv", ("UID", "Report"), site="A")
    assert [each["Report"] for each in table.rows] == [text, "ab\nc"]


def test_patients_keep_their_split_and_shares_are_kept() -> None:
    splits = [assign_split(f"patient {number}", KEY) for number in range(4000)]
    assert splits[:100] == [assign_split(f"patient {number}", KEY) for number in range(100)]
    counts = Counter(split for split, _ in splits)
    # 5 standard errors of a share of 4,000
    assert counts["train"] / 4000 == pytest.approx(0.7, abs=0.036)
    assert counts["val"] / 4000 == pytest.approx(0.1, abs=0.024)
    assert {fold for _, fold in splits} == {0}
    other = [assign_split(f"patient {number}", bytes(32)) for number in range(100)]
    assert other != splits[:100]


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        assign_split("p", KEY, (0.5, 0.1, 0.2))
