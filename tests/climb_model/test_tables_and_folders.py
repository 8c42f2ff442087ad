"""What the folder reader takes, what it leaves out, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from climb_model.data import folders
from climb_model.data.exam import DataError, SiteData
from climb_model.data.folders import (
    has_findings,
    left_out_counts,
    list_sites,
    read_site,
    require_split,
)

SEQUENCES = ("Pre", "Sub", "T2")
FINDINGS = ("Zyste", "Radiäre Narbe")
SPLIT = "UID,Split,Fold\n001_left,train,0\n001_right,train,0\n002_left,val,0\n003_left,test,0\n"
ANNOTATION = (
    "UID,PatientID,Age,Lesion\n001_left,007,20000,0\n001_right,007,20000,1\n"
    "002_left,008,,2\n003_left,009,21000.0,\n"
)
REPORTS = "UID,Report\n001_left,Keine Herde.\n001_right,Zyste.\n002_left,Unauffällig.\n003_left,Zyste.\n"
FINDINGS_CSV = "UID,Zyste,Radiäre Narbe\n001_left,0,0\n001_right,1,\n002_left,0,1.0\n003_left,1,0\n"
UIDS = ("001_left", "001_right", "002_left", "003_left")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))
    return path


def table(site: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    return write(site / "metadata_unilateral" / name, text, encoding)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An ODELIA site of four breasts of three patients; its sequence files are empty."""
    folder = tmp_path / "ROOT" / "A"
    for uid in UIDS:
        for sequence in SEQUENCES:
            write(folder / "data_unilateral" / uid / f"{sequence}.nii.gz", "")
    table(folder, "split.csv", SPLIT)
    table(folder, "annotation.csv", ANNOTATION)
    table(folder, "reports.csv", REPORTS)
    table(folder, "findings.csv", FINDINGS_CSV)
    return folder


def read(root: Path, name: str | None = None, *, reports: bool = True, findings: bool = False) -> SiteData:
    return read_site(
        root, name, need_reports=reports, need_findings=findings, sequences=SEQUENCES, findings=FINDINGS
    )


def refusal(root: Path, *, reports: bool = True, findings: bool = True) -> DataError:
    """The error of a site that must be refused; it is one line and its public form names no exam or path."""
    with pytest.raises(DataError) as caught:
        read(root, reports=reports, findings=findings)
    error = caught.value
    assert "\n" not in str(error)
    for secret in ("001", "002", "003", "007", "008", "009", str(root), "Keine Herde"):
        assert secret not in error.public
    return error


def test_an_odelia_site_is_read_with_strings_kept_as_they_are(site: Path) -> None:
    data = read(site, findings=True)
    assert data.name == "A"
    assert data.left_out == {}
    assert tuple(exam.uid for exam in data.exams) == UIDS
    first, second, third, fourth = data.exams
    assert first.patient == second.patient == "007"
    assert (first.age_days, first.lesion, first.fold) == (20000, 0, 0)
    assert (third.age_days, third.lesion) == (None, 2)
    assert (fourth.age_days, fourth.lesion) == (21000, None)
    assert first.report == "Keine Herde."
    assert first.files == {
        name: site / "data_unilateral" / "001_left" / f"{name}.nii.gz" for name in SEQUENCES
    }
    assert second.findings == {"Zyste": 1, "Radiäre Narbe": None}
    assert third.findings == {"Zyste": 0, "Radiäre Narbe": 1}
    assert [len(data.of_split(split)) for split in ("train", "val", "test")] == [2, 1, 1]


def test_columns_in_other_order_case_and_separator_with_a_bom_and_extras_read_the_same(site: Path) -> None:
    plain = read(site, findings=True)
    table(
        site,
        "split.csv",
        "fold;Extra;SPLIT;uid\r\n0;x;Train;001_left\r\n0;;TRAIN;001_right\r\n0;;val;002_left\r\n0;;test;003_left\r\n;;;\r\n",
        "utf-8-sig",
    )
    table(
        site,
        "reports.csv",
        'report;UID\n"Keine Herde.";001_left\nZyste.;001_right\nUnauffällig.;002_left\nZyste.;003_left\n',
    )
    table(site, "findings.csv", FINDINGS_CSV.replace("UID,Zyste,Radiäre Narbe", "Uid,ZYSTE,RADIÄRE NARBE"))
    assert read(site, findings=True) == plain


def test_a_report_of_several_lines_with_separators_stays_whole(site: Path) -> None:
    table(site, "reports.csv", REPORTS.replace("Keine Herde.", '"Rechts, oben: ""Herd""; 8 mm.\nBI-RADS 4."'))
    assert read(site).exams[0].report == 'Rechts, oben: "Herd"; 8 mm.\nBI-RADS 4.'


