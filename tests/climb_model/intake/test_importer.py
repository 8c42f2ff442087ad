"""The import of a whole export: complete exams only, the same however often and with however many workers."""

from __future__ import annotations

import csv
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from climb_model.data.exam import DataError
from climb_model.data.folders import read_site
from climb_model.intake import exam_import
from climb_model.intake.candidates import NO_PATIENT
from climb_model.intake.forgotten import REASON, SITE_LOCK, remember_forgotten
from climb_model.intake.import_report import ImportResult, file_lines, result_lines
from climb_model.intake.importer import ImportOptions, import_site
from climb_model.intake.mapping import ReportMapping, SeriesMapping, SiteMapping
from climb_model.intake.pseudonym import patient_id, site_key
from climb_model.lock import LockedError, only_process

PATIENTS = {"0012": "Zeisigmann", "0340": "Quastenflosser"}
REPORTS = {
    "0012": "Frau Zeisigmann, geb. 12.03.1961. Rechts: Zyste, 8 mm. Links: Kein Herdbefund.",
    "0340": "Rechte Mamma: Unauffällig. Linke Mamma: Fibroadenom oben außen.",
}
MAPPING = SiteMapping(reports=ReportMapping(accession="Acc", text="Befund"))
Export = Callable[[Path], Path]


def series_of(
    study: str, number: int, description: str, volumes: list[np.ndarray], drawn: Any
) -> list[Dataset]:
    """Classic slices of some phases; (column, row, slice) voxels lie as `drawn.affine` says."""
    steps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ drawn.affine
    lengths = np.linalg.norm(steps[:3, :3], axis=0)
    made: list[Dataset] = []
    for phase, voxels in enumerate(volumes):
        for level in range(voxels.shape[2]):
            tags = Dataset()
            tags.file_meta = FileMetaDataset()
            tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            tags.SOPClassUID = MRImageStorage
            tags.StudyInstanceUID = f"1.2.3.{int(study)}"
            tags.SeriesInstanceUID = f"1.2.3.{int(study)}.{number}"
            tags.SOPInstanceUID = f"1.2.3.{int(study)}.{number}.{phase + 1}.{level + 1}"
            tags.AccessionNumber, tags.PatientID, tags.PatientName = f"A{study}", study, PATIENTS[study]
            tags.StudyDate, tags.PatientBirthDate = "20240105", "19610312"
            tags.Modality, tags.SeriesDescription, tags.SeriesNumber = "MR", description, number
            tags.ImageType = ["ORIGINAL", "PRIMARY", "M"]
            tags.EchoTime, tags.RepetitionTime = (90, 4000) if "t2" in description else (2, 5)
            tags.TemporalPositionIdentifier = phase + 1
            tags.AcquisitionTime = f"10{number:02d}{phase * 10:02d}"
            tags.Rows, tags.Columns = voxels.shape[1], voxels.shape[0]
            tags.PixelSpacing = [f"{lengths[1]:.6f}", f"{lengths[0]:.6f}"]
            tags.ImageOrientationPatient = [
                f"{value:.6f}" for axis in (0, 1) for value in steps[:3, axis] / lengths[axis]
            ]
            tags.ImagePositionPatient = [f"{value:.6f}" for value in steps[:3, 3] + level * steps[:3, 2]]
            tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
            tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, 1
            tags.PixelData = np.ascontiguousarray(voxels[:, :, level].T.astype("<i2")).tobytes()
            made.append(tags)
    return made


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory, draw_exam: Callable[..., Any]) -> Path:
    """Two studies of both breasts in one heap of files, and a table with one text a study."""
    root = tmp_path_factory.mktemp("export")
    (root / "dicom").mkdir()
    files: list[Dataset] = []
    for seed, study in enumerate(PATIENTS):
        drawn = draw_exam(seed)
        files += series_of(study, 1, "t1_fl3d_dyn", [drawn.images["Pre"], drawn.images["Post_1"]], drawn)
        files += series_of(study, 2, "t2_tse_tra", [drawn.images["T2"]], drawn)
    for place, number in enumerate(np.random.default_rng(0).permutation(len(files))):
        files[number].save_as(root / "dicom" / f"IM{place:04d}", enforce_file_format=True)
    rows = [f'A{study};"{text}"' for study, text in REPORTS.items()]
    (root / "reports.csv").write_text("\n".join(["Acc;Befund", *rows]), encoding="utf-8")
    return root


