"""What is known of a DICOM export before a pixel is read: studies, series, frames, stacks."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

VENDORS = ("SIEMENS", "GE", "PHILIPS", "CANON", "TOSHIBA", "HITACHI")
"""Makers that a study is told by; all others are `other`, never the tag's own words."""


class SeriesError(ValueError):
    """A series that cannot be imported; says why without a word of free text from its files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One slice: a classic file, or one frame of a multi-frame file.

    A hospital has millions of them, so no Dataset is kept.
    """

    path: Path = field(repr=False)
    index: int | None
    """Number of the frame in a multi-frame file, from 0; None for a classic file."""

    instance: str
    """SOPInstanceUID."""

    sop_class: str
    transfer_syntax: str
    modality: str
    image_type: tuple[str, ...]
    """Such as ORIGINAL, PRIMARY, M; of an enhanced file, that of the frame."""

    rows: int
    columns: int
    samples: int
    photometric: str
    bits_allocated: int
    position: tuple[float, ...] | None
    """ImagePositionPatient in mm, LPS; None where it is missing or does not hold three numbers."""

    orientation: tuple[float, ...] | None
    """ImageOrientationPatient: direction cosines along a row, then along a column."""

    spacing: tuple[float, ...] | None
    """PixelSpacing in mm: between rows, between columns."""

    slice_spacing_mm: float | None
    """SpacingBetweenSlices, as told; positions count before it."""

    thickness_mm: float | None
    slope: float
    intercept: float
    temporal_position: int | None
    """TemporalPositionIdentifier, of an enhanced frame TemporalPositionIndex."""

    acquisition_number: int | None
    acquired_s: float | None
    """AcquisitionDateTime, else AcquisitionTime, in seconds since midnight."""

    content_s: float | None
    """ContentTime in seconds since midnight."""

    trigger_ms: float | None
    echo_ms: float | None
    b_value: float | None
    """DiffusionBValue in s/mm2."""

    stack_id: str
    """StackID of an enhanced frame; empty otherwise."""

    num_frames: int = 1
    """NumberOfFrames of its file."""

    signed: bool = False
    """Whether stored values are signed (PixelRepresentation)."""

    lossy: bool = False
    """Whether the pixels were ever compressed with loss."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """The frames that share one SeriesInstanceUID."""

    uid: str = field(repr=False)
    number: int | None
    description: str = field(repr=False)
    """SeriesDescription: free text. Compared with patterns, shown on the site's own screen, never written."""

    protocol: str = field(repr=False)
    """ProtocolName: free text likewise."""

    modality: str
    laterality: str
    """`L`, `R` or empty, of Laterality or ImageLaterality."""

    contrast: bool
    """Whether a contrast agent is told (ContrastBolusAgent)."""

    frames: tuple[Frame, ...] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Study:
    """One examination of one patient. Raw numbers and names stay in memory."""

    uid: str = field(repr=False)
    accession: str = field(repr=False)
    patient: str = field(repr=False)
    """PatientID as it stands: leading zeros count."""

    date: str = field(repr=False)
    """StudyDate, YYYYMMDD, or empty."""

    age_days: int | None
    """At the study: from PatientBirthDate and StudyDate, else from PatientAge."""

    names: frozenset[str] = field(repr=False)
    """Names of persons in the headers (patient, physicians, operators), to be found in the report."""

    vendor: str
    """One of `VENDORS`, or `other`."""

    field_strength_t: float | None
    series: tuple[Series, ...]
    torn: tuple[Series, ...] = ()
    """Series with files in other studies too: not imported, but perhaps a phase that this one lacks."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """Something that is not imported, and why. For `import-report.csv`: on the site's own disk."""

    what: str
    """`file`, `series`, `phase`, `study` or `exam`."""

    reason: str
    """One clause that names no person and quotes no tag."""

    study: str = ""
    """Pseudonym of the exam, if there is one."""

    path: Path | None = field(default=None, repr=False)
    """File, or the first file of a series."""

    num_files: int = 1


class NamingError(SeriesError):
    """A study whose sequences cannot be told apart, with what each of its series was taken for."""

    def __init__(self, reason: str, left_out: tuple[LeftOut, ...]) -> None:
        super().__init__(reason)
        self.left_out = left_out


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a stack lies in the patient."""

    affine: np.ndarray
    """(4, 4) index of column, row, slice to RAS+ millimetres."""

    shape: tuple[int, int, int]
    """slice, row, column."""

    spacing_mm: tuple[float, float, float]
    """slice, row, column."""

    spacing_from: str
    """Where the slice spacing comes from: `positions`, or for a single slice the tag's name."""


@dataclass(frozen=True, kw_only=True)
class Stack:
    """The slices of one volume: one phase of one series."""

    series: Series
    frames: tuple[Frame, ...] = field(repr=False)
    """In the order of their position along the slice normal."""

    geometry: Geometry
    time_s: float | None
    """When it was acquired, in seconds since midnight; the median over its frames."""

    time_from: str
    """`acquisition time`, `content time`, `trigger time`, `temporal position`, or empty."""

    phase: int
    """Its place in time among the stacks of its series with the same geometry, from 1."""

    num_phases: int
    notices: tuple[str, ...] = ()
    """What was mended, such as `2 duplicate slices dropped`, in counts."""
