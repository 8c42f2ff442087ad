"""A patient's name in every tag that can hold text is in nothing that an import writes or says."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom._dicom_dict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID as PydicomUID
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from climb_model.data.exam import DataError
from climb_model.intake.dicom.headers import scan
from climb_model.intake.dicom.stacks import find_stacks
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.pseudonym import exam_id, patient_id, site_key
from climb_model.intake.sequences.native import read_provenance, write_native
from climb_model.intake.sequences.recognise import name_stacks
from climb_model.intake.study import LeftOut, SeriesError, Stack

NAME, ACCESSION, PATIENT = "Musterfrau", "A4711-88", "0081544"
BORN, STUDY_DATE, CLOCK = "19631124", "20240229", "113344"
UID = "1.2.826.0.1.3680043.8.498.77"
SECRETS = (NAME, NAME.upper(), ACCESSION, PATIENT, BORN, STUDY_DATE, CLOCK, UID)

PLANTED = {
    **dict.fromkeys(("PN", "LO", "SH", "ST", "LT", "UT", "UC", "UR"), NAME),
    **dict.fromkeys(("AE", "CS"), NAME.upper()),
    **{"DA": BORN, "TM": CLOCK, "DT": BORN + CLOCK, "AS": "060Y", "UI": f"{UID}.9"},
}
"""What stands in every tag of a kind (VR)."""
NO_DATA = (0x0000, 0x0002, 0x0004, 0xFFFE)
"""Groups that a file's data set cannot hold: commands, file meta, directory records, delimiters."""


def planted() -> Dataset:
    """Every tag that pydicom knows of a kind that holds text or a date; private and nested ones too."""
    tags = Dataset()
    for tag, (kind, *_) in DicomDictionary.items():
        if kind in PLANTED and tag >> 16 not in NO_DATA:
            tags.add_new(tag, kind, PLANTED[kind])
    for tag in (0x60000022, 0x60001500, 0x50000022, 0x50002600):  # overlays and curves repeat their group
        tags.add_new(tag, "LO", NAME)
    request = Dataset()
    request.RequestingPhysician = request.RequestedProcedureDescription = NAME
    tags.RequestAttributesSequence = [request]
    block = tags.private_block(0x0029, "SITE EXPORT", create=True)
    for place, kind in enumerate(("LO", "PN", "LT", "UT"), start=1):
        block.add_new(place, kind, NAME)
    block.add_new(0x20, "UN", NAME.encode())
    return tags


TAGS = planted()


def image(series: int, phase: int, number: int) -> Dataset:
    """One slice with all planted tags, and real values only where an image needs them."""
    tags = Dataset()
    tags.update(TAGS)
    tags.file_meta = FileMetaDataset()
    tags.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    tags.file_meta.MediaStorageSOPClassUID = tags.SOPClassUID = MRImageStorage
    instance = PydicomUID(f"{UID}.{series}.{phase}.{number}")
    tags.file_meta.MediaStorageSOPInstanceUID = tags.SOPInstanceUID = instance
    tags.StudyInstanceUID, tags.SeriesInstanceUID = UID, f"{UID}.{series}"
    tags.SpecificCharacterSet, tags.Modality, tags.ImageType = (
        "ISO_IR 192",
        "MR",
        ["ORIGINAL", "PRIMARY", "M"],
    )
    tags.PhotometricInterpretation, tags.Laterality, tags.ImageLaterality = "MONOCHROME2", "", ""
    tags.AccessionNumber, tags.PatientID, tags.StudyDate = ACCESSION, PATIENT, STUDY_DATE
    tags.SeriesDescription = f"{('t1_fl3d_dyn', 't2_tse', 'dyn_sub')[series % 3]} {NAME}"
    tags.AcquisitionDateTime, tags.AcquisitionTime = "", f"{int(CLOCK) + phase}"
    tags.Rows, tags.Columns, tags.PixelSpacing = 6, 5, [1, 1]
    tags.ImageOrientationPatient, tags.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [0, 0, 2 * number]
    tags.SamplesPerPixel, tags.PixelRepresentation = 1, 0
    tags.BitsAllocated, tags.BitsStored, tags.HighBit = 16, 16, 15
    tags.PixelData = np.full((6, 5), 100 * series + 10 * phase + number, np.uint16).tobytes()
    return tags


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / NAME
    folder.mkdir()
    for series, num_phases in enumerate((3, 1, 2)):
        for phase in range(num_phases):
            for number in range(4):
                path = folder / f"{NAME}.{series}.{phase}.{number}"
                image(series, phase, number).save_as(path, enforce_file_format=True)
    other = image(9, 0, 0)
    other.Modality = NAME.upper()
    other.save_as(folder / f"{NAME}.other", enforce_file_format=True)
    (folder / f"{ACCESSION}.txt").write_text(NAME)
    return folder