def test_without_need_the_findings_may_be_deleted_and_nothing_changes(site: Path) -> None:
    before = read(site)
    assert all(exam.findings == {} for exam in before.exams)
    (site / "metadata_unilateral" / "findings.csv").unlink()
    assert read(site) == before


def test_without_need_the_reports_are_not_read(site: Path) -> None:
    before = read(site, reports=False, findings=True)
    assert all(exam.report is None for exam in before.exams)
    (site / "metadata_unilateral" / "reports.csv").unlink()
    assert read(site, reports=False, findings=True) == before


def test_sub_1_is_sub(site: Path) -> None:
    folder = site / "data_unilateral" / "001_left"
    (folder / "Sub.nii.gz").rename(folder / "Sub_1.nii.gz")
    write(folder / "Post_1.nii.gz", "")
    write(folder / ".Pre.nii.gz.tmp", "")
    files = read(site).exams[0].files
    assert set(files) == {"Pre", "Sub", "T2", "Post_1"}
    assert files["Sub"].name == "Sub_1.nii.gz"


def test_a_split_table_that_lists_each_uid_once_per_fold_is_read_for_one_fold(site: Path) -> None:
    rows = [f"{uid},{split},0" for uid, split in zip(UIDS, ("train", "train", "val", "test"), strict=True)]
    rows += [f"{uid},{split},1" for uid, split in zip(UIDS, ("test", "test", "train", "val"), strict=True)]
    table(site, "split.csv", "UID,Split,Fold\n" + "\n".join(rows) + "\n")
    assert [exam.split for exam in read(site).exams] == ["train", "train", "val", "test"]
    other = read_site(
        site, need_reports=True, need_findings=False, sequences=SEQUENCES, findings=FINDINGS, fold=1
    )
    assert [(exam.split, exam.fold) for exam in other.exams] == [
        ("test", 1),
        ("test", 1),
        ("train", 1),
        ("val", 1),
    ]


def test_the_root_may_be_the_site_or_hold_sites(site: Path) -> None:
    root = site.parent
    assert list_sites(root) == {"A": site}
    assert list_sites(site) == {"A": site}
    assert read(root) == read(site) == read(root, "A")
    (root / "B" / "data_unilateral").mkdir(parents=True)
    (root / "notes").mkdir()
    assert list(list_sites(root)) == ["A", "B"]
    assert read(root, "A").exams == read(site).exams
    with pytest.raises(DataError, match="holds 2 sites"):
        read(root)


def test_a_name_renames_a_root_that_is_a_site(site: Path) -> None:
    assert read(site, "Aachen").name == "Aachen"


def test_the_uka_layout_is_read(tmp_path: Path) -> None:
    uids = ("0012301_left", "0012301_right", "0045612_left")
    for uid in uids:
        write(tmp_path / "data_unilateral" / uid / "Pre.nii.gz", "")
    write(
        tmp_path / "metadata" / "split_regex.csv",
        "UID;Fold;Split;Zyste;Radiäre Narbe\n"
        "0012301_left;0;train;1;0\n0012301_right;0;train;;0\n0045612_left;0;val;0;0\n",
    )
    write(
        tmp_path / "metadata" / "mrt-befund.csv",
        "AnforderungsNr;UntersuchungsNr;Rechte Mamma;Linke Mamma\n"
        "00123;1;Rechts frei.;Links Zyste.\n00456;12;;Frei.\n",
    )
    data = read(tmp_path, "UKA", findings=True)
    assert tuple(exam.uid for exam in data.exams) == uids
    assert [exam.report for exam in data.exams] == ["Links Zyste.", "Rechts frei.", "Frei."]
    assert [exam.patient for exam in data.exams] == ["00123", "00123", "00456"]
    assert data.exams[1].findings == {"Zyste": None, "Radiäre Narbe": 0}
    assert read(tmp_path, "UKA").exams[0].findings == {}


def test_a_site_holds_findings_where_its_layout_keeps_them(site: Path, tmp_path: Path) -> None:
    wanted = ("Zyste", "Karzinom")
    assert has_findings(site, wanted)
    (site / "metadata_unilateral" / "findings.csv").unlink()
    assert not has_findings(site, wanted)
    uka = tmp_path / "UKA"
    (uka / "data_unilateral").mkdir(parents=True)
    file = write(uka / "metadata" / "split_regex.csv", "UID,Split\n001_left,train\n")
    assert not has_findings(uka, wanted)
    write(file, "UID,Split,zyste\n001_left,train,\n002_left,test,0\n")
    assert has_findings(uka, wanted)


