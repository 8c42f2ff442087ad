"""The images of a study as files: one a slice, or one enhanced multi-frame for all."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage, MRImageStorage

from climb_model.data.synthetic_dicom.encode import Template, describe_pixels, encoded, make_uid
from climb_model.data.synthetic_dicom.habits import Habit
from climb_model.data.synthetic_dicom.persons import Person
from climb_model.data.synthetic_dicom.volumes import Grid


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One volume of a series."""

    grid: Grid
    acquired: datetime
    temporal_position: int | None = None


@dataclass(frozen=True, kw_only=True)
class SeriesPlan:
    """One series before it becomes files."""

    name: str
    """What `truth.json` and the mess know it by: `dynamic`, `t2`, `scout` ..."""

    number: int
    description: str
    phases: tuple[Phase, ...] = field(repr=False)
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "M", "ND")
    contrast: bool = False
    b_values: tuple[float, ...] = ()
    """One a phase, of a diffusion series."""

    modality: str = "MR"
    sop_class: str = MRImageStorage
    omit: tuple[int, int] | None = None
    """(phase, slice) that got lost."""


@dataclass(frozen=True)
class Instance:
    """One file of a study."""

    content: bytes = field(repr=False)
    series: str
    uid: str
    phase: int = 0
    position: int = 0
    """Number of its slice along the grid, from 0."""


def study_tags(
    person: Person, habit: Habit, *, uid: str, accession: str, when: datetime, age_days: int
) -> Dataset:
    """What all files of a study share, with the patient named in every tag that takes free text."""
    tags = Dataset()
    tags.SpecificCharacterSet = habit.character_set
    tags.StudyInstanceUID, tags.AccessionNumber, tags.StudyID = uid, accession, accession[-4:]
    tags.StudyDate = tags.SeriesDate = tags.AcquisitionDate = tags.ContentDate = f"{when:%Y%m%d}"
    tags.StudyTime = f"{when:%H%M%S}.000000"
    tags.PatientName = f"{person.surname}^{person.given}"
    tags.PatientID, tags.PatientSex = person.number, "F"
    tags.PatientBirthDate, tags.PatientAge = f"{person.born:%Y%m%d}", f"{age_days // 365:03d}Y"
    tags.OtherPatientNames = tags.PatientBirthName = f"{person.surname}^{person.given}^^^"
    tags.PatientAddress, tags.PatientTelephoneNumbers = person.address, person.phone
    tags.ReferringPhysicianName = tags.RequestingPhysician = f"{person.sent_by}^Dr."
    tags.PerformingPhysicianName = tags.NameOfPhysiciansReadingStudy = f"{person.read_by}^^^Dr. med."
    tags.PhysiciansOfRecord = tags.OperatorsName = f"{person.read_by}"
    tags.InstitutionName = f"Praxis Dr. {person.read_by}"
    tags.InstitutionAddress, tags.StationName = person.address, f"MR {person.read_by}"[:16]
    tags.Manufacturer, tags.ManufacturerModelName, tags.MagneticFieldStrength = (
        habit.manufacturer,
        habit.model,
        "1.5",
    )
    tags.StudyDescription = tags.RequestedProcedureDescription = f"MRT Mamma, {person.spoken}"
    tags.PatientComments = tags.AdditionalPatientHistory = person.spoken
    tags.Occupation, tags.MedicalAlerts = person.surname[:16], f"Schwester von {person.surname}"
    request = Dataset()
    request.ScheduledProcedureStepDescription = request.ReasonForTheRequestedProcedure = person.spoken
    tags.RequestAttributesSequence = [request]
    block = tags.private_block(0x0029, "EXPORT OF THE SITE", create=True)
    block.add_new(0x10, "LT", f"{person.spoken}, {person.address}")
    return tags


def classic_files(plan: SeriesPlan, study: Dataset, habit: Habit, uid: str) -> list[Instance]:
    """One file a slice; the pixels as the hospital stores them."""
    tags = _series_tags(plan, study, uid)
    tags.SOPClassUID = plan.sop_class
    found: list[Instance] = []
    number = 0
    for place, phase in enumerate(plan.phases):
        pixels, slope, intercept = _stored(phase.grid.voxels, habit)
        describe_pixels(tags, pixels)
        _lay(tags, phase.grid)
        tags.RescaleSlope, tags.RescaleIntercept, tags.RescaleType = f"{slope:g}", f"{intercept:d}", "US"
        tags.AcquisitionTime, tags.AcquisitionNumber = f"{phase.acquired:%H%M%S.%f}", 1
        if phase.temporal_position is not None:
            tags.TemporalPositionIdentifier = phase.temporal_position
            tags.NumberOfTemporalPositions = len(plan.phases)
        if plan.b_values:
            tags.DiffusionBValue = plan.b_values[place]
        template = Template(tags, _syntax(plan, habit))
        for index in range(pixels.shape[2]):
            number += 1
            if plan.omit == (place, index):
                continue
            values = {
                "SOPInstanceUID": make_uid(uid, number),
                "InstanceNumber": str(number),
                "ContentTime": f"{phase.acquired + timedelta(seconds=40 + 0.1 * number):%H%M%S.%f}",
                "ImagePositionPatient": "\\".join(_position(phase.grid, index)),
            }
            content = template.file(values, np.ascontiguousarray(pixels[:, :, index].T))
            found.append(Instance(content, plan.name, values["SOPInstanceUID"], place, index))
    return found