def volumes(folder: Path) -> tuple[list[Stack], list[LeftOut]]:
    stacks: list[Stack] = []
    left_out: list[LeftOut] = []
    for series in scan(folder).studies[0].series:
        found, others = find_stacks(series)
        stacks += found
        left_out += others
    return stacks, left_out


def bytes_below(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        yield str(path.relative_to(folder)).encode()
        if path.is_file():
            content = path.read_bytes()
            yield content
            if path.suffix == ".gz":
                yield gzip.decompress(content)


def leaked(*texts: bytes | str) -> list[str]:
    packed = [text.encode() if isinstance(text, str) else text for text in texts]
    return [secret for secret in SECRETS for text in packed if secret.encode() in text]


def test_many_tags_are_planted() -> None:
    kinds = [element.VR for element in TAGS]
    assert len(kinds) > 1000
    assert set(PLANTED) <= set(kinds)
    assert TAGS.PatientName == TAGS.ImageComments == TAGS.StudyDescription == NAME


def test_nothing_planted_is_written_logged_or_shown(
    export: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    site = tmp_path / "site"
    found = scan(export)
    (study,) = found.studies
    assert NAME in study.names  # they are there to be redacted from the report
    key = site_key(site)
    stacks, without = volumes(export)
    named = name_stacks(study, stacks, SeriesMapping())
    assert set(named.sequences) == {"Pre", "Post_1", "Post_2", "T2"}
    folder = site / "data" / exam_id(study, key)
    folder.mkdir(parents=True)
    provenance = write_native(study, named, folder, key=key)
    assert read_provenance(folder) == provenance
    assert len(list(folder.iterdir())) == 5
    assert leaked(*bytes_below(site)) == []
    reasons = [out.reason for out in (*found.left_out, *without, *named.left_out)]
    assert "a subtraction" in reasons
    assert "not a DICOM file" in reasons
    assert "modality is unknown, only MR is imported" in reasons
    assert leaked(*reasons, repr(named.how), patient_id(study.patient, key)) == []
    assert leaked(*(record.getMessage() for record in caplog.records), *capfd.readouterr()) == []
    assert leaked(*map(repr, (study, *found.left_out, *stacks, named))) == []


def test_no_refusal_says_what_is_planted(export: Path, tmp_path: Path) -> None:
    (study,) = scan(export).studies
    stacks, _ = volumes(export)
    refusals: list[str] = []
    for some, mapping in (
        ([], SeriesMapping()),
        ([stack for stack in stacks if stack.num_phases == 1], SeriesMapping()),
        ([stack for stack in stacks if stack.phase != 1], SeriesMapping()),
        (stacks, SeriesMapping(dynamic=(f"{NAME}?",))),
        (stacks, SeriesMapping(Pre=("t1*",))),
        (stacks, SeriesMapping(pre_phases=4)),
    ):
        with pytest.raises(SeriesError) as caught:
            name_stacks(study, some, mapping)
        refusals.append(str(caught.value))
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "pseudonym.key").write_text(NAME)
    (tmp_path / "private" / "pseudonym.key").chmod(0o600)
    with pytest.raises(DataError) as damaged:
        site_key(tmp_path)
    refusals += [damaged.value.public, str(damaged.value)]
    assert leaked(*refusals) == []


def test_a_file_damaged_after_the_scan_is_refused_without_a_name(export: Path, tmp_path: Path) -> None:
    (study,) = scan(export).studies
    stacks, _ = volumes(export)
    named = name_stacks(study, stacks, SeriesMapping())
    path = named.sequences["Pre"].frames[0].path
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    try:
        with pytest.raises(SeriesError) as caught:
            write_native(study, named, tmp_path / "x", key=bytes(32))
    finally:
        path.write_bytes(content)
    assert str(caught.value).startswith("Pre: truncated, damaged or missing pixel data")
    assert leaked(str(caught.value)) == []
    assert read_provenance(tmp_path / "x") is None
