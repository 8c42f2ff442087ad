"""What the import of one DICOM series reads, writes, and refuses."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
)

from climb_model.data.exam import DataError
from climb_model.intake.dicom.one_series import ImportReport, import_series
from climb_model.intake.forgotten import SITE_LOCK
from climb_model.intake.pseudonym import pseudonym
from climb_model.lock import LockedError, only_process

ROWS, COLUMNS, SLICES = 6, 5, 4
ROW_MM, COLUMN_MM, SLICE_MM = 0.9, 0.7, 2.5
"""Distance between rows, between columns, between slices."""
CORNER = np.array([-31.0, 42.0, 7.5])
SERIES = "1.2.826.0.1.3680043.8.498.1"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
SECRET = "Musterfrau"
Change = Callable[[Dataset], None]


def axes() -> np.ndarray:
    """Directions of a row, of a column and of the stack (columns), oblique to all patient axes."""
    a, b = 0.3, -0.2
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return about_z @ about_x


def pixels(number: int) -> np.ndarray:
    return (np.arange(ROWS * COLUMNS).reshape(ROWS, COLUMNS) - 7 + 100 * number).astype(np.int16)


def slice_of(number: int, series: str = SERIES) -> Dataset:
    """One classic MR slice. Its instance number runs against its position."""
    tags = Dataset()
    tags.file_meta = FileMetaDataset()
    tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    tags.file_meta.MediaStorageSOPClassUID = MRImageStorage
    tags.file_meta.MediaStorageSOPInstanceUID = tags.SOPInstanceUID = f"{series}.{number + 1}"
    tags.SOPClassUID = MRImageStorage
    tags.Modality = "MR"
    tags.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.9"
    tags.SeriesInstanceUID = series
    tags.SeriesDescription = "t1_fl3d_tra"
    tags.PatientID = "0815"
    tags.AccessionNumber = "A4711"
    tags.InstanceNumber = SLICES - number
    tags.Rows, tags.Columns = ROWS, COLUMNS
    tags.PixelSpacing = [ROW_MM, COLUMN_MM]
    right, down, up = axes().T
    tags.ImageOrientationPatient = [f"{value:.12f}" for value in (*right, *down)]
    tags.ImagePositionPatient = [f"{value:.12f}" for value in CORNER + number * SLICE_MM * up]
    tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
    tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, 1
    tags.PixelData = pixels(number).tobytes()
    return tags


def save(folder: Path, *slices: Dataset, names: str = "slice_{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, tags in enumerate(slices):
        tags.save_as(folder / names.format(number), enforce_file_format=True)
    return folder


def stack(series: str = SERIES) -> list[Dataset]:
    return [slice_of(number, series) for number in range(SLICES)]


def load(dicom: Path, site: Path, series: str | None = None, exam_id: str | None = None) -> ImportReport:
    return import_series(dicom, site, sequence="Pre", series=series, exam_id=exam_id)


def refusal(dicom: Path, site: Path, series: str | None = None) -> DataError:
    """The error of an import that must be refused: one line, nothing written, no secret in public."""
    with pytest.raises(DataError) as caught:
        load(dicom, site, series)
    error = caught.value
    assert "\n" not in str(error)
    assert not site.exists()
    for secret in (SECRET, "0815", "4711", "t1_fl3d", str(dicom), SERIES):
        assert secret not in error.public
    return error


def known_affine() -> np.ndarray:
    """RAS affine of `stack()`, by hand."""
    affine = np.eye(4)
    affine[:3, :3] = axes() * [COLUMN_MM, ROW_MM, SLICE_MM]
    affine[:3, 3] = CORNER
    return LPS_TO_RAS @ affine


# What is written


def test_an_oblique_series_gets_its_true_affine_and_voxels(tmp_path: Path) -> None:
    report = load(save(tmp_path / "in", *stack()), tmp_path / "site")
    image = nib.load(report.path)
    np.testing.assert_allclose(image.affine, known_affine(), atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), known_affine(), atol=1e-5)
    assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
    assert image.get_data_dtype() == np.int16
    voxels = np.asarray(image.dataobj)
    assert voxels.shape == (COLUMNS, ROWS, SLICES)
    for number in range(SLICES):
        np.testing.assert_array_equal(voxels[:, :, number].T, pixels(number))
    assert (report.num_files, report.size) == (SLICES, (SLICES, ROWS, COLUMNS))
    np.testing.assert_allclose(report.spacing_mm, (SLICE_MM, ROW_MM, COLUMN_MM), atol=1e-9)
    assert report.spacing_from == "positions"
    assert report.path == tmp_path / "site" / "data" / report.exam_id / "Pre.nii.gz"


def test_file_names_folders_and_instance_numbers_make_no_difference(tmp_path: Path) -> None:
    plain = load(save(tmp_path / "in", *stack()), tmp_path / "a", exam_id="x")
    shuffled = stack()
    for place, number in enumerate((2, 0, 3, 1)):
        shuffled[number].InstanceNumber = 7
        save(tmp_path / "mixed" / str(place), shuffled[number], names="IM{}.dcm")
    again = load(tmp_path / "mixed", tmp_path / "b", exam_id="x")
    assert again.path.read_bytes() == plain.path.read_bytes()


def test_small_differences_between_files_do_not_depend_on_their_order(tmp_path: Path) -> None:
    slices = stack()
    for number, tags in enumerate(slices):
        tags.ImageOrientationPatient = [value + 1e-5 * number for value in tags.ImageOrientationPatient]
    plain = load(save(tmp_path / "in", *slices), tmp_path / "a", exam_id="x")
    again = load(save(tmp_path / "back", *slices[::-1]), tmp_path / "b", exam_id="x")
    assert again.path.read_bytes() == plain.path.read_bytes()


def test_rescale_slope_and_intercept_are_applied_file_by_file(tmp_path: Path) -> None:
    slices = stack()
    for number, tags in enumerate(slices):
        tags.RescaleSlope, tags.RescaleIntercept = 0.5 + number, -3
    image = nib.load(load(save(tmp_path / "in", *slices), tmp_path / "site").path)
    assert image.get_data_dtype() == np.float32
    for number in range(SLICES):
        expected = pixels(number) * (0.5 + number) - 3
        np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, number].T, expected)


def test_a_single_slice_takes_its_thickness_from_a_named_tag(tmp_path: Path) -> None:
    one = slice_of(0)
    one.SliceThickness = 3
    report = load(save(tmp_path / "in", one), tmp_path / "a")
    assert (report.spacing_mm[0], report.spacing_from) == (pytest.approx(3.0), "SliceThickness")
    one.SpacingBetweenSlices = 3.3
    report = load(save(tmp_path / "in", one), tmp_path / "b")
    assert (report.spacing_mm[0], report.spacing_from) == (pytest.approx(3.3), "SpacingBetweenSlices")


def test_a_broken_import_leaves_an_earlier_volume_as_it_was(tmp_path: Path) -> None:
    first = load(save(tmp_path / "in", *stack()), tmp_path / "site", exam_id="x")
    content = first.path.read_bytes()
    assert load(tmp_path / "in", tmp_path / "site", exam_id="x") == first
    other = stack()
    other[0].PixelData = pixels(9).tobytes()
    with pytest.raises(DataError, match="already has another volume"):
        load(save(tmp_path / "in", *other), tmp_path / "site", exam_id="x")
    assert [path.name for path in first.path.parent.iterdir()] == ["Pre.nii.gz"]
    assert first.path.read_bytes() == content


# Names


def test_the_exams_name_is_keyed_and_of_one_study(tmp_path: Path) -> None:
    dicom = save(tmp_path / "in", *stack())
    first = load(dicom, tmp_path / "a")
    key_file = tmp_path / "a" / "private" / "pseudonym.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert first.exam_id == pseudonym(bytes.fromhex(key_file.read_text()), "accession", "A4711")
    again = import_series(dicom, tmp_path / "a", sequence="T2", series=None, exam_id=None)
    assert again.exam_id == first.exam_id
    assert load(dicom, tmp_path / "b").exam_id != first.exam_id  # another site, another key
    other = stack()
    for tags in other:
        tags.AccessionNumber = "A4712"
    assert load(save(tmp_path / "other", *other), tmp_path / "a").exam_id != first.exam_id


def test_without_an_accession_number_two_studies_of_a_patient_have_two_names(tmp_path: Path) -> None:
    names = set()
    for study in ("1.2.3", "1.2.4"):
        slices = stack()
        for tags in slices:
            tags.AccessionNumber, tags.StudyInstanceUID = "", study
        names.add(load(save(tmp_path / study, *slices), tmp_path / "site").exam_id)
    assert len(names) == 2


def test_without_any_number_an_exam_id_is_asked_for(tmp_path: Path) -> None:
    slices = stack()
    for tags in slices:
        tags.AccessionNumber = tags.PatientID = ""
    dicom = save(tmp_path / "in", *slices)
    assert "give an exam id" in refusal(dicom, tmp_path / "site").public
    assert load(dicom, tmp_path / "site", exam_id="E-1").exam_id == "E-1"
    assert not (tmp_path / "site" / "private" / "pseudonym.key").exists()


@pytest.mark.parametrize("name", ["", "../Pre", "a/b", "a b", ".hidden", "x" * 65, "Prä"])
def test_a_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    dicom = save(tmp_path / "in", *stack())
    with pytest.raises(DataError, match="sequence must be"):
        import_series(dicom, tmp_path / "site", sequence=name, series=None, exam_id="x")
    with pytest.raises(DataError, match="exam id must be"):
        import_series(dicom, tmp_path / "site", sequence="Pre", series=None, exam_id=name)
    assert not (tmp_path / "site").exists()


def test_nothing_is_written_beyond_the_sites_folder(tmp_path: Path) -> None:
    dicom = save(tmp_path / "in", *stack())
    site, away = tmp_path / "site", tmp_path / "away"
    site.mkdir()
    away.mkdir()
    (site / "data").symlink_to(away)
    with pytest.raises(DataError, match="is a symbolic link"):
        load(dicom, site)
    with pytest.raises(DataError, match="one inside the other"):
        load(dicom, dicom / "site")
    assert list(away.iterdir()) == []
    assert not (dicom / "site").exists()


def test_one_import_at_a_time(tmp_path: Path) -> None:
    dicom = save(tmp_path / "in", *stack())
    with only_process(tmp_path / "site" / SITE_LOCK, what="imports"), pytest.raises(LockedError):
        load(dicom, tmp_path / "site")
    assert load(dicom, tmp_path / "site").path.is_file()


# What is skipped and chosen


def test_files_that_are_no_dicom_are_skipped_and_listed(tmp_path: Path) -> None:
    dicom = save(tmp_path / "in", *stack())
    (dicom / "README.txt").write_text("no image")
    (dicom / "empty").write_bytes(b"")
    (dicom / "cut").write_bytes((dicom / "slice_0").read_bytes()[:140])
    directory = slice_of(0)
    directory.SOPClassUID = MediaStorageDirectoryStorage
    save(dicom, directory, names="DICOMDIR")
    nameless = slice_of(0)
    del nameless.SeriesInstanceUID
    save(dicom, nameless, names="nameless")
    report = load(dicom, tmp_path / "site")
    assert report.num_files == SLICES
    assert {path.name for path, _ in report.skipped} == {"README.txt", "empty", "cut", "DICOMDIR", "nameless"}
    assert report.skipped_counts["not a DICOM file"] == 2
    assert report.skipped_counts["DICOM directory file"] == 1
    assert sum(report.skipped_counts.values()) == 5
    assert "4 files, slices x rows x columns 4x6x5, 2.500 x 0.900 x 0.700 mm" in str(report)
    assert "2 x not a DICOM file" in str(report)


def test_a_folder_without_dicom_files_or_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    assert "no DICOM series found: no files" in str(refusal(tmp_path / "in", tmp_path / "site"))
    (tmp_path / "in" / "a.txt").write_text("text")
    error = refusal(tmp_path / "in", tmp_path / "site")
    assert "no DICOM series found: 1 x not a DICOM file" in error.public
    assert "the folder to import is missing" in refusal(tmp_path / "nowhere", tmp_path / "site").public


def test_one_of_several_series_must_be_named(tmp_path: Path) -> None:
    other = stack(SERIES + "2")
    for tags in other:
        tags.SeriesDescription = "t2_tse"
        tags.PixelData = pixels(50).tobytes()
    dicom = save(tmp_path / "in", *stack())
    save(dicom, *other, names="other_{}")
    error = refusal(dicom, tmp_path / "site")
    assert "2 series to choose from" in error.public
    assert "'t1_fl3d_tra'" in str(error)
    assert "'t2_tse' 1.2.826.0.1.3680043.8.498.12 (MR, 4 images)" in str(error)
    assert "none of 2 series" in refusal(dicom, tmp_path / "site", "dwi").public
    for wanted in ("T2_TSE", SERIES + "2"):
        report = load(dicom, tmp_path / "site", wanted, exam_id="x")
        assert report.skipped_counts == {"another series": SLICES}
        assert np.asarray(nib.load(report.path).dataobj).min() == pixels(50).min()
    for number, tags in enumerate(other):
        tags.SeriesDescription = "t1_fl3d_tra"
        save(dicom, tags, names=f"other_{number}")
    assert "2 series of that description" in refusal(dicom, tmp_path / "new", "t1_fl3d_tra").public
    assert load(dicom, tmp_path / "new", SERIES).num_files == SLICES


def test_another_modality_beside_the_only_mr_series_does_not_disturb(tmp_path: Path) -> None:
    dicom = save(tmp_path / "in", *stack())
    scan = slice_of(0, SERIES + "2")
    scan.Modality = "CT"
    save(dicom, scan, names="scan")
    assert load(dicom, tmp_path / "site", exam_id="x").skipped_counts == {"another series": 1}
    assert "modality is CT, only MR" in refusal(dicom, tmp_path / "new", SERIES + "2").public


# What is refused


def set_on(number: int, **values: object) -> Callable[[list[Dataset]], None]:
    def change(slices: list[Dataset]) -> None:
        for name, value in values.items():
            setattr(slices[number], name, value)

    return change


def on_all(**values: object) -> Callable[[list[Dataset]], None]:
    def change(slices: list[Dataset]) -> None:
        for number in range(len(slices)):
            set_on(number, **values)(slices)

    return change


def remove(tag: str) -> Callable[[list[Dataset]], None]:
    return lambda slices: delattr(slices[1], tag)


def moved(number: int, along: float, sideways: float = 0.0) -> Callable[[list[Dataset]], None]:
    right, _, up = axes().T
    place = CORNER + (number * SLICE_MM + along) * up + sideways * right
    return set_on(number, ImagePositionPatient=[f"{value:.9f}" for value in place])


def twin(number: int, grey: int) -> Dataset:
    """Another instance at the place and time of a slice."""
    tags = slice_of(number)
    tags.file_meta.MediaStorageSOPInstanceUID = tags.SOPInstanceUID = f"{SERIES}.{number + 1}.9"
    tags.PixelData = pixels(grey).tobytes()
    return tags


def misnamed(slices: list[Dataset]) -> None:
    for tags in slices:
        tags.add(DataElement("Modality", "CS", SECRET, validation_mode=IGNORE))


def lossless(slices: list[Dataset]) -> None:
    for tags in slices:
        tags.file_meta.TransferSyntaxUID = JPEGLSLossless
        tags.PixelData = pydicom.encaps.encapsulate([b"\xff\xd8\xff\xd9"])
        tags["PixelData"].VR = "OB"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda slices: slices.append(twin(2, 20)), "slices at one position and one time with other pixels"),
        (lambda slices: slices.pop(1), "missing slices: 1 in between the others (usually 2.500 mm apart)"),
        (moved(3, 0.03 * SLICE_MM), "uneven slices: 2.575 mm between slices 3 and 4, usually 2.500 mm"),
        (moved(2, 0, 0.5), "not stacked along their normal"),
        (set_on(1, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), "one slice of another orientation"),
        (set_on(1, Rows=5), "one slice of another orientation, size"),
        (set_on(1, Columns=6), "one slice of another orientation, size"),
        (set_on(1, PixelSpacing=[0.9, 0.8]), "one slice of another orientation, size"),
        (
            on_all(PixelSpacing=[0.9, 0]),
            "PixelSpacing or the slices' thickness is not within 0.01 and 200.0 mm",
        ),
        (on_all(ImagePositionPatient=[1e9, 0, 0]), "ImagePositionPatient is more than 10000 mm away"),
        (on_all(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "two unit vectors at a right angle"),
        (set_on(1, ImagePositionPatient=[1, 2]), "ImagePositionPatient is missing or holds no numbers"),
        (remove("ImagePositionPatient"), "ImagePositionPatient is missing"),
        (remove("ImageOrientationPatient"), "ImageOrientationPatient is missing"),
        (remove("PixelSpacing"), "PixelSpacing is missing"),
        (set_on(1, PixelSpacing=None), "PixelSpacing is missing"),
        (remove("Rows"), "Rows is missing"),
        (remove("PixelData"), "truncated, damaged or missing pixel data"),
        (set_on(1, PixelData=pixels(1).tobytes()[:-4]), "truncated, damaged or missing pixel data"),
        (on_all(Modality="CT"), "modality is CT, only MR is imported"),
        (misnamed, "modality is unknown, only MR is imported"),
        (on_all(SOPClassUID=SecondaryCaptureImageStorage), "not MR Image Storage"),
        (on_all(SOPClassUID=EnhancedMRImageStorage), "enhanced MR without the functional groups"),
        (on_all(NumberOfFrames=3), "several frames in a file of classic MR"),
        (on_all(SamplesPerPixel=3, PhotometricInterpretation="RGB"), "colour images"),
        (on_all(PhotometricInterpretation="MONOCHROME1"), "is not MONOCHROME2"),
        (lossless, "truncated, damaged or missing pixel data"),
        (set_on(1, RescaleSlope=0), "RescaleSlope is 0"),
        (set_on(1, RescaleSlope="1e300"), "beyond the range of float32"),
        (set_on(1, PatientID="0816"), "files of one study with 2 different values of PatientID"),
        (set_on(1, StudyInstanceUID="1.2.3"), "files of one series in 2 studies"),
        (lambda slices: slices.__delitem__(slice(1, None)), "a single slice without SpacingBetweenSlices"),
    ],
)
def test_a_faulty_series_is_refused(
    tmp_path: Path, change: Callable[[list[Dataset]], None], reason: str
) -> None:
    slices = stack()
    change(slices)
    assert reason in refusal(save(tmp_path / "in", *slices), tmp_path / "site").public


def test_no_tag_is_quoted_in_a_warning_or_log_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    slices = stack()
    misnamed(slices)
    refusal(save(tmp_path / "in", *slices), tmp_path / "site")
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


def test_copies_of_slices_are_left_out_and_told(tmp_path: Path) -> None:
    plain = load(save(tmp_path / "in", *stack()), tmp_path / "a", exam_id="x")
    folder = save(tmp_path / "twice", *stack(), *stack(), twin(1, 1))
    again = load(folder, tmp_path / "b", exam_id="x")
    assert again.path.read_bytes() == plain.path.read_bytes()
    assert again.skipped_counts == {"copy of another file": SLICES}
    assert again.notices == ("copies of slices dropped: 1",)
    assert "note: copies of slices" in str(again)


def test_positions_rounded_within_one_percent_are_accepted(tmp_path: Path) -> None:
    slices = stack()
    moved(3, 0.009 * SLICE_MM)(slices)
    assert load(save(tmp_path / "in", *slices), tmp_path / "site").num_files == SLICES
