"""Report tables of hospitals, joined by the numbers of DICOM studies."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pytest

from climb_model.data.exam import DataError
from climb_model.intake.mapping import ReportMapping
from climb_model.intake.reports.dates import column_dates
from climb_model.intake.reports.table import (
    BAD_SIDE,
    NO_DATE,
    NO_ROW,
    OTHER_PATIENT,
    SEVERAL_STUDIES,
    ReportTable,
    StudyReport,
    read_report_table,
)
from climb_model.intake.study import Study
from configs.errors import SettingsError

TWO_COLUMNS = ReportMapping(accession="AnforderungsNr", left="Linke Mamma", right="Rechte Mamma")
ROW_EACH = ReportMapping(accession="Nr", text="Befund", side="Seite", lesion="Klasse")
ONE_TEXT = ReportMapping(accession="Nr", text="Befund")
BY_PATIENT = ReportMapping(patient="Pat", date="Datum", text="Befund")

Write = Callable[..., ReportTable]


@pytest.fixture
def table(tmp_path: Path) -> Write:
    """`table(text or rows, mapping)`: write a CSV or Excel file and read it."""

    def write(
        content: str | list[list[object]], mapping: ReportMapping, encoding: str = "utf-8"
    ) -> ReportTable:
        if isinstance(content, str):
            path = tmp_path / "MARKER.csv"
            path.write_bytes(content.encode(encoding))
        else:
            path = tmp_path / "MARKER.xlsx"
            book = openpyxl.Workbook()
            assert book.active is not None
            for row in content:
                book.active.append(row)
            book.save(path)
        return read_report_table(path, mapping, site="A")

    return write


def study(accession: str = "", patient: str = "", date: str = "") -> Study:
    return Study(
        uid=f"1.2.{accession}.{patient}.{date}",
        accession=accession,
        patient=patient,
        date=date,
        age_days=None,
        names=frozenset(),
        vendor="other",
        field_strength_t=None,
        series=(),
    )


def find(table: ReportTable, accession: str = "", patient: str = "", date: str = "") -> StudyReport | str:
    return table.for_study(accession=accession, patient=patient, date=date)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_two_columns(table: Write, separator: str) -> None:
    lines = [["rechte mamma ", "X", "ANFORDERUNGSNR", "Linke Mamma"], ["R", "1", "007", '"L\n2"']]
    found = find(table("\ufeff" + "\n".join(separator.join(line) for line in lines), TWO_COLUMNS), "007")
    assert found == StudyReport(left="L\n2", right="R")


def test_a_row_each(table: Write) -> None:
    text = "Nr,Seite,Befund,Klasse\n1,li.,Zyste,1\n1,Rechts,Karzinom,2\n2,R,frei,\n"
    read = table(text, ROW_EACH)
    assert find(read, "1") == StudyReport(left="Zyste", right="Karzinom", lesions={"left": 1, "right": 2})
    assert find(read, "2") == StudyReport(right="frei")


def test_a_row_of_no_side_is_not_guessed(table: Write) -> None:
    assert find(table("Nr,Seite,Befund,Klasse\n1,bds,Zyste,1\n", ROW_EACH), "1") == BAD_SIDE


def test_one_text_for_both_is_left_whole(table: Write) -> None:
    assert find(table("Nr,Befund\n1,Links Zyste.\n", ONE_TEXT), "1") == StudyReport(whole="Links Zyste.")


def test_names_split_and_classes_come_along(table: Write) -> None:
    mapping = ReportMapping(
        accession="Nr",
        text="Befund",
        names=("Arzt", "Patient"),
        split="Teil",
        lesion_left="L",
        lesion_right="R",
    )
    read = table("Nr,Befund,Arzt,Patient,Teil,L,R\n1,x,Meier,,Train,2.0,\n", mapping)
    expected = StudyReport(whole="x", names=frozenset({"Meier"}), split="train", lesions={"left": 2})
    assert find(read, "1") == expected


def test_identical_rows_are_one_and_different_ones_a_reason(table: Write) -> None:
    read = table("Nr,Befund\n1,a\n1,a\n2,a\n2,b\n2,c\n", ONE_TEXT)
    assert find(read, "1") == StudyReport(whole="a")
    assert find(read, "2") == "3 different reports for one study"


def test_a_patient_number_needs_the_date(table: Write) -> None:
    read = table("Pat,Datum,Befund\n7,12.03.2021,a\n7,2022-01-02 10:00,b\n", BY_PATIENT)
    assert find(read, "x", "7", "20210312") == StudyReport(whole="a")
    assert find(read, "x", "7", "20220102") == StudyReport(whole="b")
    assert find(read, "x", "7", "20230101") == NO_ROW


def test_a_study_without_a_date_is_told_so_where_the_patient_has_rows(table: Write) -> None:
    read = table("Pat,Datum,Befund\n7,12.03.2021,a\n", BY_PATIENT)
    assert find(read, "x", "7", "") == NO_DATE
    assert find(read, "x", "8", "") == NO_ROW
    mapping = ReportMapping(accession="Nr", patient="Pat", date="Datum", text="Befund")
    both = table("Nr,Pat,Datum,Befund\nx,7,12.03.2021,a\n", mapping)
    assert find(both, "x", "7", "") == StudyReport(whole="a")  # as a NIfTI exam, by its folder's name


def test_without_dates_a_patient_of_several_studies_gets_no_report(table: Write) -> None:
    read = table("Pat,Befund\n7,a\n", ReportMapping(patient="Pat", text="Befund"))
    assert find(read, "", "7") == StudyReport(whole="a")
    both = read.knowing([study("1", "7"), study("2", "7")])
    assert find(both, "1", "7") == SEVERAL_STUDIES


def test_a_row_of_another_accession_number_is_not_lent_by_patient(table: Write) -> None:
    mapping = ReportMapping(accession="Nr", patient="Pat", text="Befund")
    read = table("Nr,Pat,Befund\n1,7,a\n,8,b\n", mapping)
    assert find(read, "2", "7") == NO_ROW
    assert find(read, "2", "8") == StudyReport(whole="b")


def test_both_numbers_must_be_of_one_patient(table: Write) -> None:
    mapping = ReportMapping(accession="Nr", patient="Pat", text="Befund")
    read = table("Nr,Pat,Befund\n100,12,a\n200,,b\n300,12,c\n300,13,c\n", mapping)
    assert find(read, "100", "0012") == StudyReport(whole="a")
    assert find(read, "100", "") == StudyReport(whole="a")
    assert find(read, "100", "0340") == OTHER_PATIENT
    assert find(read, "200", "0340") == StudyReport(whole="b")
    assert find(read, "300", "12") == OTHER_PATIENT
    # the number of another patient, not a lost zero
    assert find(read, "00100", "0340") == NO_ROW
    assert find(read, "00100", "0012") == StudyReport(whole="a")


def test_lost_leading_zeros_are_mended_only_if_clear(table: Write) -> None:
    read = table("Nr,Befund\n4711,a\n12,b\n012,c\n", ONE_TEXT)
    assert find(read, "004711") == StudyReport(whole="a")
    assert find(read, "0012") == NO_ROW  # 12 or 012
    two = read.knowing([study("004711"), study("04711")])
    assert find(two, "004711") == NO_ROW
    assert find(read, "000") == NO_ROW


def test_what_did_not_come_together_is_counted(table: Write) -> None:
    studies = [study("0001"), study("2"), study("9")]
    read = table("Nr,Befund\n1,a\n2,b\n2,c\n3,d\n4.5E+11,e\n", ONE_TEXT).knowing(studies)
    left = read.unmatched(studies)
    assert (left.num_rows, left.num_studies, left.num_zeros) == (2, 2, 1)
    assert left.notices[0] == "2 rows of the report table belong to no study"
    assert any("1 numbers in the report table may be rounded" in notice for notice in left.notices)


@pytest.mark.parametrize("digits", [16, 17, 18, 19, 20])
def test_each_number_that_excel_rounds_is_counted_and_joins_no_study(table: Write, digits: int) -> None:
    draw = random.Random(digits)
    numbers = [draw.randrange(10 ** (digits - 1), 10**digits) for _ in range(1000)]
    rounded = [
        int(f"{number:.14e}".replace(".", "").split("e")[0]) * 10 ** (digits - 15) for number in numbers
    ]
    for kind in (int, float):
        rows: list[list[object]] = [["Nr", "Befund"], *([kind(number), "a"] for number in rounded)]
        read = table(rows, ONE_TEXT)
        assert read.num_rounded == 1000
        assert {find(read, str(number)) for number in rounded} == {NO_ROW}
    assert table("Nr,Befund\n" + "".join(f"{number},a\n" for number in rounded), ONE_TEXT).num_rounded == 1000


def test_long_numbers_that_stand_as_text_are_whole(table: Write) -> None:
    draw = random.Random(1)
    numbers = [str(draw.randrange(10**15, 10**16)) for _ in range(100)]
    assert any(number.endswith("0") for number in numbers)
    for content in (
        [["Nr", "Befund"], *([number, "a"] for number in numbers)],
        "Nr,Befund\n" + "".join(f"{number},a\n" for number in numbers),
    ):
        read = table(content, ONE_TEXT)
        assert read.num_rounded == 0
        assert find(read, numbers[0]) == StudyReport(whole="a")
    read = table([["Nr", "Befund"], [10**15 - 1, "a"]], ONE_TEXT)
    assert read.num_rounded == 0
    assert find(read, "9" * 15) == StudyReport(whole="a")


def test_excel_numbers_and_dates(table: Write) -> None:
    mapping = ReportMapping(accession="Nr", patient="Pat", date="Datum", text="Befund")
    rows: list[list[object]] = [
        ["Nr", "Pat", "Datum", "Befund", "leer"],
        [4711.0, None, None, " a "],
        [None, None, None, None],
        ["0815", None, None, 12],
        [None, 7, datetime(2021, 3, 12, 10, 30), "c"],
    ]
    read = table(rows, mapping)
    assert find(read, "4711") == StudyReport(whole="a")
    assert find(read, "0815") == StudyReport(whole="12")
    assert find(read, "", "7", "20210312") == StudyReport(whole="c")


def test_formulas_without_values_are_refused(table: Write) -> None:
    rows: list[list[object]] = [["Nr", "Befund"], [1, "a"], [2, '=CONCATENATE("Rechts: ", "Herd")']]
    with pytest.raises(DataError, match="column B of the report table holds formulas without values: save"):
        table(rows, ONE_TEXT)


def test_a_minus_sign_is_no_formula(table: Write) -> None:
    assert find(table([["Nr", "Befund"], [1, "- a = b"]], ONE_TEXT), "1") == StudyReport(whole="- a = b")


@pytest.mark.parametrize(
    ("cells", "dates"),
    [
        (["45296", "45296.75"], ["20240105", "20240105"]),
        (["05/04/2024", "13/04/24"], ["20240405", "20240413"]),
        (["04/05/2024", "04/13/2024 10:30"], ["20240405", "20240413"]),
        (["05/05/2024", "2024/05/13", "2024-05-14T10:30", "5.4.24", ""], None),
    ],
)
def test_dates_are_read_by_their_column(cells: list[str], dates: list[str] | None) -> None:
    expected = dates or ["20240505", "20240513", "20240514", "20240405", ""]
    assert column_dates(cells) == expected


@pytest.mark.parametrize(
    ("cells", "fact"),
    [
        ("05/04/2024", "may begin with the day or with the month"),
        ("13/04/2024,04/13/2024", "some dates with '/' begin with the day, others"),
        ("SECRET,31.02.2024,20240101", "2 lines have a date that cannot be read"),
        ("452961", "1 line has a date"),
    ],
)
def test_dates_that_cannot_be_told_are_refused(table: Write, cells: str, fact: str) -> None:
    lines = [f"7,{cell},a" for cell in cells.split(",")]
    with pytest.raises(DataError, match=fact) as caught:
        table("\n".join(["Pat,Datum,Befund", *lines]), BY_PATIENT)
    assert "SECRET" not in str(caught.value)
    assert "MARKER" not in caught.value.public


def test_an_excel_date_without_its_format_is_read(table: Write) -> None:
    read = table([["Pat", "Datum", "Befund"], [7, 45296, "a"]], BY_PATIENT)
    assert find(read, "", "7", "20240105") == StudyReport(whole="a")


def test_an_excel_sheet_is_found_by_name(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet: Any = book.create_sheet("Befunde")
    sheet.append(["Nr", "Befund"])
    sheet.append([1, "a"])
    book.save(tmp_path / "t.xlsx")
    mapping = ReportMapping(accession="Nr", text="Befund", sheet="befunde")
    assert find(read_report_table(tmp_path / "t.xlsx", mapping, site="A"), "1") == StudyReport(whole="a")
    with pytest.raises(SettingsError, match="no sheet 'x'"):
        read_report_table(
            tmp_path / "t.xlsx", ReportMapping(accession="Nr", text="Befund", sheet="x"), site="A"
        )


def test_windows_encodings_are_read_or_named(table: Write) -> None:
    text = "Nr,Befund\n1,Brustdrüse\n"
    with pytest.raises(DataError, match=r"not utf-8, first at byte 19; .* cp1252 in the mapping"):
        table(text, ONE_TEXT, encoding="cp1252")
    windows = ReportMapping(accession="Nr", text="Befund", encoding="cp1252")
    assert find(table(text, windows, encoding="cp1252"), "1") == StudyReport(whole="Brustdrüse")
    with pytest.raises(DataError, match="is UTF-8, not cp1252"):
        table(text, windows)
    for encoding in ("ansi2", "rot13", "undefined", "a\0b"):
        with pytest.raises(SettingsError, match=f"no encoding '{encoding}' of texts; wanted one such as"):
            table(text, ReportMapping(accession="Nr", text="Befund", encoding=encoding))


@pytest.mark.parametrize(
    ("text", "fact"),
    [
        ("", "is empty"),
        ("Nummer,Befund\n1,SECRET\n", "has no column 'Nr'"),
        ("Nr,Befund\n1,SECRET,x\n", "line 2 has 3 cells, its header has 2"),
        ('Nr,Befund\n1,"SECRET\n', "unexpected end of data"),
        ("Nr,nr,Befund\n1,2,SECRET\n", "has column 'Nr' 2 times"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(table: Write, text: str, fact: str) -> None:
    with pytest.raises(DataError, match=fact) as caught:
        table(text, ONE_TEXT)
    assert "SECRET" not in str(caught.value)
    assert "MARKER" not in caught.value.public
    assert "\n" not in str(caught.value)


def test_a_bad_split_or_class_is_refused_without_its_words(table: Write) -> None:
    split = ReportMapping(accession="Nr", text="Befund", split="Teil")
    lesion = ReportMapping(accession="Nr", text="Befund", lesion_left="Teil")
    for mapping, fact in ((split, "wanted train"), (lesion, "wanted 0, 1, 2")):
        with pytest.raises(DataError, match=f"line 2: {fact}") as caught:
            table("Nr,Befund,Teil\n1,x,SECRET\n", mapping)
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls"])
def test_a_file_that_is_no_excel_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 damaged")
    with pytest.raises(DataError, match=r"no Excel file|old Excel format"):
        read_report_table(tmp_path / name, ONE_TEXT, site="A")


def damaged(content: bytes, number: int) -> bytes:
    """The same file with some bytes changed, or cut; each number another damage."""
    draw = random.Random(number)
    if number % 4 == 3:
        return content[: draw.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(draw.choice([1, 4, 16])):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def with_sheet(path: Path, change: Callable[[bytes], bytes]) -> Iterator[tuple[str, bytes]]:
    """The parts of a workbook, each checksum right again, the sheet itself changed."""
    with zipfile.ZipFile(path) as book:
        for name in book.namelist():
            content = book.read(name)
            yield name, change(content) if name == "xl/worksheets/sheet1.xml" else content


def read_or_refused(path: Path, mapping: ReportMapping) -> ReportTable | DataError:
    """The table, or an error of one line without a word of the file."""
    try:
        return read_report_table(path, mapping, site="A")
    except DataError as caught:
        error = caught
    assert "\n" not in str(error)
    assert "SECRET" not in str(error)
    assert path.name not in error.public
    return error


def test_a_damaged_workbook_is_read_as_it_was_or_refused_in_one_line(table: Write, tmp_path: Path) -> None:
    rows: list[list[object]] = [["Nr", "Pat", "Datum", "Befund"]]
    rows += [[number, "007", datetime(2021, 3, 12), f"SECRET {number}"] for number in range(40)]
    mapping = ReportMapping(accession="Nr", patient="Pat", date="Datum", text="Befund")
    whole = table(rows, mapping)
    content = (tmp_path / "MARKER.xlsx").read_bytes()
    path = tmp_path / "t.xlsx"
    results: list[ReportTable | DataError] = []
    for number in range(400):
        path.write_bytes(damaged(content, number))
        results.append(read_or_refused(path, mapping))
    assert all(each.rows == whole.rows for each in results if isinstance(each, ReportTable))
    assert sum(isinstance(each, DataError) for each in results) > 150


def test_a_workbook_with_a_damaged_sheet_is_read_or_refused_in_one_line(table: Write, tmp_path: Path) -> None:
    table([["Nr", "Befund"], *([number, "SECRET"] for number in range(9))], ONE_TEXT)
    for number in range(200):
        parts = with_sheet(tmp_path / "MARKER.xlsx", lambda sheet, number=number: damaged(sheet, number))
        with zipfile.ZipFile(tmp_path / "t.xlsx", "w") as book:
            for name, content in parts:
                book.writestr(name, content)
        read_or_refused(tmp_path / "t.xlsx", ONE_TEXT)


@pytest.mark.parametrize(
    "mapping",
    [
        ReportMapping(text="Befund"),
        ReportMapping(accession="Nr", left="L"),
        ReportMapping(accession="Nr", left="L", right="R", text="T"),
        ReportMapping(accession="Nr", text="T", lesion="K"),
        ReportMapping(accession="Nr", text="T", side="S", lesion_left="K"),
    ],
)
def test_a_mapping_that_mixes_forms_is_refused(table: Write, mapping: ReportMapping) -> None:
    with pytest.raises(SettingsError, match="reports"):
        table("Nr,L,R,T,K,S\n", mapping)


def test_no_text_shows_in_a_repr(table: Write) -> None:
    read = table("Nr,Befund\n4711,SECRET\n", ONE_TEXT)
    assert "SECRET" not in repr(read) + repr(find(read, "4711"))
    assert "4711" not in repr(read)
