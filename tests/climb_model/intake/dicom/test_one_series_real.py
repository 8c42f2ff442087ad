"""The import of files that others made: pydicom's examples and a real series."""

from __future__ import annotations

import gzip
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.data import get_testdata_file

from climb_model.data.exam import DataError
from climb_model.intake.dicom.one_series import ImportReport, import_series

SECRET = "Musterfrau"
DATE = "19631124"
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load(dicom: Path, site: Path, series: str | None = None, exam_id: str | None = None) -> ImportReport:
    return import_series(dicom, site, sequence="Pre", series=series, exam_id=exam_id)


@pytest.mark.parametrize(
    "variant", ["_RLE", "_bigendian", "_expb", "_implicit", "_padded", "_jp2klossless", "_jpeg_ls_lossless"]
)
def test_transfer_syntaxes_give_the_same_volume(tmp_path: Path, variant: str) -> None:
    written = []
    for name in ("MR_small", f"MR_small{variant}"):
        path = get_testdata_file(f"{name}.dcm")
        assert isinstance(path, str)
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(path, folder)
        written.append(load(folder, tmp_path / "site" / name, exam_id="x").path)
    expected = pydicom.dcmread(get_testdata_file("MR_small.dcm")).pixel_array
    np.testing.assert_array_equal(np.asarray(nib.load(written[0]).dataobj)[:, :, 0].T, expected)
    assert written[1].read_bytes() == written[0].read_bytes()


def test_pydicoms_truncated_file_is_refused(tmp_path: Path) -> None:
    path = get_testdata_file("MR_truncated.dcm")
    assert isinstance(path, str)
    (tmp_path / "in").mkdir()
    shutil.copy(path, tmp_path / "in")
    with pytest.raises(DataError) as caught:
        load(tmp_path / "in", tmp_path / "site")
    assert "truncated, damaged or missing pixel data" in caught.value.public
    assert not (tmp_path / "site").exists()


def text_like_tags() -> dict[int, tuple[str, str]]:
    """Every public tag of the header groups that can hold a name, free text or a date: its VR and a value."""
    values = dict.fromkeys(("PN", "LO", "SH", "LT", "ST", "UT", "UC"), SECRET)
    values |= {"DA": DATE, "DT": DATE + "101112"}
    groups = (0x0008, 0x0010, 0x0018, 0x0020, 0x0032, 0x0038, 0x0040, 0x4000)
    return {
        tag: (entry[0], values[entry[0]])
        for tag, entry in DicomDictionary.items()
        if entry[0] in values and tag >> 16 in groups
    }


def test_no_text_of_the_files_is_in_any_written_byte(tmp_path: Path) -> None:
    planted = text_like_tags()
    assert len(planted) > 300
    tags = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    series = str(tags.SeriesInstanceUID)
    for tag, (kind, value) in planted.items():
        tags.add_new(tag, kind, value)
    tags.add_new(0x00091001, "LO", SECRET)
    assert tags.PatientName == tags.PatientID == tags.AccessionNumber == tags.SeriesDescription == SECRET
    dicom = tmp_path / SECRET
    dicom.mkdir()
    tags.save_as(dicom / f"{SECRET}.dcm")
    report = load(dicom, tmp_path / "site")
    written = [path for path in (tmp_path / "site").rglob("*") if path.is_file()]
    assert len(written) == 3  # the volume, the key and the lock
    for path in written:
        content = path.read_bytes()
        content += gzip.decompress(content) if path.suffix == ".gz" else b""
        for secret in (SECRET, DATE, series):
            assert secret.encode() not in content
            assert secret not in str(path.relative_to(tmp_path / "site"))
    assert SECRET not in repr(replace(report, path=Path("x")))


# The real series


@pytest.fixture(scope="module")
def real_series(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    with zipfile.ZipFile(assets / "data" / "t1_dicom_series_64of384.zip") as archive:
        archive.extractall(folder)
    return folder


def test_the_real_series_is_what_its_tags_say(real_series: Path, tmp_path: Path) -> None:
    report = load(real_series, tmp_path / "site", "anat-T1w")
    files = [pydicom.dcmread(path) for path in sorted(real_series.rglob("*.dcm"))]
    assert (report.num_files, report.size) == (64, (64, 384, 274))
    assert report.skipped == ()
    image = nib.load(report.path)
    affine, voxels = image.affine, np.asarray(image.dataobj)
    assert image.get_data_dtype() == np.int16
    positions = np.array([tags.ImagePositionPatient for tags in files], np.float64)
    cosines = np.array(files[0].ImageOrientationPatient, np.float64)
    order = np.argsort(positions @ np.cross(cosines[:3], cosines[3:]))
    between_rows, between_columns = files[0].PixelSpacing
    lps = LPS_TO_RAS @ affine
    np.testing.assert_allclose(lps[:3, 0], cosines[:3] * between_columns, atol=1e-6)
    np.testing.assert_allclose(lps[:3, 1], cosines[3:] * between_rows, atol=1e-6)
    for number, place in enumerate(order):
        np.testing.assert_allclose(lps[:3, 2] * number + lps[:3, 3], positions[place], atol=1e-3)
        np.testing.assert_array_equal(voxels[:, :, number].T, files[place].pixel_array)
    steps = np.linalg.norm(np.diff(positions[order], axis=0), axis=1)
    np.testing.assert_allclose(
        image.header.get_zooms(), (between_columns, between_rows, steps.mean()), rtol=1e-5
    )
    np.testing.assert_allclose(report.spacing_mm, (steps.mean(), between_rows, between_columns), rtol=1e-6)
    content = gzip.decompress(report.path.read_bytes())
    assert not any(text in content for text in (b"Jane", b"Doe", b"19660101", b"Hanke", b"anat"))


def test_shuffled_names_of_the_real_series_give_the_same_bytes(real_series: Path, tmp_path: Path) -> None:
    (tmp_path / "shuffled").mkdir()
    paths = sorted(real_series.rglob("*.dcm"))
    for name, place in enumerate(np.random.default_rng(0).permutation(len(paths))):
        shutil.copy(paths[place], tmp_path / "shuffled" / f"{name:05d}")
    plain = load(real_series, tmp_path / "a", exam_id="x")
    again = load(tmp_path / "shuffled", tmp_path / "b", exam_id="x")
    assert again.path.read_bytes() == plain.path.read_bytes()