def test_two_examinations_of_one_uka_request_in_two_splits_are_one_patient_in_two_splits(
    tmp_path: Path,
) -> None:
    write(tmp_path / "data_unilateral" / "0012301_left" / "Pre.nii.gz", "")
    write(
        tmp_path / "metadata" / "split_regex.csv",
        "UID,Split\n0012301_left,train\n0012302_left,test\n",
    )
    with pytest.raises(DataError, match="1 patient in two splits: '00123' is in test and train"):
        read(tmp_path, "UKA", reports=False)


# Faults of the whole site


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="data folder is missing"):
        read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="data folder is missing"):
        list_sites(tmp_path / "nowhere")
    with pytest.raises(DataError, match="no site"):
        list_sites(tmp_path)


def test_a_missing_site_of_a_root_is_refused_naming_those_there(site: Path) -> None:
    with pytest.raises(DataError, match="site 'C': folder is missing; there are: A"):
        read(site.parent, "C")


def test_a_missing_data_folder_is_refused(site: Path) -> None:
    (site / "data_unilateral").rename(site / "data_unilateral_old")
    assert "folder data_unilateral/ is missing" in str(refusal(site))


def test_an_unknown_layout_is_refused(site: Path) -> None:
    (site / "metadata_unilateral").rename(site / "tables")
    assert "unknown layout" in refusal(site).public


def test_two_layouts_at_once_are_refused(site: Path) -> None:
    write(site / "metadata" / "split_regex.csv", SPLIT)
    assert "two layouts at once" in refusal(site).public


@pytest.mark.parametrize("name", ["split.csv", "annotation.csv", "reports.csv", "findings.csv"])
def test_a_missing_table_is_refused_naming_the_nearest(site: Path, name: str) -> None:
    path = site / "metadata_unilateral" / name
    path.rename(path.with_name(name.replace(".csv", "_old.csv")))
    error = refusal(site)
    assert f"site 'A': table {name} is missing" in error.public
    assert f"the nearest is '{name.replace('.csv', '_old.csv')}'" in str(error)


@pytest.mark.parametrize(
    ("name", "text", "column", "near"),
    [
        ("split.csv", SPLIT.replace("Split", "Splitt"), "Split", "Splitt"),
        ("annotation.csv", ANNOTATION.replace("PatientID", "Patient"), "PatientID", "Patient"),
        ("reports.csv", REPORTS.replace("UID,Report", "UID,Reports"), "Report", "Reports"),
        ("findings.csv", FINDINGS_CSV.replace("Zyste", "Zysten"), "Zyste", "Zysten"),
    ],
)
def test_a_missing_column_is_refused_naming_the_nearest(
    site: Path, name: str, text: str, column: str, near: str
) -> None:
    table(site, name, text)
    error = refusal(site)
    assert f"{name} has no column '{column}'" in error.public
    assert f"the nearest is '{near}'" in str(error)


def test_a_split_that_must_have_exams_and_has_none_is_refused(site: Path) -> None:
    data = read(site)
    assert [exam.uid for exam in require_split(data, "test")] == ["003_left"]
    table(site, "reports.csv", REPORTS.replace("003_left,Zyste.", "003_left, "))
    with pytest.raises(DataError, match="no exam in split 'test'; left out: 1 x no report") as caught:
        require_split(read(site), "test")
    assert "003" not in caught.value.public


def test_a_uid_in_two_splits_is_refused(site: Path) -> None:
    table(site, "split.csv", SPLIT + "002_left,test,1\n")
    error = refusal(site)
    assert "split.csv has 1 UID in two splits" in error.public
    assert "'002_left' is in val and test" in str(error)


def test_a_patient_in_two_splits_is_refused(site: Path) -> None:
    table(site, "split.csv", SPLIT.replace("001_right,train", "001_right,test"))
    error = refusal(site)
    assert error.public == "site 'A': 1 patient in two splits"
    assert "'007' is in test and train" in str(error)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("split.csv", SPLIT + "002_left,val,0\n"),
        ("annotation.csv", ANNOTATION + "002_left,008,1,1\n"),
        ("reports.csv", REPORTS + "002_left,Noch einer.\n"),
        ("findings.csv", FINDINGS_CSV + "002_left,0,0\n"),
    ],
)
def test_a_duplicate_uid_is_refused(site: Path, name: str, text: str) -> None:
    table(site, name, text)
    error = refusal(site)
    assert error.public == f"site 'A': {name} lists 1 UID twice"
    assert "'002_left'" in str(error)


