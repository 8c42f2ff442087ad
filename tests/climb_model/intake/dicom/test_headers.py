"""What a scan of a DICOM export finds, and what it leaves out and why."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    CTImageStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
)

from climb_model.data.exam import DataError
from climb_model.intake import processes
from climb_model.intake.dicom import headers
from climb_model.intake.dicom.copies import COPY, CUT_COPY, UNREADABLE, without_copies
from climb_model.intake.dicom.headers import NO_PREAMBLE, Scan, scan
from climb_model.intake.dicom.stacks import all_stacks, find_stacks, read_voxels


def reasons(found: Scan) -> dict[str, int]:
    return dict(Counter(one.reason for one in found.left_out))


def test_studies_and_series_are_found_whatever_the_names(mr_files: Any, tmp_path: Path) -> None:
    first, other = mr_files.stack(3), mr_files.stack(3, series=mr_files.series + "7", SeriesNumber=9)
    second = mr_files.stack(3, series="1.2.9", StudyInstanceUID="1.2.3", AccessionNumber="A2")
    mixed = [one for three in zip(first, other, second, strict=True) for one in three]
    mr_files.save(tmp_path / "in" / "deep" / "er", mixed[:5], "{}.dcm")
    mr_files.save(tmp_path / "in", mixed[5:], "DICOMDIR{}")
    found = scan(tmp_path / "in")
    assert found.left_out == ()
    assert [study.accession for study in found.studies] == ["A2", "A4711"]
    assert [len(study.series) for study in found.studies] == [1, 2]
    study = found.studies[1]
    assert (study.patient, study.date, study.age_days, study.vendor) == ("0815", "20200101", 18262, "SIEMENS")
    series = study.series[0]
    assert (series.number, series.description, series.modality) == (5, "t1_fl3d_tra_dyn", "MR")
    assert len(series.frames) == 3


def test_files_that_are_no_images_are_listed(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(3))
    (folder / "README.txt").write_text("no image")
    (folder / "empty").touch()
    (folder / "cut").write_bytes((folder / "IM0000").read_bytes()[:200])
    os.mkfifo(folder / "pipe")
    mr_files.save(folder, [mr_files.slice_of(0, SOPClassUID=MediaStorageDirectoryStorage)], "DICOMDIR")
    for keyword in ("SeriesInstanceUID", "StudyInstanceUID", "SOPInstanceUID"):
        data = mr_files.slice_of(0, SOPInstanceUID="1.2.77")
        mr_files.save(folder, [data], f"no_{keyword}")
        lacking = pydicom.dcmread(folder / f"no_{keyword}")
        delattr(lacking, keyword)
        lacking.save_as(folder / f"no_{keyword}")
    found = scan(folder)
    assert reasons(found) == {
        "not a DICOM file": 3,
        "damaged DICOM header": 1,
        "DICOM directory file": 1,
        "no SeriesInstanceUID": 1,
        "no StudyInstanceUID": 1,
        "no SOPInstanceUID": 1,
    }
    assert len(found.studies[0].series[0].frames) == 3


def test_other_kinds_of_series_are_listed_once_each(mr_files: Any, tmp_path: Path) -> None:
    others = {
        "name": {"SOPClassUID": CTImageStorage, "Modality": "MUELLER"},
        "CT": {"SOPClassUID": CTImageStorage, "Modality": "CT"},
        "screenshot": {"SOPClassUID": SecondaryCaptureImageStorage},
        "state": {"SOPClassUID": GrayscaleSoftcopyPresentationStateStorage, "Modality": "PR"},
        "colour": {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"},
    }
    mr_files.save(tmp_path / "in", mr_files.stack(2))
    for number, (name, tags) in enumerate(others.items()):
        mr_files.save(tmp_path / "in" / name, mr_files.stack(2, series=f"1.2.{number}", **tags))
    found = scan(tmp_path / "in")
    assert [len(study.series) for study in found.studies] == [1]
    assert {one.reason: (one.what, one.num_files) for one in found.left_out} == {
        "modality is CT, only MR is imported": ("series", 2),
        "modality is unknown, only MR is imported": ("series", 2),
        "modality is PR, only MR is imported": ("series", 2),
        "SOP class is not MR Image Storage (a derived object, a screenshot or no image)": ("series", 2),
        "colour images, wanted one sample per pixel": ("series", 2),
    }


def test_links_out_of_the_folder_and_loops_are_not_followed(mr_files: Any, tmp_path: Path) -> None:
    outside = mr_files.save(tmp_path / "outside", mr_files.stack(2, series="1.2.3"))
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    (folder / "file").symlink_to(outside / "IM0000")
    (folder / "folder").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling").symlink_to(folder / "nothing")
    found = scan(folder)
    assert reasons(found) == {
        "a symbolic link out of the folder": 2,
        "a symbolic link to a folder": 1,
        "not a DICOM file": 1,
    }
    assert [len(series.frames) for series in found.studies[0].series] == [2]


def test_of_equal_files_of_one_instance_the_first_path_counts(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    shutil.copy(folder / "IM0000", folder / "Z")
    found = scan(folder)
    assert [(one.path, one.reason) for one in found.left_out] == [(folder / "Z", "copy of another file")]
    assert names(found) == {"IM0000", "IM0001"}


def names(found: Scan) -> set[str]:
    return {frame.path.name for frame in found.studies[0].series[0].frames}


@pytest.mark.parametrize("syntax", ["", "JPEGLSLossless", "RLELossless"])
@pytest.mark.parametrize("cut", [1, 60, 400])
def test_a_whole_file_counts_before_a_truncated_one(
    mr_files: Any, tmp_path: Path, syntax: str, cut: int
) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    if syntax:
        mr_files.compress(folder, syntax)
    content = (folder / "IM0001").read_bytes()
    (folder / "A").write_bytes(content[:-cut])
    (folder / "Z").write_bytes(content)
    found = scan(folder)
    first = (folder / "A", "damaged DICOM header" if found.left_out[0].reason[0] == "d" else CUT_COPY)
    assert [(one.path, one.reason) for one in found.left_out] == [first, (folder / "Z", COPY)]
    assert names(found) == {"IM0000", "IM0001"}


def test_whole_files_of_one_instance_that_differ_are_all_left_out(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    other = mr_files.slice_of(1, PixelData=mr_files.pixels(9).tobytes())
    mr_files.save(folder, [other], "ZZ")
    (folder / "A").write_bytes((folder / "ZZ").read_bytes()[:-50])
    found = scan(folder)
    reason = "2 files of one SOPInstanceUID with different content"
    assert [(one.path.name, one.reason) for one in found.left_out if one.path] == [
        ("A", CUT_COPY),
        ("IM0001", reason),
        ("ZZ", reason),
    ]
    assert names(found) == {"IM0000"}


def test_a_copy_that_vanishes_between_reading_and_comparing_is_listed(
    mr_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    shutil.copy(folder / "IM0000", folder / "A")

    def later(read: Any) -> Any:
        (folder / "A").unlink()
        return without_copies(read)

    monkeypatch.setattr(headers, "without_copies", later)
    found = scan(folder)
    assert [(one.path, one.reason) for one in found.left_out] == [(folder / "A", UNREADABLE)]
    assert names(found) == {"IM0000", "IM0001"}


def test_what_cannot_be_read_is_listed(
    mr_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions do not stop the superuser: the calls are refused instead."""
    folder = mr_files.save(tmp_path / "in", mr_files.stack(3))
    mr_files.save(folder / "closed", mr_files.stack(2, series="1.2.3"))
    (folder / "round").symlink_to(folder / "round")
    whole_scandir, whole_open = os.scandir, Path.open

    def scandir(path: Any) -> Any:
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "denied", str(path))
        return whole_scandir(path)

    def open_file(self: Path, *args: Any) -> Any:
        if self.name == "IM0001":
            raise PermissionError(errno.EACCES, "denied", str(self))
        if self.name == "IM0002":
            raise FileNotFoundError(errno.ENOENT, "gone", str(self))
        return whole_open(self, *args)

    monkeypatch.setattr(os, "scandir", scandir)
    monkeypatch.setattr(Path, "open", open_file)
    found = scan(folder)
    assert reasons(found) == {UNREADABLE: 3, "a folder that cannot be read": 1}
    assert names(found) == {"IM0000"}


