"""From one DICOM file to its frames and to what it tells of its series and study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from climb_model.intake.study import Frame
from climb_model.intake.tags import number, numbers, seconds, text, texts, whole

MULTI_FRAME_MR = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)

_PERSONS = (
    "PatientName",
    "OtherPatientNames",
    "PatientBirthName",
    "PatientMotherBirthName",
    "ResponsiblePerson",
    "ReferringPhysicianName",
    "ConsultingPhysicianName",
    "RequestingPhysician",
    "PerformingPhysicianName",
    "NameOfPhysiciansReadingStudy",
    "PhysiciansOfRecord",
    "OperatorsName",
)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

HEADER_TAGS = (
    *_PERSONS,
    *_GROUPS,
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("AccessionNumber", "PatientID", "PatientBirthDate", "PatientAge", "StudyDate"),
    *("Manufacturer", "MagneticFieldStrength"),
    *("SeriesNumber", "SeriesDescription", "ProtocolName", "Laterality", "ImageLaterality"),
    *("ContrastBolusAgent", "ContrastBolusAgentSequence"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "PixelRepresentation", "LossyImageCompression"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"),
    *("SpacingBetweenSlices", "SliceThickness", "RescaleSlope", "RescaleIntercept"),
    *("TemporalPositionIdentifier", "AcquisitionNumber", "AcquisitionDateTime", "AcquisitionTime"),
    *("ContentTime", "TriggerTime", "EchoTime", "DiffusionBValue"),
)
"""All that is read of a header."""

_LOSSY = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81")
"""JPEG baseline and extended, JPEG-LS near-lossless: never without loss."""
_VENDORS = ("SIEMENS", "GE", "PHILIPS", "CANON", "TOSHIBA", "HITACHI")
_NO_AGENT = {"", "NONE", "NO", "N", "NOCONTRAST", "NO CONTRAST", "0"}
_DAYS = {"D": 1.0, "W": 7.0, "M": 365.25 / 12, "Y": 365.25}
_GAUSS_PER_TESLA = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyTags:
    """What one file tells of its study; fields as in `Study`."""

    uid: str = field(repr=False)
    accession: str = field(repr=False)
    patient: str = field(repr=False)
    date: str = field(repr=False)
    age_days: int | None
    names: frozenset[str] = field(repr=False)
    vendor: str
    field_strength_t: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesTags:
    """What one file tells of its series; fields as in `Series`."""

    uid: str = field(repr=False)
    number: int | None
    description: str = field(repr=False)
    protocol: str = field(repr=False)
    modality: str
    laterality: str
    contrast: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHeader:
    """All that is kept of one file."""

    study: StudyTags
    series: SeriesTags
    frames: tuple[Frame, ...] = field(repr=False)


def describe(path: Path, tags: Dataset) -> FileHeader:
    """Read the tags of one file.

    Raises:
        ValueError: (or another of `READ_FAULTS`) a tag that cannot be read as what it is.
    """
    groups = tags.get(_GROUPS[1])
    multi = text(tags, "SOPClassUID") in MULTI_FRAME_MR and groups is not None
    frames = _multi_frames(path, tags) if multi else (_frame(path, None, tags, tags),)
    return FileHeader(study=_study_tags(tags), series=_series_tags(tags), frames=tuple(frames))


def _study_tags(tags: Dataset) -> StudyTags:
    maker = text(tags, "Manufacturer").upper()
    vendor = next((name for name in _VENDORS if maker.startswith(name)), "other")
    strength = number(tags, "MagneticFieldStrength")
    if strength is not None and strength > 100:
        strength /= _GAUSS_PER_TESLA
    date = text(tags, "StudyDate").replace(".", "")
    return StudyTags(
        uid=text(tags, "StudyInstanceUID"),
        accession=text(tags, "AccessionNumber"),
        patient=text(tags, "PatientID"),
        date=date if _day(date) else "",
        age_days=_age_days(text(tags, "PatientBirthDate").replace(".", ""), date, text(tags, "PatientAge")),
        names=frozenset(_name_parts(tags)),
        vendor=vendor,
        field_strength_t=strength,
    )


def _series_tags(tags: Dataset) -> SeriesTags:
    side = text(tags, "Laterality") or text(tags, "ImageLaterality")
    agent = text(tags, "ContrastBolusAgent").upper() not in _NO_AGENT
    return SeriesTags(
        uid=text(tags, "SeriesInstanceUID"),
        number=whole(tags, "SeriesNumber"),
        description=text(tags, "SeriesDescription"),
        protocol=text(tags, "ProtocolName"),
        modality=text(tags, "Modality"),
        laterality=side if side in ("L", "R") else "",
        contrast=agent or bool(tags.get("ContrastBolusAgentSequence")),
    )


def _name_parts(tags: Dataset) -> Iterator[str]:
    """Family, given and middle names of all persons; prefixes and suffixes are no names."""
    for keyword in _PERSONS:
        for person in texts(tags, keyword):
            for spelling in person.split("="):
                for component in spelling.split("^")[:3]:
                    yield from (part for part in component.replace(",", " ").split() if len(part) > 1)


def _day(date: str) -> datetime | None:
    try:
        return datetime.strptime(date, "%Y%m%d") if len(date) == 8 else None
    except ValueError:
        return None


def _age_days(born: str, date: str, age: str) -> int | None:
    birth, study = _day(born), _day(date)
    if birth and study and birth <= study:
        return (study - birth).days
    if len(age) == 4 and age[:3].isdigit() and age[3] in _DAYS:
        return round(int(age[:3]) * _DAYS[age[3]])
    return None


def _multi_frames(path: Path, tags: Dataset) -> Iterator[Frame]:
    """The frames of an enhanced file, from its shared and per-frame functional groups (PS3.3 C.7.6.16)."""
    each = list(tags[_GROUPS[1]].value)
    told = whole(tags, "NumberOfFrames")
    if told != len(each):
        raise ValueError(f"NumberOfFrames is {told}, the functional groups hold {len(each)}")
    shared = _macros(next(iter(tags.get(_GROUPS[0]) or ()), Dataset()))
    for index, groups in enumerate(each):
        merged = Dataset()
        for macro in (shared | _macros(groups)).values():
            merged.update(macro)
        yield _frame(path, index, tags, merged)


def _macros(groups: Dataset) -> dict[str, Dataset]:
    """Keyword of each functional group to its first item."""
    found: dict[str, Dataset] = {}
    for keyword in _MACROS:
        items = groups.get(keyword)
        if items:
            found[keyword] = cast(Dataset, items[0])
    return found


_MACROS = (
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelMeasuresSequence",
    "FrameContentSequence",
    "PixelValueTransformationSequence",
    "MRDiffusionSequence",
    "MREchoSequence",
    "MRImageFrameTypeSequence",
    "CardiacSynchronizationSequence",
)


def _frame(path: Path, index: int | None, file: Dataset, tags: Dataset) -> Frame:
    """One slice. `tags` holds what differs by frame: of a classic file it is the file itself."""
    multi = index is not None
    syntax = str(file.file_meta.TransferSyntaxUID)
    slope, intercept = number(tags, "RescaleSlope"), number(tags, "RescaleIntercept")
    return Frame(
        path=path,
        index=index,
        instance=text(file, "SOPInstanceUID"),
        sop_class=text(file, "SOPClassUID"),
        transfer_syntax=syntax,
        modality=text(file, "Modality"),
        image_type=(texts(tags, "FrameType") if multi else ()) or texts(file, "ImageType"),
        rows=whole(file, "Rows") or 0,
        columns=whole(file, "Columns") or 0,
        samples=whole(file, "SamplesPerPixel") or 1,
        photometric=text(file, "PhotometricInterpretation"),
        bits_allocated=whole(file, "BitsAllocated") or 0,
        position=numbers(tags, "ImagePositionPatient", 3),
        orientation=numbers(tags, "ImageOrientationPatient", 6),
        spacing=numbers(tags, "PixelSpacing", 2),
        slice_spacing_mm=number(tags, "SpacingBetweenSlices"),
        thickness_mm=number(tags, "SliceThickness"),
        slope=1.0 if slope is None else slope,
        intercept=0.0 if intercept is None else intercept,
        temporal_position=whole(tags, "TemporalPositionIndex" if multi else "TemporalPositionIdentifier"),
        acquisition_number=whole(tags, "FrameAcquisitionNumber" if multi else "AcquisitionNumber"),
        acquired_s=seconds(tags, "FrameAcquisitionDateTime")
        if multi
        else seconds(tags, "AcquisitionDateTime", "AcquisitionTime"),
        content_s=seconds(file, "", "ContentTime"),
        trigger_ms=number(tags, "NominalCardiacTriggerDelayTime" if multi else "TriggerTime"),
        echo_ms=number(tags, "EffectiveEchoTime" if multi else "EchoTime"),
        b_value=number(tags, "DiffusionBValue"),
        stack_id=text(tags, "StackID") if multi else "",
        signed=whole(file, "PixelRepresentation") == 1,
        lossy=text(file, "LossyImageCompression") == "01" or syntax in _LOSSY,
        num_frames=whole(file, "NumberOfFrames") or 1,
    )