def enhanced_file(plan: SeriesPlan, study: Dataset, habit: Habit, uid: str) -> list[Instance]:
    """All phases in one enhanced multi-frame file (PS3.3 A.36.2), its frames in no useful order."""
    tags = _series_tags(plan, study, uid)
    tags.SOPClassUID, tags.SOPInstanceUID, tags.InstanceNumber = EnhancedMRImageStorage, make_uid(uid, 1), 1
    tags.AcquisitionDateTime = f"{plan.phases[0].acquired:%Y%m%d%H%M%S}"
    tags.ContentTime = f"{plan.phases[-1].acquired:%H%M%S}"
    stacked = np.stack([phase.grid.voxels for phase in plan.phases])
    pixels, slope, intercept = _stored(stacked, habit)
    describe_pixels(tags, pixels[0])
    first = plan.phases[0].grid
    shared, measures, plane, scale = Dataset(), Dataset(), Dataset(), Dataset()
    _lay(measures, first)
    plane.ImageOrientationPatient = measures.ImageOrientationPatient
    del measures.ImageOrientationPatient
    scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = f"{slope:g}", f"{intercept:d}", "US"
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [plane]
    shared.PixelValueTransformationSequence = [scale]
    tags.SharedFunctionalGroupsSequence = [shared]
    order = [
        (place, index)
        for index in range(pixels.shape[3])
        for place in range(len(plan.phases))
        if plan.omit != (place, index)
    ]
    tags.PerFrameFunctionalGroupsSequence = [_frame_tags(plan, *where) for where in order]
    tags.NumberOfFrames = len(order)
    frames = [np.ascontiguousarray(pixels[place, :, :, index].T) for place, index in order]
    return [Instance(encoded(tags, frames, _syntax(plan, habit)), plan.name, tags.SOPInstanceUID)]


def _syntax(plan: SeriesPlan, habit: Habit) -> str:
    return habit.syntax if plan.name in habit.compressed else ""


def _frame_tags(plan: SeriesPlan, place: int, index: int) -> Dataset:
    phase = plan.phases[place]
    frame, content, position, kind = Dataset(), Dataset(), Dataset(), Dataset()
    content.FrameAcquisitionDateTime = f"{phase.acquired:%Y%m%d%H%M%S}"
    content.StackID, content.InStackPositionNumber = "1", index + 1
    content.TemporalPositionIndex = phase.temporal_position
    content.DimensionIndexValues = [1, index + 1, place + 1]
    position.ImagePositionPatient = _position(phase.grid, index)
    kind.FrameType = list(plan.image_type)
    frame.FrameContentSequence, frame.PlanePositionSequence = [content], [position]
    frame.MRImageFrameTypeSequence = [kind]
    return frame


def _series_tags(plan: SeriesPlan, study: Dataset, uid: str) -> Dataset:
    tags = Dataset()
    tags.update(study)
    tags.Modality, tags.SeriesInstanceUID, tags.SeriesNumber = plan.modality, uid, plan.number
    tags.SeriesDescription = tags.ProtocolName = plan.description
    tags.FrameOfReferenceUID = make_uid(study.StudyInstanceUID, "frame")
    tags.SeriesTime = f"{plan.phases[0].acquired:%H%M%S}"
    tags.ImageType = list(plan.image_type)
    tags.ImageComments = study.PatientComments
    if plan.contrast:
        tags.ContrastBolusAgent = f"Gadovist, {study.PatientComments}"
    return tags


def _stored(voxels: np.ndarray, habit: Habit) -> tuple[np.ndarray, float, int]:
    """Stored numbers, slope and intercept: slope * stored + intercept is the voxel, to the last bit."""
    low, high = int(voxels.min()), int(voxels.max())
    if habit.stored == "halves" and 2 * (high - low) < 2**16:
        return (2 * (voxels - low)).astype(np.uint16), 0.5, low
    if habit.stored == "offset" and high - low < 2**16:
        return (voxels - low).astype(np.uint16), 1.0, low
    if not -(2**15) <= low <= high < 2**15:
        raise ValueError(f"voxels from {low} to {high} do not fit into 16 bits")
    return voxels.astype(np.int16), 1.0, 0


def _lay(tags: Dataset, grid: Grid) -> None:
    column, row, slices = (grid.affine[:3, axis] for axis in range(3))
    widths = [float(np.linalg.norm(axis)) for axis in (column, row, slices)]
    cosines = [*(column / widths[0]), *(row / widths[1])]
    tags.ImageOrientationPatient = [_decimal(value) for value in cosines]
    tags.PixelSpacing = [_decimal(widths[1]), _decimal(widths[0])]
    tags.SliceThickness = tags.SpacingBetweenSlices = _decimal(widths[2])


def _position(grid: Grid, index: int) -> list[str]:
    return [_decimal(value) for value in (grid.affine @ [0, 0, index, 1])[:3]]


def _decimal(value: float) -> str:
    """At most 16 characters, as a decimal string may have."""
    return f"{round(float(value), 9) + 0.0:.10g}"
