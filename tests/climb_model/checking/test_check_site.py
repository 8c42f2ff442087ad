"""The check of a site: a sound one passes, and each planted fault is found with its number."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from climb_model.checking.check import Options, check_site
from climb_model.checking.codes import CODES
from climb_model.checking.pixels import look_at
from climb_model.checking.result import Result
from climb_model.data.exam import DataError
from configs.load import load_settings
from configs.schema import Settings

Break = Callable[[Any], object]


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings("debug", ["evaluation.findings=[Zyste, Karzinom]", "training.num_threads=1"])


def counts(result: Result) -> dict[str, int]:
    told: dict[str, int] = {}
    for finding in result.findings:
        told[finding.code] = told.get(finding.code, 0) + finding.count
    return told


QUIET = {"machine.device": 1, "machine.time": 1, "machine.clock_unchecked": 1}
"""What is told of a site without any fault."""


def test_a_sound_site_passes_with_notes_alone(sound_site: Path, settings: Settings, tmp_path: Path) -> None:
    result = check_site(sound_site, settings, Options(private=tmp_path / "p"))
    assert result.passed
    assert counts(result) == QUIET
    told = {name: result.exams[name] for name in ("folders", "usable", "patients", "train", "val", "test")}
    assert told == {"folders": 48, "usable": 48, "patients": 24, "train": 36, "val": 0, "test": 12}
    assert result.exams["findings"] == {
        "train": {
            "Zyste": {"positive": 18, "negative": 18, "unknown": 0},
            "Karzinom": {"positive": 18, "negative": 18, "unknown": 0},
        },
        "val": {name: {"positive": 0, "negative": 0, "unknown": 0} for name in ("Zyste", "Karzinom")},
        "test": {name: {"positive": 6, "negative": 6, "unknown": 0} for name in ("Zyste", "Karzinom")},
    }
    assert result.exams["lesions"] == {
        "train": {"0": 12, "1": 12, "2": 12},
        "val": {"0": 0, "1": 0, "2": 0},
        "test": {"0": 4, "1": 4, "2": 4},
    }


FILES = {
    "files.truncated": 1,
    "files.damaged": 1,
    "files.not_nifti": 1,
    "files.not_3d": 1,
    "files.no_orientation": 1,
    "files.forms_disagree": 1,
    "files.pixdim_disagrees": 1,
    "files.too_long": 1,
    "files.bad_header": 1,
    "files.unreadable": 1,
    "files.spacing_implausible": 3,
    "files.size_differs": 1,
    "files.grid_differs": 1,
    "files.not_finite": 1,
    "files.constant": 1,
    "files.same_pixels": 2,
    "files.same_in_exam": 1,
    "files.sides_swapped": 1,
    "files.side_unknown": 1,
    "files.side_doubtful": 1,
    "files.sub_unsigned": 1,
    "files.oblique": 3,
    "files.spacing_one": 3,
    "files.not_axial": 3,
    "files.small": 3,
    "files.no_sequence": 1,
    "files.sequence_missing": 3,
    "files.empty_folder": 1,
    "files.twice": 1,
    "files.unused": 1,
    "files.unknown": 3,
    "files.unfinished": 2,
    "files.no_side": 1,
    "files.many_grids": 6,
    "tables.no_folder": 1,
    "tables.no_split": 1,
    "exams.privacy_minimum": 1,
}
"""Of the site below, which has every fault of files."""


def break_files(site: Any) -> None:
    path = site.image("00001_left", "Pre")
    path.write_bytes(path.read_bytes()[:-300])
    path = site.image("00001_right", "Pre")
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + bytes(255 - byte for byte in raw[-8:-4]) + raw[-4:])
    site.image("00002_left", "T2").write_bytes(b"<html>not found</html>" * 40)
    site.save(site.image("00002_right", "T2"), np.zeros((4, 4, 4, 3), np.int16), np.eye(4))
    rewrite(site.image("00003_left", "Pre"), {"sform_code": 0, "qform_code": 0})
    rewrite(site.image("00003_right", "Pre"), {"qform_code": 1, "qoffset_x": 900.0})
    rewrite(site.image("00004_left", "Pre"), {"pixdim": np.array([1, 4, 4, 2, 1, 1, 1, 1])})
    rewrite(site.image("00004_right", "Pre"), {"scl_slope": 0.0})
    raw = site.image("00004_right", "Pre").with_suffix("")
    longer(site.image("00004_right", "Pre"))
    rewrite(site.image("00005_left", "Pre"), {"vox_offset": 7.0})
    site.place("00005_right", site.affine("right", (0.05, 0.05, 0.05)))
    site.save(site.image("00006_left", "T2"), site.voxels(4000)[:4], site.affine("left"))
    moved = site.affine("right")
    moved[1, 3] += 10
    site.save(site.image("00006_right", "T2"), site.voxels(1000), moved)
    values = site.voxels(1001).astype(np.float32)
    values[3, 3, 3] = np.nan
    site.save(site.image("00007_left", "Pre"), values, site.affine("left"))
    site.save(site.image("00007_right", "T2"), np.full(values.shape, 5, np.int16), site.affine("right"))
    shutil.copy(site.image("00009_left", "Pre"), site.image("00008_left", "Pre"))
    shutil.copy(site.image("00009_right", "Pre"), site.image("00009_right", "T2"))
    site.place("00010_left", site.affine("right"))
    site.place("00010_right", site.affine("left"))
    site.place("00011_left", site.affine("right"))
    shutil.rmtree(site.images / "00012_right")
    site.place("00012_left", site.affine("right"))
    site.save(site.image("00013_left", "Sub_1"), site.voxels(1).astype(np.uint16), site.affine("left"))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]
    site.place("00013_right", turn @ site.affine("right"))
    site.place("00014_left", site.affine("left", (1.0, 1.0, 1.0)))
    site.place("00014_right", site.affine("right", (8.0, 4.0, 4.0)))
    for place, sequence in enumerate(("Pre", "Sub_1", "T2")):
        thin = site.voxels(2000 + place)[:, :, :3]
        site.save(site.image("00015_left", sequence), thin, site.affine("left"))
    exam = site.images / "00015_right"
    shutil.rmtree(exam)
    site.save(exam / "DWI.nii.gz", site.voxels(3000), site.affine("right"))
    site.image("00016_left", "T2").unlink()
    exam = site.images / "00016_right"
    shutil.rmtree(exam)
    exam.mkdir()
    site.save(site.images / "00017_left" / "Pre.nii", site.voxels(3001), site.affine("left"))
    site.save(site.image("00017_left", "Post_1"), site.voxels(3002), site.affine("left"))
    site.image("00017_right", "T2").unlink()
    site.image("00017_right", "T2").mkdir()
    site.save(site.image("00099", "Pre"), site.voxels(3003), site.affine("left"))
    (site.images / "00017_left" / "Arztbrief.pdf").write_bytes(b"x")
    (site.folder / "notes.txt").write_bytes(b"x")
    (site.images / ".00018_left.unfinished").mkdir()
    (site.folder / "data").mkdir()
    (site.tables / "reports-made.json").write_bytes(b"{}")  # an import's own
    (site.folder / "data" / ".00019.unfinished").mkdir()


def rewrite(path: Path, change: dict[str, object]) -> None:
    """Change header fields of a file, whatever they then mean."""
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in change.items():
        header[name] = value
    path.write_bytes(gzip.compress(header.binaryblock + bytes(raw[348:])))


def longer(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(100)))


def test_every_fault_of_files_is_found_with_its_number(site: Any, settings: Settings) -> None:
    break_files(site)
    result = check_site(site.folder, settings, Options())
    assert not result.passed
    found = counts(result)
    assert {code: found.get(code, 0) for code in FILES} == FILES
    assert set(found) - set(FILES) <= set(QUIET)


def damage_tables(site: Any) -> None:
    """Faults of cells and rows, one exam each."""
    site.drop("split", "00001_left")
    site.edit("annotation", "00001_right", "PatientID", "")
    site.edit("annotation", "00002_left", "UID", "77777_left")
    site.edit("reports", "00002_right", "UID", "77777_right")
    site.edit("findings", "00003_left", "UID", "88888_left")
    site.edit("reports", "00003_right", "Report", "")
    site.edit("annotation", "00004_left", "UID", "4_left")
    site.edit("split", "00005_left", "Split", "test")
    site.edit("split", "00006_right", "Split", "training")
    for name, value in (("Age", "viel"), ("Lesion", "1.5")):
        site.edit("annotation", "00007_left" if name == "Age" else "00007_right", name, value)
    site.edit("annotation", "00008_left", "Age", 54)
    site.edit("annotation", "00008_right", "Lesion", 3)
    site.edit("findings", "00009_left", "Zyste", "ja")
    site.write("annotation", [*site.rows("annotation"), ["", "P9", "20000", "0"]])
    split = site.rows("split")
    site.write("split", [*split, split[-1], ["00010_left", "test", "0"], ["55555_left", "train", "0"]])
    for uid in ("00005_left", *(row[0] for row in split[-12:])):
        site.edit("findings", uid, "Karzinom", 0)
        site.edit("findings", uid, "Zyste", 1)


TABLES = {
    "tables.no_split": 1,
    "tables.no_patient": 2,
    "tables.annotation_extra": 1,
    "reports.missing": 1,
    "tables.reports_extra": 1,
    "tables.findings_extra": 1,
    "reports.empty": 1,
    "tables.leading_zeros": 1,
    "tables.patient_two_splits": 1,
    "tables.bad_split": 1,
    "tables.not_whole": 2,
    "tables.age_range": 1,
    "tables.lesion_range": 1,
    "tables.finding_cell": 1,
    "tables.no_uid": 1,
    "tables.uid_twice": 1,
    "tables.uid_two_splits": 1,
    "tables.no_folder": 1,
    "tables.no_positive": 1,
    "tables.no_negative": 1,
    "exams.privacy_minimum": 1,
    "files.not_read": 144,
}


def test_every_fault_of_rows_is_found_with_its_number(site: Any, settings: Settings) -> None:
    damage_tables(site)
    found = counts(check_site(site.folder, settings, Options(quick=True)))
    assert {code: found.get(code, 0) for code in TABLES} == TABLES
    assert set(found) - set(TABLES) <= set(QUIET)


def replace_in(table: str, old: str, new: str, encoding: str = "utf-8") -> Break:
    def change(site: Any) -> None:
        path = site.tables / f"{table}.csv"
        path.write_bytes(path.read_text("utf-8").replace(old, new, 1).encode(encoding))

    return change


def in_folds(site: Any) -> None:
    head, *rows = site.rows("split")
    site.write("split", [head, *([*row[:2], fold] for row in rows for fold in (1, 2))])


def set_reports(*texts: str) -> Break:
    def change(site: Any) -> None:
        for row, text in zip(site.rows("reports")[1:], texts, strict=False):
            site.edit("reports", row[0], "Report", text)

    return change


def all_reports(text: str) -> Break:
    return set_reports(*[text] * 48)


def swap_reports(site: Any) -> None:
    rows = site.rows("reports")
    for row in rows[1:]:
        row[1] = row[1].replace("links", "x").replace("rechts", "links").replace("x", "rechts")
    site.write("reports", rows)


def keep(num_patients: int) -> Break:
    def change(site: Any) -> None:
        for folder in sorted(site.images.iterdir())[2 * num_patients :]:
            shutil.rmtree(folder)

    return change


def mode(name: str, bits: int) -> Break:
    def change(site: Any) -> None:
        path = site.folder / name
        if name.startswith("private"):
            path.parent.mkdir(exist_ok=True, mode=0o700)
            path.mkdir(exist_ok=True) if name == "private" else path.write_text("key")
        path.chmod(bits)

    return change


def test_an_empty_folder_is_one_error(settings: Settings, tmp_path: Path) -> None:
    result = check_site(tmp_path, settings, Options(private=tmp_path / "p"))
    (fault,) = [finding for finding in result.findings if finding.severity == "error"]
    assert (fault.code, fault.count) == ("tables.layout", 1)
    assert "neither data_unilateral/, metadata_unilateral/ (ODELIA) nor " in fault.what


def readable_reports(site: Any) -> None:
    for path, bits in ((site.folder, 0o751), (site.tables, 0o755), (site.tables / "reports.csv", 0o644)):
        path.chmod(bits)


ENGLISH = "The left breast is without evidence of a suspicious finding, no mass is seen."
LONG = "Zyste links, kein Karzinom. " * 120

ALONE: list[tuple[str, int, Break]] = [
    ("tables.layout", 1, lambda site: site.images.rename(site.folder / "images")),
    ("tables.layout", 1, lambda site: shutil.rmtree(site.tables)),
    ("tables.missing", 1, lambda site: (site.tables / "split.csv").rename(site.tables / "splits.csv")),
    ("tables.empty", 1, lambda site: (site.tables / "reports.csv").write_bytes(b"")),
    ("tables.empty", 1, lambda site: (site.tables / "reports.csv").write_bytes(b"UID,Report\n")),
    ("tables.not_utf8", 1, replace_in("reports", "kein Karzinom", "Lymphknoten vergrößert", "cp1252")),
    ("tables.broken", 1, replace_in("split", "00010_left,train", '"00010_left,train')),
    ("tables.cells", 1, replace_in("split", "train,0", "train,0,more")),
    ("tables.column_missing", 1, replace_in("annotation", "PatientID", "Patient_ID")),
    ("tables.column_twice", 1, replace_in("split", "UID,Split,Fold", "UID,Split,Split")),
    ("tables.column_near", 1, replace_in("annotation", "Lesion", "Lesions")),
    ("tables.no_fold", 1, in_folds),
    ("reports.short", 1, set_reports("o. B.")),
    (
        "reports.encoding",
        3,
        set_reports("Zyste auÃ\u009fen links", "Zyste au\ufffden rechts", "au?en links kein"),
    ),
    (
        "reports.identifiers",
        3,
        set_reports(
            "Mamma links, geb. 12.03.1956.", "Dr. Hans Meier bittet um Mamma rechts.", "links Tel. 0241 8089"
        ),
    ),
    ("reports.dates", 1, set_reports("Mamma links, zum Vergleich MRT vom 12.03.2021.")),
    ("reports.language", 1, set_reports(ENGLISH)),
    ("reports.other_side", 1, set_reports("Zyste rechts, kein Karzinom.")),
    ("reports.sides_swapped", 48, swap_reports),
    ("reports.identical", 20, set_reports(*["Mamma beidseits unauffällig, keine Zyste."] * 20)),
    ("reports.all_identical", 48, all_reports("Mamma beidseits unauffällig, keine Zyste.")),
    ("reports.long", 1, set_reports(LONG)),
    ("reports.unknown_words", 14_400, all_reports("漢字かな " * 100)),
    ("exams.too_few_patients", 1, keep(1)),
    ("exams.fewer_than_batch", 1, keep(1)),
    ("exams.privacy_minimum", 1, keep(15)),
    ("machine.site_mode", 1, mode(".", 0o755)),
    ("machine.reports_mode", 1, readable_reports),
    ("machine.private_mode", 1, mode("private", 0o755)),
    ("machine.key_mode", 1, mode("private/pseudonym.key", 0o640)),
]


@pytest.mark.parametrize(("code", "number", "change"), ALONE, ids=[code for code, _, _ in ALONE])
def test_a_fault_alone_is_found(code: str, number: int, change: Break, site: Any, settings: Settings) -> None:
    change(site)
    assert counts(check_site(site.folder, settings, Options(quick=True))).get(code) == number


def test_a_sound_gzip_stream_that_ends_early_is_told_from_a_damaged_one(site: Any) -> None:
    """Their reader says the same of both."""
    path = site.image("00000_left", "Pre")
    whole = path.read_bytes()
    for place, code in ((-300, "files.truncated"), (-9, "files.truncated"), (-4, "files.truncated")):
        path.write_bytes(whole[:place])
        assert look_at(path).fault == code
    for place in (-5, len(whole) // 2):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        assert look_at(path).fault == "files.damaged"


def test_a_column_is_named_with_the_likely_misspelling_but_no_cell_is(site: Any, settings: Settings) -> None:
    replace_in("annotation", "PatientID", "Patient_ID")(site)
    rows = site.rows("split")
    site.write("split", rows[1:])  # no header: the first line are data
    result = check_site(site.folder, settings, Options(quick=True))
    told = [finding.what for finding in result.findings if finding.code == "tables.column_missing"]
    assert (
        "a column is missing: annotation.csv: 'PatientID'; there is 'Patient_ID', read as that here" in told
    )
    assert "a column is missing: split.csv: 'UID'" in told


def test_behind_a_misspelt_column_the_cells_are_checked(site: Any, settings: Settings) -> None:
    replace_in("annotation", "PatientID", "Patient_ID")(site)
    site.edit("split", "00005_left", "Split", "test")
    result = check_site(site.folder, settings, Options(quick=True))
    assert counts(result)["tables.patient_two_splits"] == 1
    assert result.exams["usable"] == 48
    replace_in("annotation", "Patient_ID", "Nummer")(site)
    found = counts(check_site(site.folder, settings, Options(quick=True)))
    assert (found["tables.column_missing"], found.get("tables.no_patient")) == (1, None)


def test_what_a_training_site_need_not_have_is_no_error(site: Any, settings: Settings) -> None:
    site.edit("findings", "00009_left", "Zyste", "ja")
    found = check_site(site.folder, settings, Options(quick=True))
    assert found.passed
    assert "tables.finding_cell" in {finding.code for finding in found.of("warning")}
    (site.tables / "findings.csv").unlink()
    result = check_site(site.folder, settings, Options(quick=True))
    assert result.passed
    assert "findings" not in result.exams


def test_the_server_s_exams_need_findings_and_no_reports(site: Any, settings: Settings) -> None:
    (site.tables / "reports.csv").unlink()
    options = Options(quick=True, server_exams=True)
    assert check_site(site.folder, settings, options).passed
    site.drop("findings", "00020_left")
    site.edit("findings", "00009_left", "Zyste", "ja")
    found = counts(check_site(site.folder, settings, options))
    assert found["tables.no_findings"] == 1
    assert found["tables.finding_cell"] == 1
    (site.tables / "findings.csv").unlink()
    assert not check_site(site.folder, settings, options).passed
    site.write("split", [[uid, "train", fold] for uid, _, fold in site.rows("split")])
    replace_in("split", "UID,train,Fold", "UID,Split,Fold")(site)
    assert counts(check_site(site.folder, settings, options))["exams.none_in_split"] == 1


def write_uka(folder: Path, sound: Path, num_patients: int = 24) -> None:
    """The sound site in the UKA layout: requests of eight digits, examination 1."""
    names: dict[str, str] = {}
    for path in sorted((sound / "data_unilateral").iterdir()):
        number, side = path.name.split("_")
        names[path.name] = f"{90_000_000 + int(number)}01_{side}"
        shutil.copytree(path, folder / "data_unilateral" / names[path.name])
    (folder / "metadata").mkdir()
    splits = (sound / "metadata_unilateral" / "split.csv").read_text("utf-8").splitlines()[1:]
    rows = (line.split(",") for line in splits)
    lines = [f"{names[uid]},0,{split},{n % 2},{n // 2 % 2}" for n, (uid, split, _) in enumerate(rows)]
    table = ["UID,Fold,Split,Zyste,Karzinom", *lines]
    (folder / "metadata" / "split_regex.csv").write_text("\n".join(table), "utf-8")
    texts = [
        f"{90_000_000 + n};1;Mamma links: Zyste {n} mm.;Mamma rechts: kein Karzinom, {n}."
        for n in range(num_patients)
    ]
    head = "AnforderungsNr;UntersuchungsNr;Linke Mamma;Rechte Mamma"
    (folder / "metadata" / "mrt-befund.csv").write_text("\n".join([head, *texts]), "utf-8")
    folder.chmod(0o750)


def test_a_site_in_the_uka_layout_is_checked_by_the_same_rules(
    sound_site: Path, settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "UKA"
    write_uka(folder, sound_site)
    result = check_site(folder, settings, Options(quick=True))
    assert counts(result) == {"files.not_read": 144, "machine.device": 1, "machine.clock_unchecked": 1}
    assert (result.exams["train"], result.exams["patients"]) == (36, 24)
    reports = folder / "metadata" / "mrt-befund.csv"
    lines = reports.read_text("utf-8").splitlines()
    strange = "12345678;1;Mamma links: Zyste.;Mamma rechts: Zyste."
    empty = lines[3].replace("Mamma links: Zyste 2 mm.", "")
    reports.write_text("\n".join([*lines[:2], empty, *lines[4:], strange, lines[1], ";1;a;b"]), "utf-8")
    split = folder / "metadata" / "split_regex.csv"
    split.write_text(split.read_text("utf-8").replace("9000000001_left", "9000000001_right", 1), "utf-8")
    split.write_text(
        split.read_text("utf-8").replace("9000000101_left,0,train", "9000000101_left,0,test"), "utf-8"
    )
    found = counts(check_site(folder, settings, Options(quick=True)))
    told = ("tables.reports_extra", "reports.missing", "reports.empty", "tables.uid_twice", "tables.no_uid")
    assert {code: found.get(code) for code in told} == dict.fromkeys(told, 1) | {
        "reports.missing": 2,
        "tables.uid_twice": 2,
    }
    assert found["tables.no_split"] == 1
    assert found["tables.patient_two_splits"] == 1


def test_the_same_leading_zeros_twice_in_one_place_are_two_exams(site: Any, settings: Settings) -> None:
    for uid in ("7_left", "7_right"):
        shutil.copytree(site.images / uid.replace("7", "00007"), site.images / uid)
    found = counts(check_site(site.folder, settings, Options(quick=True)))
    assert "tables.leading_zeros" not in found


def test_a_name_that_is_no_utf_8_can_be_shown(site: Any, settings: Settings) -> None:
    shutil.copytree(site.images / "00001_left", site.images / os.fsdecode(b"\xff_left"))
    result = check_site(site.folder, settings, Options())
    [found] = [each for each in result.findings if each.code == "tables.no_split"]
    assert found.who == ("\\udcff_left",)
    assert json.dumps(result.to_dict(show_ids=True), ensure_ascii=False).encode()
    assert check_site(site.folder, settings, Options()).exams == result.exams


def test_a_folder_with_several_sites_or_none_is_refused_in_one_line(
    sound_site: Path, settings: Settings, tmp_path: Path
) -> None:
    for name in ("A", "B"):
        (tmp_path / name / "data_unilateral").mkdir(parents=True)
    with pytest.raises(DataError, match="the folder holds 2 sites: check one of them"):
        check_site(tmp_path, settings, Options(quick=True))
    with pytest.raises(DataError, match="data folder is missing"):
        check_site(tmp_path / "none", settings, Options(quick=True))
    result = check_site(sound_site.parent, settings, Options(quick=True, private=tmp_path))
    assert result.exams["usable"] == 48


def close(monkeypatch: pytest.MonkeyPatch, *closed: Path) -> None:
    """Make folders and files unreadable, also for the system's administrator."""
    access, listing, read = os.access, os.listdir, Path.read_bytes

    def refuse(path: Any) -> None:
        if Path(path) in closed:
            raise PermissionError(13, "Permission denied", str(path))

    def refusing_listing(path: Any) -> list[str]:
        refuse(path)
        return listing(path)

    def refusing_read(path: Path) -> bytes:
        refuse(path)
        return read(path)

    monkeypatch.setattr(os, "access", lambda path, bits: Path(path) not in closed and access(path, bits))
    monkeypatch.setattr(os, "listdir", refusing_listing)
    monkeypatch.setattr(Path, "read_bytes", refusing_read)


