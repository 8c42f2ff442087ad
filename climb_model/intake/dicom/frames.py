"""From one DICOM file to its frames and to what it tells of its series and study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage

from climb_model.intake.dicom.tags import first_item, number, numbers, seconds, text, texts, whole
from climb_model.intake.study import VENDORS, Frame

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
    file = _classic_frame(path, tags)
    multi = file.sop_class in MULTI_FRAME_MR and _GROUPS[1] in tags
    frames = _enhanced_frames(file, tags) if multi else (file,)
    return FileHeader(study=_study_tags(tags), series=_series_tags(tags), frames=tuple(frames))


def _study_tags(tags: Dataset) -> StudyTags:
    maker = text(tags, "Manufacturer").upper()
    vendor = next((name for name in VENDORS if maker.startswith(name)), "other")
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
        contrast=agent or first_item(tags, "ContrastBolusAgentSequence") is not None,
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


def _classic_frame(path: Path, tags: Dataset) -> Frame:
    syntax = str(tags.file_meta.TransferSyntaxUID)
    return Frame(
        path=path,
        index=None,
        instance=text(tags, "SOPInstanceUID"),
        sop_class=text(tags, "SOPClassUID"),
        transfer_syntax=syntax,
        modality=text(tags, "Modality"),
        image_type=texts(tags, "ImageType"),
        rows=whole(tags, "Rows") or 0,
        columns=whole(tags, "Columns") or 0,
        samples=whole(tags, "SamplesPerPixel") or 1,
        photometric=text(tags, "PhotometricInterpretation"),
        bits_allocated=whole(tags, "BitsAllocated") or 0,
        position=numbers(tags, "ImagePositionPatient", 3),
        orientation=numbers(tags, "ImageOrientationPatient", 6),
        spacing=numbers(tags, "PixelSpacing", 2),
        slice_spacing_mm=number(tags, "SpacingBetweenSlices"),
        thickness_mm=number(tags, "SliceThickness"),
        slope=_or(number(tags, "RescaleSlope"), 1.0),
        intercept=_or(number(tags, "RescaleIntercept"), 0.0),
        temporal_position=whole(tags, "TemporalPositionIdentifier"),
        acquisition_number=whole(tags, "AcquisitionNumber"),
        acquired_s=seconds(tags, "AcquisitionDateTime", "AcquisitionTime"),
        content_s=seconds(tags, "", "ContentTime"),
        trigger_ms=number(tags, "TriggerTime"),
        echo_ms=number(tags, "EchoTime"),
        b_value=number(tags, "DiffusionBValue"),
        stack_id="",
        signed=whole(tags, "PixelRepresentation") == 1,
        lossy=text(tags, "LossyImageCompression") == "01" or syntax in _LOSSY,
        num_frames=whole(tags, "NumberOfFrames") or 1,
    )


def _enhanced_frames(file: Frame, tags: Dataset) -> Iterator[Frame]:
    """The frames of an enhanced file, from its shared and per-frame functional groups (PS3.3 C.7.6.16)."""
    each = cast(Sequence[Dataset], tags[_GROUPS[1]].value)
    if file.num_frames != len(each):
        raise ValueError(f"NumberOfFrames is {file.num_frames}, the functional groups hold {len(each)}")
    shared = _macros(first_item(tags, _GROUPS[0]) or Dataset())
    for index, groups in enumerate(each):
        yield _enhanced_frame(file, index, shared | _macros(groups))


def _enhanced_frame(file: Frame, index: int, macros: dict[str, Dataset]) -> Frame:
    """One frame: what its functional groups hold, and what its file tells of all frames."""
    none = Dataset()
    content = macros.get("FrameContentSequence", none)
    measures = macros.get("PixelMeasuresSequence", none)
    values = macros.get("PixelValueTransformationSequence", none)
    return replace(
        file,
        index=index,
        image_type=texts(macros.get("MRImageFrameTypeSequence", none), "FrameType") or file.image_type,
        position=numbers(macros.get("PlanePositionSequence", none), "ImagePositionPatient", 3),
        orientation=numbers(macros.get("PlaneOrientationSequence", none), "ImageOrientationPatient", 6),
        spacing=numbers(measures, "PixelSpacing", 2),
        slice_spacing_mm=number(measures, "SpacingBetweenSlices"),
        thickness_mm=number(measures, "SliceThickness"),
        slope=_or(number(values, "RescaleSlope"), 1.0),
        intercept=_or(number(values, "RescaleIntercept"), 0.0),
        temporal_position=whole(content, "TemporalPositionIndex"),
        acquisition_number=whole(content, "FrameAcquisitionNumber"),
        acquired_s=seconds(content, "FrameAcquisitionDateTime"),
        trigger_ms=number(
            macros.get("CardiacSynchronizationSequence", none), "NominalCardiacTriggerDelayTime"
        ),
        echo_ms=number(macros.get("MREchoSequence", none), "EffectiveEchoTime"),
        b_value=number(macros.get("MRDiffusionSequence", none), "DiffusionBValue"),
        stack_id=text(content, "StackID"),
    )


def _macros(groups: Dataset) -> dict[str, Dataset]:
    """Keyword of each functional group to its first item."""
    items = ((keyword, first_item(groups, keyword)) for keyword in _MACROS)
    return {keyword: item for keyword, item in items if item is not None}


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