def load(export: Path, site: Path, **options: Any) -> ImportResult:
    chosen = ImportOptions(mapping=MAPPING, reports=export / "reports.csv")
    return import_site(export / "dicom", site, replace(chosen, **options))


def altered(export: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """A copy of the export with every file changed."""
    import shutil

    from pydicom import dcmread

    shutil.copytree(export, folder / "export")
    for path in (folder / "export" / "dicom").iterdir():
        tags = dcmread(path)
        change(tags)
        tags.save_as(path)
    return folder / "export"


def contents(site: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(site)): path.read_bytes()
        for path in sorted(site.rglob("*"))
        if path.is_file() and path.name != "import.lock"
    }


@pytest.fixture(scope="module")
def imported(export: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ImportResult]:
    site = tmp_path_factory.mktemp("imported") / "SITE"
    return site, load(export, site)


@pytest.fixture
def copy_of(imported: tuple[Path, ImportResult], tmp_path: Path) -> Path:
    """The imported site, to be changed: its key is copied too, so that names stay the same."""
    import shutil

    return Path(shutil.copytree(imported[0], tmp_path / "SITE"))


def test_an_import_is_a_site_that_training_reads(imported: tuple[Path, ImportResult]) -> None:
    site, result = imported
    assert (result.num_imported, result.num_present, result.num_breasts, result.num_reports) == (2, 0, 4, 4)
    data = read_site(
        site, need_reports=True, need_findings=False, sequences=("Pre", "Sub", "T2"), findings=()
    )
    assert len(data.exams) == 4
    assert not data.left_out
    assert all(set(exam.files) >= {"Pre", "Sub", "Post_1", "T2"} for exam in data.exams)
    assert all(exam.age_days == 22944 for exam in data.exams)  # 12 March 1961 to 5 January 2024
    assert len({exam.patient for exam in data.exams}) == 2
    by_text = {exam.report: exam.uid for exam in data.exams}
    cyst = next(text for text in by_text if text is not None and "Zyste" in text)
    assert by_text[cyst].endswith("_right")
    assert "Kein Herdbefund" not in cyst


def test_native_volumes_are_the_drawn_integers(
    imported: tuple[Path, ImportResult], draw_exam: Callable[..., Any]
) -> None:
    import nibabel as nib

    drawn = [draw_exam(seed).images for seed in range(len(PATIENTS))]
    for folder in sorted((imported[0] / "data").iterdir()):
        found = {name: np.asarray(nib.load(folder / f"{name}.nii.gz").dataobj) for name in drawn[0]}
        assert any(all(np.array_equal(found[name], images[name]) for name in images) for images in drawn)


def test_nothing_written_tells_who_it_was(imported: tuple[Path, ImportResult]) -> None:
    import gzip

    result = imported[1]
    assert result.redacted == {"birth date": 1, "name": 1}
    for name, content in contents(imported[0]).items():
        text = gzip.decompress(content) if name.endswith(".gz") else content
        for secret in (*PATIENTS.values(), "A0012", "A0340", "12.03.1961", "19610312", "20240105", "1.2.3."):
            assert secret.encode() not in text, name


def test_the_same_import_again_changes_nothing(copy_of: Path, export: Path) -> None:
    before = contents(copy_of)
    result = load(export, copy_of)
    assert (result.num_imported, result.num_present, result.num_breasts) == (0, 2, 4)
    assert contents(copy_of) == before  # import-report.csv too


def test_two_workers_write_the_same_bytes_as_one(copy_of: Path, export: Path) -> None:
    before = contents(copy_of)
    told: list[tuple[str, int, int]] = []
    chosen = ImportOptions(mapping=MAPPING, reports=export / "reports.csv", workers=2, replace=True)
    result = import_site(export / "dicom", copy_of, chosen, on_progress=lambda *stage: told.append(stage))
    assert result.num_imported == 2
    assert contents(copy_of) == before
    assert ("importing exams", 2, 2) in told