def test_what_cannot_be_read_is_told_and_the_check_goes_on(
    site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, site.images / "00003_left", site.tables / "reports.csv")
    result = check_site(site.folder, settings, Options(quick=True))
    who = {name for each in result.findings if each.code == "files.unreadable" for name in each.who}
    assert who == {"00003_left", "reports.csv"}
    assert counts(result).get("files.empty_folder") is None
    assert result.exams["usable"] == 47


@pytest.mark.parametrize("name", ["", "data_unilateral", "metadata_unilateral"])
def test_a_whole_folder_that_cannot_be_read_is_told(
    name: str, site: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    close(monkeypatch, site.folder / name)
    result = check_site(site.folder, settings, Options(quick=True))
    (told,) = [each for each in result.findings if each.code == "files.unreadable"]
    assert told.who == (name or ".",)
    assert "00003" not in json.dumps(result.to_dict(show_ids=False))


def test_every_code_has_a_test() -> None:
    """Those of the machine are in test_machine.py."""
    tested = {*QUIET, *FILES, *TABLES, *(code for code, _, _ in ALONE)}
    elsewhere = {code for code in CODES if code.startswith("machine.")}
    others = {"reports.not_tokenized", "files.not_read", "tables.no_findings", "exams.none_in_split"}
    assert set(CODES) - tested - elsewhere - others == set()