def test_a_study_knows_its_series_that_have_files_in_others(mr_files: Any, tmp_path: Path) -> None:
    whole, torn = mr_files.stack(3), mr_files.stack(3, series=f"{mr_files.series}.9")
    torn[1].StudyInstanceUID = "1.2.4"
    [study] = scan(mr_files.save(tmp_path, [*whole, *torn])).studies
    assert [series.uid for series in study.series] == [mr_files.series]
    assert [series.uid for series in study.torn] == [f"{mr_files.series}.9"]


def test_contradicting_series_and_studies_are_refused(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.stack(3)
    slices[1].StudyInstanceUID = "1.2.4"
    assert reasons(scan(mr_files.save(tmp_path / "a", slices))) == {"files of one series in 2 studies": 1}
    slices = [*mr_files.stack(2), *mr_files.stack(2, series="1.2.3", PatientID="0816")]
    found = scan(mr_files.save(tmp_path / "b", slices))
    assert found.studies == ()
    assert reasons(found) == {"files of one study with 2 different values of PatientID": 2}
    slices = [*mr_files.stack(2), *mr_files.stack(2, series="1.2.3", AccessionNumber="")]
    (study,) = scan(mr_files.save(tmp_path / "c", slices)).studies
    assert study.accession == "A4711"  # an empty number contradicts none


def test_names_of_all_persons_are_found_in_parts(mr_files: Any, tmp_path: Path) -> None:
    persons = {
        "PatientName": "Müller-Lüdenscheidt^Anna Maria^^Dr.^",
        "ReferringPhysicianName": "Weiß^Otto",
        "OperatorsName": ["Kern^I", "Schmidt, Eva"],
    }
    data = mr_files.slice_of(0, SpecificCharacterSet="ISO_IR 100", **persons)
    (study,) = scan(mr_files.save(tmp_path, [data])).studies
    assert study.names == {"Müller-Lüdenscheidt", "Anna", "Maria", "Weiß", "Otto", "Kern", "Schmidt", "Eva"}
    for secret in ("Anna", "0815", "4711", "t1_fl3d"):
        assert secret not in repr(study)


@pytest.mark.parametrize(
    ("birth", "age", "days"), [("19700101", "", 18262), ("", "045Y", 16436), ("", "010W", 70), ("", "", None)]
)
def test_age_is_told_in_days(mr_files: Any, tmp_path: Path, birth: str, age: str, days: int | None) -> None:
    data = mr_files.slice_of(0, PatientBirthDate=birth, PatientAge=age)
    assert scan(mr_files.save(tmp_path, [data])).studies[0].age_days == days


@pytest.mark.parametrize(
    ("maker", "vendor"), [("GE MEDICAL SYSTEMS", "GE"), ("Philips", "PHILIPS"), ("Musterfrau", "other")]
)
def test_vendor_and_field_strength_are_codes(mr_files: Any, tmp_path: Path, maker: str, vendor: str) -> None:
    data = mr_files.slice_of(0, Manufacturer=maker, MagneticFieldStrength=15000)
    (study,) = scan(mr_files.save(tmp_path, [data])).studies
    assert (study.vendor, study.field_strength_t) == (vendor, 1.5)


def test_several_workers_find_the_same_in_the_same_order(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.dynamic(30, 3))
    (folder / "IM0044").write_bytes(b"no DICOM")
    seen: list[tuple[int, int]] = []
    plain = scan(folder, on_file=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 90) for done in range(1, 91)]
    assert scan(folder, workers=2) == plain
    assert len(plain.left_out) == 1


