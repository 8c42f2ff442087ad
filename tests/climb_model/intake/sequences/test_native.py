"""What is written of an exam on its native grids, and what its provenance tells."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from climb_model.intake.dicom.headers import scan
from climb_model.intake.dicom.stacks import find_stacks
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.pseudonym import pseudonym
from climb_model.intake.sequences.native import nifti_bytes, read_provenance, source_digest, write_native
from climb_model.intake.sequences.recognise import RULES_VERSION, Named, name_stacks
from climb_model.intake.study import Study

KEY = bytes(range(32))
STUDY = "1.2.826.0.1.3680043.8.498.5"
ROWS, COLUMNS, SLICES = 6, 5, 4
MIDNIGHT_TIMES = ("235930.5", "000130.5", "000230.5")
KNOWN_AFFINE = [[-0.7, 0, 0, 10], [0, -0.9, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]]
"""RAS, of PixelSpacing 0.9 (rows) and 0.7 (columns) mm, slices 2.5 mm apart, corner (-10, 20, 30) LPS."""


def pixels(series: int, phase: int, number: int) -> np.ndarray:
    return (np.arange(ROWS * COLUMNS) + 1000 * series + 100 * phase + number).astype("<u2").reshape(ROWS, -1)


def write_series(
    folder: Path, series: int, description: str, times: tuple[str, ...], slope: float = 1
) -> None:
    for phase, time in enumerate(times):
        for number in range(SLICES):
            tags = Dataset()
            tags.file_meta = FileMetaDataset()
            tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            tags.file_meta.MediaStorageSOPClassUID = tags.SOPClassUID = MRImageStorage
            instance = UID(f"{STUDY}.{series}.{phase}.{number}")
            tags.file_meta.MediaStorageSOPInstanceUID = tags.SOPInstanceUID = instance
            tags.StudyInstanceUID, tags.SeriesInstanceUID = STUDY, f"{STUDY}.{series}"
            tags.Modality, tags.ImageType, tags.Manufacturer = "MR", ["ORIGINAL", "PRIMARY", "M"], "SIEMENS"
            tags.SeriesDescription, tags.AcquisitionTime, tags.Laterality = description, time, "L"
            tags.AccessionNumber, tags.PatientID, tags.PatientAge = "A1", "P1", "010D"
            tags.MagneticFieldStrength, tags.RescaleSlope, tags.RescaleIntercept = 3, slope, 0
            tags.Rows, tags.Columns, tags.PixelSpacing = ROWS, COLUMNS, [0.9, 0.7]
            tags.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            tags.ImagePositionPatient = [-10, 20, 30 + 2.5 * number]
            tags.SamplesPerPixel, tags.PhotometricInterpretation = 1, "MONOCHROME2"
            tags.BitsAllocated, tags.BitsStored, tags.HighBit, tags.PixelRepresentation = 16, 16, 15, 0
            tags.PixelData = pixels(series, phase, number).tobytes()
            tags.save_as(folder / f"{series}-{phase}-{number}", enforce_file_format=True)


@pytest.fixture(scope="module")
def exam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Named]:
    folder = tmp_path_factory.mktemp("export")
    write_series(folder, 1, "t1_fl3d_dyn", MIDNIGHT_TIMES)
    write_series(folder, 2, "t2_tse_tra", ("235500",), slope=0.5)
    (study,) = scan(folder).studies
    stacks = [stack for series in study.series for stack in find_stacks(series)[0]]
    return study, name_stacks(study, stacks, SeriesMapping())


def test_every_sequence_is_written_with_its_voxels_and_affine(
    exam: tuple[Study, Named], tmp_path: Path
) -> None:
    write_native(*exam, tmp_path, key=KEY)
    names = ("Post_1.nii.gz", "Post_2.nii.gz", "Pre.nii.gz", "T2.nii.gz", "provenance.json")
    assert tuple(sorted(path.name for path in tmp_path.iterdir())) == names
    for name, series, phase, slope in (("Pre", 1, 0, 1), ("Post_2", 1, 2, 1), ("T2", 2, 0, 0.5)):
        image = nib.Nifti1Image.from_filename(tmp_path / f"{name}.nii.gz")
        np.testing.assert_allclose(image.get_sform(), KNOWN_AFFINE, atol=1e-6)
        np.testing.assert_allclose(image.get_qform(), KNOWN_AFFINE, atol=1e-6)
        assert int(image.header["sform_code"]) == int(image.header["qform_code"]) == 1
        assert image.header.get_xyzt_units()[0] == "mm"
        for number in range(SLICES):
            expected = pixels(series, phase, number) * slope
            np.testing.assert_array_equal(np.asarray(image.dataobj)[:, :, number].T, expected)


def test_the_provenance_tells_where_each_file_came_from(exam: tuple[Study, Named], tmp_path: Path) -> None:
    provenance = write_native(*exam, tmp_path, key=KEY)
    assert read_provenance(tmp_path) == provenance
    files = provenance.pop("files")
    assert provenance == {
        "program": provenance["program"],
        "rules": RULES_VERSION,
        "source": source_digest(exam[0], KEY),
        "vendor": "SIEMENS",
        "field_strength_t": 3.0,
        "age_days": 10,
        "laterality": "L",
        "without": {},
    }
    assert files["Post_1"] == {
        "sha256": hashlib.sha256((tmp_path / "Post_1.nii.gz").read_bytes()).hexdigest(),
        "series": pseudonym(KEY, "series", f"{STUDY}.1"),
        "recognised": "phase 2 of 3: the dynamic series",
        "seconds_after_pre": 120.0,  # over midnight
        "time_from": "acquisition time",
        "dtype": "uint16",
        "num_frames": SLICES,
        "shape_slice_row_column": [SLICES, ROWS, COLUMNS],
        "spacing_slice_row_column_mm": [2.5, 0.9, 0.7],
        "slice_spacing_from": "positions",
        "affine_from": "ImagePositionPatient and ImageOrientationPatient",
        "transfer_syntaxes": ["Explicit VR Little Endian"],
        "lossy": False,
        "notices": [],
    }
    assert {name: file["seconds_after_pre"] for name, file in files.items()} == {
        "Pre": 0.0,
        "Post_1": 120.0,
        "Post_2": 180.0,
        "T2": -270.5,
    }
    assert files["T2"]["dtype"] == "float32"


def test_the_same_exam_gives_the_same_bytes(exam: tuple[Study, Named], tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_native(*exam, tmp_path / name, key=KEY)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_vendor_is_a_word_of_ours(exam: tuple[Study, Named], tmp_path: Path) -> None:
    study, named = exam
    provenance = write_native(replace(study, vendor="Musterfrau GmbH"), named, tmp_path, key=KEY)
    assert provenance["vendor"] == "other"


def test_the_source_is_the_same_in_any_order_and_another_with_an_image_more_or_less(
    exam: tuple[Study, Named],
) -> None:
    study = exam[0]
    first, *others = study.series
    turned = replace(study, series=(*others, replace(first, frames=first.frames[::-1])))
    less = replace(study, series=(*others, replace(first, frames=first.frames[1:])))
    assert source_digest(turned, KEY) == source_digest(study, KEY)
    assert source_digest(less, KEY) != source_digest(study, KEY)
    assert source_digest(study, bytes(32)) != source_digest(study, KEY)


@pytest.mark.parametrize("damaged", [None, b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_missing_or_damaged_provenance_is_none(tmp_path: Path, damaged: bytes | None) -> None:
    if damaged is not None:
        (tmp_path / "provenance.json").write_bytes(damaged)
    assert read_provenance(tmp_path) is None


def test_a_provenance_is_json_of_one_object(exam: tuple[Study, Named], tmp_path: Path) -> None:
    write_native(*exam, tmp_path, key=KEY)
    assert set(json.loads((tmp_path / "provenance.json").read_text())) >= {"files", "source"}


def test_nifti_bytes_tell_no_time_and_no_file_name() -> None:
    content = nifti_bytes(np.zeros((2, 3, 4), np.int16), np.eye(4))
    assert content[3:8] == bytes(5)  # no name, no time of writing (RFC 1952)
    assert len(gzip.decompress(content)) == 352 + 2 * 24
