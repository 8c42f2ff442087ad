"""What lies in an export beside the images that are wanted."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    CTImageStorage,
    DigitalMammographyXRayImageStorageForPresentation,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
)

from climb_model.data.synthetic_dicom.encode import encoded, file_bytes, make_uid
from climb_model.data.synthetic_dicom.habits import Habit
from climb_model.data.synthetic_dicom.images import Instance, Phase, SeriesPlan, classic_files
from climb_model.data.synthetic_dicom.volumes import Grid, turned

_DERIVED = ("DERIVED", "SECONDARY", "M")
_OBJECTS = {
    "SR": BasicTextSRStorage,
    "KO": KeyObjectSelectionDocumentStorage,
    "PR": GrayscaleSoftcopyPresentationStateStorage,
}


def clutter_series(
    pre: Grid, sub: Grid, habit: Habit, when: datetime, chance: np.ndarray
) -> list[SeriesPlan]:
    """Localizers always; by chance the scanner's own subtraction, its projection, diffusion.

    Args:
        pre: of the study.
        sub: likewise.
        habit: of the hospital.
        when: begin of the study.
        chance: three numbers in 0..1.
    """
    begin = Phase(grid=_small(pre, 3, 6), acquired=when)
    planes = [
        begin.grid,
        turned(begin.grid, (1, 2, 0), (1, -1, 1)),
        turned(begin.grid, (0, 2, 1), (1, -1, 1)),
    ]
    scouts = tuple(Phase(grid=Grid(one.voxels[:, :, :3], one.affine), acquired=when) for one in planes)
    plans = [SeriesPlan(name="scout", number=1, description="localizer 3 Ebenen", phases=scouts)]
    later = when + timedelta(minutes=14)
    dynamic = habit.names[0]
    if chance[0] < 0.5:
        image_type = (*_DERIVED, "SUB")
        plans.append(_one("subtraction", 90, f"{dynamic}_SUB", sub, later, image_type))
    if chance[1] < 0.4:
        projected = Grid(sub.voxels.max(axis=2, keepdims=True), sub.affine)
        image_type = ("DERIVED", "SECONDARY", "PROJECTION IMAGE", "MIP")
        plans.append(_one("projection", 91, f"{dynamic}_SUB_MIP_TRA", projected, later, image_type))
    if chance[2] < 0.5:
        small, values = _small(pre, 2, 5), (50.0, 800.0)
        weighted = tuple(
            Phase(
                grid=Grid((small.voxels * np.exp(-value / 900)).astype(np.int32), small.affine), acquired=when
            )
            for value in values
        )
        plans.append(
            SeriesPlan(
                name="diffusion",
                number=12,
                description="ep2d_diff_b50_b800",
                phases=weighted,
                image_type=("ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"),
                b_values=values,
            )
        )
    return plans


def _one(
    name: str, number: int, description: str, grid: Grid, when: datetime, image_type: tuple[str, ...]
) -> SeriesPlan:
    phase = Phase(grid=grid, acquired=when)
    return SeriesPlan(
        name=name, number=number, description=description, phases=(phase,), image_type=image_type
    )


def _small(grid: Grid, plane: int, slices: int) -> Grid:
    """Every n-th voxel."""
    return Grid(grid.voxels[::plane, ::plane, ::slices], grid.affine @ np.diag([plane, plane, slices, 1.0]))


def screenshot(study: Dataset, rng: np.random.Generator) -> Instance:
    """A secondary capture in colour that says of itself that a name is burned into its pixels."""
    tags = _tags(study, "OT", 99, "Bildschirmfoto")
    tags.SOPClassUID, tags.ConversionType = SecondaryCaptureImageStorage, "WSD"
    tags.BurnedInAnnotation, tags.ImageType = "YES", ["DERIVED", "SECONDARY"]
    tags.SamplesPerPixel, tags.PhotometricInterpretation, tags.PlanarConfiguration = 3, "RGB", 0
    tags.Rows, tags.Columns, tags.BitsAllocated, tags.BitsStored, tags.HighBit = 48, 64, 8, 8, 7
    tags.PixelRepresentation = 0
    pixels = rng.integers(0, 60, (48, 64, 3), dtype=np.uint8)
    pixels[4:10, 4:50] = 255
    return Instance(encoded(tags, [pixels], ""), "screenshot", tags.SOPInstanceUID)


def document(study: Dataset, kind: str) -> Instance:
    """A report (`SR`), a key object note (`KO`) or a presentation state (`PR`): no image."""
    tags = _tags(study, kind, 98, f"{kind} {study.PatientComments}"[:64])
    tags.SOPClassUID = _OBJECTS[kind]
    if kind == "PR":
        tags.ContentLabel, tags.ContentDescription = "MARKED", str(study.PatientComments)
    else:
        tags.ValueType, tags.ContinuityOfContent = "CONTAINER", "SEPARATE"
        text = Dataset()
        text.RelationshipType, text.ValueType = "CONTAINS", "TEXT"
        text.TextValue = f"Befund zu {study.PatientComments}"
        tags.ContentSequence = [text]
    return Instance(file_bytes(tags), "document", tags.SOPInstanceUID)


def other_modality(study: Dataset, pre: Grid, habit: Habit, when: datetime, modality: str) -> list[Instance]:
    """A study by another machine (`CT` or `MG`) of the same patient."""
    small = _small(pre, 2, 3 if modality == "CT" else pre.voxels.shape[2])
    plan = SeriesPlan(
        name="other modality",
        number=2,
        description="Thorax nativ" if modality == "CT" else "Mamma CC",
        phases=(Phase(grid=small, acquired=when),),
        image_type=("ORIGINAL", "PRIMARY", "AXIAL"),
        modality=modality,
        sop_class=CTImageStorage if modality == "CT" else DigitalMammographyXRayImageStorageForPresentation,
    )
    return classic_files(plan, study, habit, make_uid(study.StudyInstanceUID, plan.number))


def _tags(study: Dataset, modality: str, number: int, description: str) -> Dataset:
    tags = Dataset()
    tags.update(study)
    tags.Modality, tags.SeriesNumber, tags.SeriesDescription = modality, number, description
    tags.SeriesInstanceUID = make_uid(study.StudyInstanceUID, number)
    tags.SOPInstanceUID, tags.InstanceNumber = make_uid(study.StudyInstanceUID, number, 1), 1
    return tags