def test_a_lost_worker_is_told_in_one_line(
    mr_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mr_files.save(tmp_path / "in", mr_files.dynamic(33, 2))
    monkeypatch.setattr(processes, "_start_worker", partial(os._exit, 3))
    with pytest.raises(DataError, match=r"import: a worker process died, .* with fewer --workers$"):
        scan(tmp_path / "in", workers=2)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DICOM folder is missing"):
        scan(tmp_path / "nowhere")


# Files that others made


@pytest.mark.parametrize(
    "name", ["no_meta.dcm", "rtstruct.dcm", "ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm"]
)
def test_pydicoms_files_without_a_preamble_are_called_what_they_are(name: str, tmp_path: Path) -> None:
    shutil.copy(str(get_testdata_file(name)), tmp_path)
    found = scan(tmp_path)
    assert found.studies == ()
    assert reasons(found) == {NO_PREAMBLE: 1}


def test_what_only_begins_like_dicom_is_none(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(1))
    whole = (folder / "IM0000").read_bytes()
    (folder / "bare").write_bytes(whole[132:])
    (folder / "numbers").write_bytes(bytes([8, 0, 5, 0]) * 100)
    (folder / "text").write_text("the UID 1.2.840.10008.5.1.4.1.1.4 is that of MR images")
    assert reasons(scan(folder)) == {NO_PREAMBLE: 1, "not a DICOM file": 2}


def test_pydicoms_directory_trees_are_walked_not_followed(tmp_path: Path) -> None:
    examples = Path(str(get_testdata_file("MR_small.dcm"))).parent
    shutil.copytree(examples / "dicomdirtests", tmp_path / "in")
    found = scan(tmp_path / "in")
    files = [path for path in (tmp_path / "in").rglob("*") if path.is_file()]
    mr = [path for path in files if path.parent.name.startswith("MR")]
    kept = [frame.path for study in found.studies for series in study.series for frame in series.frames]
    assert sorted(kept) == sorted(mr)
    listed = sum(one.num_files for one in found.left_out)
    assert listed + len(kept) == len(files)
    assert reasons(found).keys() <= {"DICOM directory file", "modality is CT, only MR is imported", *OTHERS}
    volumes = [find_stacks(series) for study in found.studies for series in study.series]
    told = Counter(one.reason for _, left_out in volumes for one in left_out)
    assert told["slices of three or more orientations: a localizer"] == 2  # MR2 of two studies
    assert (
        told["derived by the scanner or a workstation (subtraction, projection, reformatted)"] == 1
    )  # MR700


OTHERS = {"modality is CR, only MR is imported", "copy of another file", "not a DICOM file"}


def test_the_real_series_is_one_volume(assets: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(assets / "data" / "t1_dicom_series_64of384.zip") as archive:
        archive.extractall(tmp_path)
    found = scan(tmp_path)
    series = found.studies[0].series[0]
    stacks, (left_out,) = find_stacks(series)
    assert stacks == ()
    assert left_out.reason.startswith("derived by the scanner")  # as its ImageType says
    (stack,), others = all_stacks(series)
    assert others == ()
    assert (stack.phase, stack.num_phases, stack.notices) == (1, 1, ())
    assert read_voxels(stack).shape == (274, 384, 64)