def test_an_interrupted_import_goes_on_and_shows_no_half_exam(copy_of: Path, export: Path) -> None:
    before = contents(copy_of)
    exams = sorted(path.name for path in (copy_of / "data").iterdir())
    # as a kill leaves it: one exam with one breast shown and the native folder still a draft
    (copy_of / "data" / exams[0]).rename(copy_of / "data" / f".{exams[0]}.unfinished")
    right = copy_of / "data_unilateral" / f"{exams[0]}_right"
    right.rename(right.with_name(f".{right.name}.unfinished"))
    (right.with_name(f".{right.name}.unfinished") / "T2.nii.gz").unlink()
    result = load(export, copy_of)
    assert (result.num_imported, result.num_present) == (1, 1)
    assert contents(copy_of) == before


def test_a_killed_import_leaves_whole_exams_only(export: Path, tmp_path: Path) -> None:
    site = tmp_path / "SITE"
    script = (
        "import os, sys; from pathlib import Path; import climb_model.intake.exam_import as one\n"
        "from climb_model.intake.drafts import aside\n"
        "from climb_model.intake.importer import ImportOptions, import_site\n"
        "shown = one.show; calls = []\n"
        "def show(draft, folder):\n"
        "    calls.append(folder); shown(draft, folder) if len(calls) < 5 else os.kill(os.getpid(), 9)\n"
        "one.show = show\n"
        "import_site(Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(export / "dicom"), str(site)], check=False)
    assert done.returncode == -9
    assert len([path for path in (site / "data").iterdir() if not path.name.startswith(".")]) == 1
    result = load(export, site)
    assert (result.num_imported, result.num_present, result.num_breasts) == (1, 1, 4)
    assert not [path for path in site.rglob("*") if path.name.startswith(".")]


def test_an_exam_of_changed_files_is_left_as_it_is_until_replace(
    copy_of: Path, export: Path, tmp_path: Path
) -> None:
    import shutil

    changed = tmp_path / "export"
    shutil.copytree(export, changed)
    one = next(path for path in sorted((changed / "dicom").iterdir()))
    from pydicom import dcmread

    tags = dcmread(one)
    tags.SOPInstanceUID = f"{tags.SOPInstanceUID}9"
    tags.save_as(one)
    before = contents(copy_of)
    result = load(changed, copy_of)
    assert (result.num_imported, result.num_present, result.num_breasts) == (0, 2, 4)
    assert "made of other files" in "\n".join(result_lines(result, copy_of))
    after = contents(copy_of)
    assert {name for name in before if before[name] != after[name]} == {"import-report.csv"}
    assert load(changed, copy_of, replace=True).num_imported == 2


def test_a_repaired_file_counts_as_another(copy_of: Path, export: Path, tmp_path: Path) -> None:
    changed = altered(export, tmp_path, lambda tags: setattr(tags, "ImageComments", "sent again"))
    result = load(changed, copy_of)
    assert [each.reason.partition(" by ")[0] for each in result.entries if each.what == "exam"] == [
        "made of other files"
    ] * 2


def test_exams_made_by_other_rules_stay_and_get_their_reports(copy_of: Path, export: Path) -> None:
    (copy_of / "metadata_unilateral" / "reports.csv").unlink()
    result = load(export, copy_of, motion="rigid")
    assert (result.num_imported, result.num_present, result.num_reports) == (0, 2, 4)
    assert {each.reason for each in result.entries if each.what == "exam"} == {
        "made by other rules in an earlier import, and left as it is; --replace imports it anew"
    }


def test_a_killed_replacement_is_neither_mixed_nor_lost(copy_of: Path, export: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; import climb_model.intake.exam_import as one\n"
        "from climb_model.intake.drafts import aside\n"
        "from climb_model.intake.importer import ImportOptions, import_site\n"
        "shown = one.show; calls = []\n"
        "def show(draft, folder):\n"
        "    calls.append(folder)\n"
        "    if len(calls) == 2:  # between the two renames of the second breast\n"
        "        folder.rename(aside(folder)); os.kill(os.getpid(), 9)\n"
        "    shown(draft, folder)\n"
        "one.show = show\n"
        "import_site(Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions(motion='rigid', replace=True))\n"
    )
    folders = [str(export / "dicom"), str(copy_of)]
    assert subprocess.run([sys.executable, "-c", script, *folders], check=False).returncode == -9
    result = load(export, copy_of)
    assert (result.num_imported, result.num_present, result.num_breasts) == (1, 1, 4)
    recipes = {
        json.loads((folder / exam_import.PROVENANCE).read_text())["recipe"]
        for part in ("data", "data_unilateral")
        for folder in (copy_of / part).iterdir()
    }
    assert len(recipes) == 1


def test_what_stepped_aside_for_nothing_comes_back(copy_of: Path, tmp_path: Path) -> None:
    before = contents(copy_of)
    folder = next((copy_of / "data_unilateral").iterdir())
    folder.rename(folder.with_name(f".{folder.name}.old"))
    (copy_of / "data" / "._note.old").write_text("a file of another system")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        import_site(tmp_path / "none", copy_of, ImportOptions())
    (copy_of / "data" / "._note.old").unlink()
    assert {name: content for name, content in contents(copy_of).items() if name in before} == before


def test_a_replacement_that_fails_leaves_the_old_exam(copy_of: Path, export: Path, tmp_path: Path) -> None:
    def spoil(tags: Any) -> None:
        if tags.TemporalPositionIdentifier == 2:
            tags.PixelData = tags.PixelData[:10]

    before = contents(copy_of)
    result = load(altered(export, tmp_path, spoil), copy_of, replace=True)
    assert (result.num_imported, result.num_present, result.num_breasts) == (0, 2, 4)
    assert [each.reason for each in result.entries].count("the version of an earlier import stays") == 2
    after = contents(copy_of)
    assert {name for name in before if before[name] != after[name]} == {"import-report.csv"}


def test_a_breast_that_is_no_longer_in_view_goes_with_its_rows(
    copy_of: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = exam_import.split_exam

    def right_only(*arguments: Any, **options: Any) -> Any:
        found = split(*arguments, **options)
        return replace(found, sides={"right": found.sides["right"]})

    monkeypatch.setattr(exam_import, "split_exam", right_only)
    assert load(export, copy_of, replace=True).num_breasts == 2
    assert {folder.name[-5:] for folder in (copy_of / "data_unilateral").iterdir()} == {"right"}
    for name in ("annotation", "split", "reports"):
        assert "_left" not in (copy_of / "metadata_unilateral" / f"{name}.csv").read_text()


def test_a_file_that_vanishes_costs_its_exam_only(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "Zeisigmann.dcm")

    monkeypatch.setattr(exam_import, "write_native", gone)
    result = load(export, tmp_path / "SITE")
    assert [each.reason for each in result.entries if each.what == "exam"] == [
        "a file could not be read: No such file or directory"
    ] * 2


def test_a_full_disk_ends_the_import(export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exam_import, "write_native", full)
    with pytest.raises(OSError, match="No space left"):
        load(export, tmp_path / "SITE")


def test_an_archive_that_marks_all_as_derived_needs_a_mapping(export: Path, tmp_path: Path) -> None:
    import shutil

    from pydicom import dcmread

    shutil.copytree(export, tmp_path / "export")
    for path in (tmp_path / "export" / "dicom").iterdir():
        tags = dcmread(path)
        tags.ImageType = ["DERIVED", "SECONDARY"]
        tags.save_as(path)
    result = load(tmp_path / "export", tmp_path / "SITE")
    assert result.num_imported == 0
    assert {each.what for each in result.entries if "derived" in each.reason} == {"series"}
    named = replace(MAPPING, series=SeriesMapping(dynamic=("t1_fl3d*",), T2=("t2*",)))
    assert load(tmp_path / "export", tmp_path / "SITE", mapping=named).num_breasts == 4


def test_a_damaged_t2_costs_the_t2_and_not_the_exam(export: Path, tmp_path: Path) -> None:
    import shutil

    from pydicom import dcmread

    shutil.copytree(export, tmp_path / "export")
    slices = [
        path for path in sorted((tmp_path / "export" / "dicom").iterdir()) if "t2" in str(dcmread(path))
    ]
    tags = dcmread(slices[0])
    tags.RescaleSlope = "1e300"
    tags.save_as(slices[0])
    result = load(tmp_path / "export", tmp_path / "SITE")
    assert (result.num_imported, result.num_breasts) == (2, 4)
    assert len(list((tmp_path / "SITE" / "data").glob("*/T2.nii.gz"))) == 1
    assert "T2: rescaled voxels beyond the range of float32" in {each.reason for each in result.entries}


def test_exams_without_a_patient_number_are_told(export: Path, tmp_path: Path) -> None:
    import shutil

    from pydicom import dcmread

    shutil.copytree(export, tmp_path / "export")
    for path in (tmp_path / "export" / "dicom").iterdir():
        tags = dcmread(path)
        tags.PatientID = ""
        tags.save_as(path)
    result = load(tmp_path / "export", tmp_path / "SITE")
    assert result.num_breasts == 4
    assert [each.what for each in result.entries if each.reason == NO_PATIENT] == ["notice"] * 2


def test_a_forgotten_exam_does_not_come_back(copy_of: Path, export: Path) -> None:
    exam = next(path.name for path in (copy_of / "data").iterdir())
    remember_forgotten(copy_of, [exam])
    result = load(export, copy_of, replace=True)
    assert result.num_imported == 1
    assert [each.study for each in result.entries if each.reason == REASON] == [""]  # not named again
    assert not (copy_of / "import-report.csv").read_text().count(exam)


def test_an_import_without_a_report_table_keeps_earlier_reports(copy_of: Path, export: Path) -> None:
    before = (copy_of / "metadata_unilateral" / "reports.csv").read_bytes()
    result = import_site(export / "dicom", copy_of, ImportOptions())
    assert result.num_present == 2
    assert (copy_of / "metadata_unilateral" / "reports.csv").read_bytes() == before


def test_a_later_import_moves_no_patient_to_another_split(copy_of: Path, export: Path) -> None:
    path = copy_of / "metadata_unilateral" / "split.csv"
    path.write_text(path.read_text().replace("train", "test").replace("val", "test"))
    before = path.read_bytes()
    assert load(export, copy_of, replace=True).num_imported == 2
    assert path.read_bytes() == before


def test_a_split_that_the_table_changes_is_told(copy_of: Path, export: Path, tmp_path: Path) -> None:
    path = copy_of / "metadata_unilateral" / "split.csv"
    path.write_text(path.read_text().replace("train", "test").replace("val", "test"))
    table = tmp_path / "reports.csv"
    table.write_text(
        "\n".join(["Acc,Befund,Gruppe", *(f"A{study},Unauffällig.,train" for study in PATIENTS)])
    )
    mapping = SiteMapping(reports=ReportMapping(accession="Acc", text="Befund", split="Gruppe"))
    result = load(export, copy_of, reports=table, mapping=mapping)
    moved = "its split is train now, as the report table says; it was test"
    assert [each.reason for each in result.entries].count(moved) == 2
    assert "test" not in path.read_text()


def test_a_folder_without_exams_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    site = tmp_path / "hospitals" / "SITE"
    for nifti, line in ((False, "it is empty"), (True, "no NIfTI file")):
        with pytest.raises(DataError, match=line):
            import_site(tmp_path / "in", site, ImportOptions(), nifti=nifti)
    (tmp_path / "in" / "Pre.nii.gz").write_bytes(b"x")
    with pytest.raises(DataError, match="1 x not a DICOM file; NIfTI volumes: --nifti"):
        import_site(tmp_path / "in", site, ImportOptions())
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("kept", ["SITE", "SITE/private", "SITE/private/forgotten.json"])
def test_a_folder_without_exams_takes_nothing_away(tmp_path: Path, kept: str) -> None:
    path = tmp_path / kept
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}") if path.suffix else path.mkdir()
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        import_site(tmp_path / "in", tmp_path / "SITE", ImportOptions())
    assert path.exists()
    assert (tmp_path / "SITE" / "private").exists() == ("private" in kept)


def test_the_report_of_an_import_names_no_path(copy_of: Path, export: Path, tmp_path: Path) -> None:
    import shutil

    named = tmp_path / "Zeisigmann_Erna"
    shutil.copytree(export / "dicom", named / "Zeisigmann")
    (named / "Zeisigmann" / "note.txt").write_text("x")
    result = import_site(named, copy_of, ImportOptions())
    assert b"Zeisigmann" not in (copy_of / "import-report.csv").read_bytes()
    assert "Zeisigmann" not in "\n".join(result_lines(result, copy_of))
    assert any("note.txt" in line for line in file_lines(result.entries))  # on request, on the screen


# Folders


@pytest.mark.parametrize(("source", "site"), [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_folders_one_inside_the_other_are_refused(tmp_path: Path, source: str, site: str) -> None:
    (tmp_path / source).mkdir(parents=True)
    with pytest.raises(DataError, match="one inside the other"):
        import_site(tmp_path / source, tmp_path / site, ImportOptions())


@pytest.mark.parametrize("part", ["data", "data_unilateral", "metadata_unilateral", "private"])
def test_a_site_folder_that_leads_elsewhere_is_refused(export: Path, tmp_path: Path, part: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "SITE").mkdir()
    (tmp_path / "SITE" / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="symbolic link"):
        load(export, tmp_path / "SITE")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_missing_export_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        import_site(tmp_path / "nowhere", tmp_path / "SITE", ImportOptions())
    assert not (tmp_path / "SITE").exists()


def test_a_wrong_report_table_is_told_before_any_work(export: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing"):
        load(export, tmp_path / "SITE", reports=export / "none.csv")
    assert not (tmp_path / "SITE" / "data").exists()


def test_a_second_import_into_the_folder_is_refused(copy_of: Path, export: Path) -> None:
    with (
        only_process(copy_of / SITE_LOCK, what="tests"),
        pytest.raises(LockedError, match="works in this site's folder"),
    ):
        load(export, copy_of)


def test_a_worker_that_dies_is_one_line(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from climb_model.intake import importer

    monkeypatch.setattr(importer, "_start_worker", partial(os._exit, 3))
    with pytest.raises(DataError, match="worker process died"):
        load(export, tmp_path / "SITE", workers=2)


def test_provenance_tells_how_each_file_was_made(imported: tuple[Path, ImportResult]) -> None:
    for folder in (imported[0] / "data").iterdir():
        record = json.loads((folder / exam_import.PROVENANCE).read_text())
        assert record["sides"] == ["left", "right"]
        assert set(record["files"]) == {"Pre", "Post_1", "T2"}
    for folder in (imported[0] / "data_unilateral").iterdir():
        record = json.loads((folder / exam_import.PROVENANCE).read_text())
        assert {"Pre", "Post_1", "Sub_1", "T2"} <= set(record["files"])


def patients_by_provenance(site: Path) -> dict[str, str]:
    """UID or exam of each folder to the patient that its provenance names."""
    return {
        folder.name: json.loads((folder / exam_import.PROVENANCE).read_text())["patient"]
        for part in ("data", "data_unilateral")
        for folder in (site / part).glob("*")
    }


def test_provenance_tells_whose_exam_it_is_as_the_tables_do(imported: tuple[Path, ImportResult]) -> None:
    site = imported[0]
    with (site / "metadata_unilateral" / "annotation.csv").open(encoding="utf-8", newline="") as file:
        patients = {row["UID"]: row["PatientID"] for row in csv.DictReader(file)}
    assert set(patients.values()) == {patient_id(number, site_key(site)) for number in PATIENTS}
    whole = {uid.rpartition("_")[0]: patient for uid, patient in patients.items()}
    assert patients_by_provenance(site) == patients | whole


@pytest.mark.parametrize("earlier", [None, "of a number that was corrected since"])
def test_whose_it_is_is_noted_of_an_earlier_versions_exam_and_its_volumes_stay(
    copy_of: Path, export: Path, earlier: str | None
) -> None:
    before = contents(copy_of)
    for path in copy_of.rglob(exam_import.PROVENANCE):
        record = json.loads(path.read_text())
        patient = record.pop("patient")
        path.write_text(json.dumps(record if earlier is None else record | {"patient": earlier}))
        assert patient
    volumes = {path: path.stat().st_ino for path in copy_of.rglob("*.nii.gz")}
    assert load(export, copy_of).num_imported == 0
    assert contents(copy_of) == before
    assert {path: path.stat().st_ino for path in volumes} == volumes


def test_a_killed_import_without_tables_tells_whose_its_exams_are(export: Path, tmp_path: Path) -> None:
    site = tmp_path / "SITE"
    script = (
        "import os, sys; from pathlib import Path; import climb_model.intake.exam_import as one\n"
        "from climb_model.intake.importer import ImportOptions, import_site\n"
        "one.split_exam = lambda *_, **__: os.kill(os.getpid(), 9)\n"
        "import_site(Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(export / "dicom"), str(site)], check=False)
    assert done.returncode == -9
    [patient] = patients_by_provenance(site).values()
    assert patient in {patient_id(number, site_key(site)) for number in PATIENTS}


# What else lies in an exam's folder


def folders_of_an_exam(site: Path) -> dict[str, Path]:
    exam = min(path.name for path in (site / "data").iterdir())
    return {"data": site / "data" / exam, "data_unilateral": site / "data_unilateral" / f"{exam}_left"}


def test_a_series_that_was_there_first_stays_beside_the_import(export: Path, copy_of: Path) -> None:
    before = contents(copy_of)
    folder = folders_of_an_exam(copy_of)["data"]
    pre = (folder / "Pre.nii.gz").read_bytes()
    for part in ("data", "data_unilateral"):
        shutil.rmtree(copy_of / part)
    folder.mkdir(parents=True)
    (folder / "T1loc.nii.gz").write_bytes(b"a localizer")
    (folder / "Pre.nii.gz").write_bytes(pre)  # the same series that the import finds
    assert load(export, copy_of).num_imported == 2
    own = f"data/{folder.name}/T1loc.nii.gz"
    after = contents(copy_of)
    assert after.pop(own) == b"a localizer"
    assert after == before


@pytest.mark.parametrize("part", ["data", "data_unilateral"])
def test_what_no_import_made_outlives_every_replacement(export: Path, copy_of: Path, part: str) -> None:
    folder = folders_of_an_exam(copy_of)[part]
    (folder / "Extra.nii.gz").write_bytes(b"by --series")
    (folder / "notes.txt").write_bytes(b"by hand")
    before = contents(copy_of)
    for _ in range(2):
        assert load(export, copy_of, replace=True).num_imported == 2
        assert contents(copy_of) == before


@pytest.mark.parametrize("part", ["data", "data_unilateral"])
@pytest.mark.parametrize("what", ["other volume", "folder", "link"])
def test_what_cannot_be_carried_over_leaves_the_exam_as_it_is(
    export: Path, copy_of: Path, part: str, what: str
) -> None:
    folder = folders_of_an_exam(copy_of)[part]
    if what == "other volume":  # T2 was not among what the import made
        record = json.loads((folder / exam_import.PROVENANCE).read_text())
        del record["files"]["T2"]
        (folder / exam_import.PROVENANCE).write_text(json.dumps(record))
        (folder / "T2.nii.gz").write_bytes(b"by --series")
    elif what == "folder":
        (folder / "masks").mkdir()
        (folder / "masks" / "lesion.nii.gz").write_bytes(b"by hand")
    else:
        (folder / "Extra.nii.gz").symlink_to(folder / "Pre.nii.gz")
    before = contents(copy_of)
    result = load(export, copy_of, replace=True)
    assert (result.num_imported, result.num_present) == (1, 1)
    told = [each for each in result.entries if each.reason == exam_import.FOREIGN]
    exam = min(path.name for path in (copy_of / "data").iterdir())
    assert [(each.what, each.study) for each in told] == [("exam", exam)]
    after = contents(copy_of)
    assert {name for name in before if before[name] != after.get(name)} == {"import-report.csv"}
    assert (folder / "Extra.nii.gz").is_symlink() == (what == "link")


def test_a_breast_that_is_no_longer_in_view_stays_while_its_folder_holds_something_else(
    copy_of: Path, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = exam_import.split_exam

    def right_only(*arguments: Any, **options: Any) -> Any:
        found = split(*arguments, **options)
        return replace(found, sides={"right": found.sides["right"]})

    monkeypatch.setattr(exam_import, "split_exam", right_only)
    mask = folders_of_an_exam(copy_of)["data_unilateral"] / "mask.nii.gz"
    mask.write_bytes(b"by hand")
    result = load(export, copy_of, replace=True)
    assert (result.num_imported, result.num_breasts) == (1, 3)
    assert mask.read_bytes() == b"by hand"


def test_the_key_is_for_its_owner_only(imported: tuple[Path, ImportResult]) -> None:
    modes = [(imported[0] / name).stat().st_mode for name in ("private", "private/pseudonym.key")]
    assert [stat.S_IMODE(mode) for mode in modes] == [0o700, 0o600]