def test_a_split_value_that_is_none_of_the_three_is_refused(site: Path) -> None:
    table(site, "split.csv", SPLIT.replace("val", "holdout"))
    error = refusal(site)
    assert "a Split that is not train, val or test" in error.public
    assert "'holdout' for UID '002_left'" in str(error)


def test_a_finding_that_is_not_0_1_or_empty_is_refused(site: Path) -> None:
    table(site, "findings.csv", FINDINGS_CSV.replace("001_right,1,", "001_right,ja,"))
    assert "a cell of 'Zyste' that is not 0, 1 or empty" in refusal(site).public


@pytest.mark.parametrize(
    ("text", "encoding", "reason"),
    [
        (REPORTS, "latin-1", "is not UTF-8"),
        (REPORTS, "utf-16", "is not UTF-8"),
        ("", "utf-8", "reports.csv is empty"),
        (
            REPORTS.replace("Unauffällig.", "Frei, unauffällig."),
            "utf-8",
            "line 4 has 3 cells, its header has 2",
        ),
        (REPORTS.replace("Unauffällig.", '"Frei.'), "utf-8", "unexpected end of data"),
        (REPORTS.replace("UID,Report", "UID,uid"), "utf-8", "has column 'UID' 2 times"),
        (REPORTS.replace("002_left,", ","), "utf-8", "has a row without UID"),
    ],
)
def test_a_broken_table_is_refused(site: Path, text: str, encoding: str, reason: str) -> None:
    table(site, "reports.csv", text, encoding)
    assert reason in refusal(site).public


# Faults of one exam


def left_out(site: Path, uid: str, *, reports: bool = True, findings: bool = False) -> str:
    """The reason why this exam, and no other, is left out."""
    data = read(site, reports=reports, findings=findings)
    assert list(data.left_out) == [uid]
    assert {exam.uid for exam in data.exams} == set(UIDS) - {uid}
    assert left_out_counts(data) == {data.left_out[uid]: 1}
    return data.left_out[uid]


@pytest.mark.parametrize("row", ["", "002_left,\n", "002_left,  \n"])
def test_an_exam_whose_report_is_missing_or_blank_is_left_out(site: Path, row: str) -> None:
    table(site, "reports.csv", REPORTS.replace("002_left,Unauffällig.\n", row))
    assert left_out(site, "002_left") == folders.NO_REPORT
    assert read(site, reports=False).left_out == {}


def test_an_exam_without_a_wanted_sequence_is_left_out(site: Path) -> None:
    folder = site / "data_unilateral" / "002_left"
    for path in list(folder.iterdir()):
        path.rename(folder / f"Other_{path.name}")
    assert left_out(site, "002_left") == folders.NO_SEQUENCE


def test_a_row_without_a_folder_is_left_out(site: Path) -> None:
    (site / "data_unilateral" / "002_left").rename(site / "elsewhere")
    assert left_out(site, "002_left") == folders.NO_FOLDER


def test_a_folder_without_a_row_is_listed(site: Path) -> None:
    (site / "data_unilateral" / "999_left").mkdir()
    assert left_out(site, "999_left") == folders.NO_ROW


def test_an_exam_without_a_patient_is_left_out(site: Path) -> None:
    table(site, "annotation.csv", ANNOTATION.replace("002_left,008", "002_left,"))
    assert left_out(site, "002_left") == folders.NO_PATIENT


def test_an_exam_whose_uid_names_no_side_is_left_out(site: Path) -> None:
    (site / "data_unilateral" / "004").mkdir()
    table(site, "split.csv", SPLIT + "004,train,0\n")
    assert left_out(site, "004") == folders.NO_SIDE


def test_an_exam_without_a_row_of_findings_is_left_out_where_they_are_needed(site: Path) -> None:
    table(site, "findings.csv", FINDINGS_CSV.replace("002_left,0,1.0\n", ""))
    assert left_out(site, "002_left", findings=True) == folders.NO_FINDINGS
    assert read(site).left_out == {}


def test_an_exam_whose_age_is_no_number_is_left_out(site: Path) -> None:
    table(site, "annotation.csv", ANNOTATION.replace("002_left,008,,2", "002_left,008,alt,2"))
    assert left_out(site, "002_left") == folders.BAD_NUMBER


def test_a_uid_cannot_lead_out_of_the_data_folder(site: Path) -> None:
    table(site, "split.csv", SPLIT + "../../A/data_unilateral/002_left,train,0\n")
    assert left_out(site, "../../A/data_unilateral/002_left") == folders.NO_FOLDER
