"""From the headers of one classic MR series to its geometry and its voxels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, EnhancedMRImageStorage, MRImageStorage

from climb_model.intake.headers import NEEDED, READ_FAULTS, Header, silent_pydicom

SPACING_TOLERANCE = 0.01
"""Largest deviation of a gap between slices from the median gap, as a share of it."""
SAME_POSITION_MM = 0.01
_SAME_DIRECTION = 1e-4
"""Largest difference of direction cosines within a series."""


class SeriesError(ValueError):
    """A series that cannot be imported; says why without a word of free text from its files."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where a series lies in the patient."""

    headers: tuple[Header, ...]
    """Files in the order of their position along the slice normal."""

    affine: np.ndarray
    """(4, 4) index of column, row, slice to RAS+ millimetres."""

    shape: tuple[int, int, int]
    """slice, row, column."""

    spacing_mm: tuple[float, float, float]
    """slice, row, column."""

    spacing_from: str
    """Where the slice spacing comes from: `positions`, or for a single slice the tag's name."""


def find_geometry(headers: Sequence[Header]) -> Geometry:
    """Sort the files of one series along the slice normal and build its affine.

    Neither file names nor instance numbers are looked at. The affine follows DICOM PS3.3 C.7.6.2.1.1 with
    x and y negated (LPS to RAS).

    Raises:
        SeriesError: another modality, enhanced or multi-frame, colour, a missing or impossible tag, mixed
            size, spacing or orientation, slices at one position, a gap, slices that are not stacked.
    """
    _check_kind(headers)
    rows, columns = (int(_same(headers, tag, 1)[0]) for tag in ("Rows", "Columns"))
    between_rows, between_columns = (float(value) for value in _same(headers, "PixelSpacing", 2))
    cosines = _same(headers, "ImageOrientationPatient", 6, _SAME_DIRECTION)
    along_row, along_column = cosines[:3], cosines[3:]
    frame = np.stack([along_row, along_column])
    if np.abs(frame @ frame.T - np.eye(2)).max() > 1e-3:
        raise SeriesError("ImageOrientationPatient does not hold two unit vectors at a right angle")
    if min(rows, columns) < 1 or min(between_rows, between_columns) <= 0:
        raise SeriesError("Rows, Columns and PixelSpacing must be above 0")
    normal = np.cross(along_row, along_column)
    positions = np.array([_numbers(header, "ImagePositionPatient", 3) for header in headers])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step, spacing_from = _slice_step(positions, normal, headers[0])
    affine = np.eye(4)
    affine[:3, 0] = along_row * between_columns
    affine[:3, 1] = along_column * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return Geometry(
        headers=tuple(headers[place] for place in order),
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
        shape=(len(headers), rows, columns),
        spacing_mm=(float(np.linalg.norm(step)), between_rows, between_columns),
        spacing_from=spacing_from,
    )


def read_voxels(geometry: Geometry) -> np.ndarray:
    """Voxels (column, row, slice) after rescale slope and intercept.

    In the files' own integer type where no file rescales, else float32.

    Raises:
        SeriesError: pixels that are compressed without a decoder here, truncated or of another kind.
    """
    _check_decoders(geometry.headers)
    scales = [_scale(header) for header in geometry.headers]
    rescaled = any(scale != (1.0, 0.0) for scale in scales)
    slices: list[np.ndarray] = []
    for header, (slope, intercept) in zip(geometry.headers, scales, strict=True):
        pixels = _pixels(header.path)
        if pixels.shape != geometry.shape[1:]:
            raise SeriesError("pixel data of another size than Rows and Columns say")
        with np.errstate(over="ignore"):
            slices.append((pixels * slope + intercept).astype(np.float32) if rescaled else pixels)
    volume = np.stack(slices)
    if not np.isfinite(volume).all():
        raise SeriesError("rescaled voxels beyond the range of float32")
    return volume.transpose(2, 1, 0)


def _check_kind(headers: Sequence[Header]) -> None:
    for header in headers:
        modality, kind = header.text("Modality"), header.text("SOPClassUID")
        if modality != "MR":
            raise SeriesError(f"modality is {_code(modality)}, only MR is imported")
        if kind == EnhancedMRImageStorage or _number(header, "NumberOfFrames", 1) > 1:
            raise SeriesError("enhanced multi-frame MR is not imported yet, only classic MR")
        if kind != MRImageStorage:
            raise SeriesError("SOP class is not MR Image Storage (a derived object or a screenshot)")
        if _number(header, "SamplesPerPixel", 1) != 1:
            raise SeriesError("colour images, wanted one sample per pixel")
        if header.text("PhotometricInterpretation") != "MONOCHROME2":
            raise SeriesError("photometric interpretation is not MONOCHROME2")
    for tag in NEEDED:
        missing = sum(header.tags.get(tag) is None for header in headers)
        if missing:
            raise SeriesError(f"{tag} is missing in {missing} of {len(headers)} files")


def _same(headers: Sequence[Header], tag: str, length: int, tolerance: float = 1e-6) -> np.ndarray:
    """The numbers of a tag that all files must share; their median, so that no file comes first."""
    values = np.array([_numbers(header, tag, length) for header in headers])
    shared = np.median(values, axis=0)
    differ = int((np.abs(values - shared).max(axis=1) > tolerance).sum())
    if differ:
        raise SeriesError(f"mixed {tag}: {differ} of {len(headers)} files differ from the others")
    return shared


def _numbers(header: Header, tag: str, length: int) -> np.ndarray:
    try:
        values = np.array(header.tags.get(tag), np.float64).reshape(-1)
    except (TypeError, ValueError):
        values = np.array([])
    if values.shape != (length,) or not np.isfinite(values).all():
        raise SeriesError(f"{tag} does not hold {length} numbers")
    return values


def _number(header: Header, tag: str, default: float) -> float:
    """A single number, or the default where the tag is missing or empty."""
    return float(_numbers(header, tag, 1)[0]) if header.text(tag) else float(default)


def _slice_step(positions: np.ndarray, normal: np.ndarray, header: Header) -> tuple[np.ndarray, str]:
    """Vector from one slice to the next in mm (LPS), and where its length comes from."""
    if len(positions) == 1:
        for tag in ("SpacingBetweenSlices", "SliceThickness"):
            if _number(header, tag, 0) > 0:
                return normal * _number(header, tag, 0), tag
        raise SeriesError("a single slice without SpacingBetweenSlices or SliceThickness")
    gaps = np.diff(positions @ normal)
    twice = int((gaps < SAME_POSITION_MM).sum())
    if twice:
        raise SeriesError(
            f"{twice} of {len(positions)} slices lie where another one lies: "
            "copies, or several phases in one series"
        )
    usual = float(np.median(gaps))
    off = np.flatnonzero(np.abs(gaps - usual) > SPACING_TOLERANCE * usual)
    if off.size:
        raise SeriesError(
            f"uneven slices: {gaps[off[0]]:.3f} mm between slices {off[0] + 1} and {off[0] + 2}, "
            f"usually {usual:.3f} mm; {off.size} such gaps"
        )
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = np.outer((positions - positions[0]) @ normal, normal)
    sideways = float(np.linalg.norm(np.diff(positions - positions[0] - along, axis=0), axis=1).max())
    if sideways > max(SPACING_TOLERANCE * usual, SAME_POSITION_MM):
        raise SeriesError(f"slices are not stacked along their normal: {sideways:.3f} mm sideways per slice")
    return step, "positions"


def _check_decoders(headers: Sequence[Header]) -> None:
    for syntax in sorted({str(header.tags.file_meta.TransferSyntaxUID) for header in headers}):
        uid = UID(syntax)
        if not uid.is_transfer_syntax:
            raise SeriesError("an unknown transfer syntax")
        if not uid.is_compressed or uid.is_deflated:
            continue
        try:
            available = get_decoder(uid).is_available
        except NotImplementedError:
            available = False
        if not available:
            raise SeriesError(f"compressed as {uid.name}, and no decoder for it is installed")


def _scale(header: Header) -> tuple[float, float]:
    slope, intercept = _number(header, "RescaleSlope", 1), _number(header, "RescaleIntercept", 0)
    if slope == 0:
        raise SeriesError("RescaleSlope is 0")
    return slope, intercept


def _pixels(path: Path) -> np.ndarray:
    """Stored values (row, column) of one file."""
    try:
        with silent_pydicom():
            pixels = dcmread(path).pixel_array
    except (*READ_FAULTS, RuntimeError):
        raise SeriesError("truncated, damaged or missing pixel data") from None
    return pixels.astype(pixels.dtype.newbyteorder("="))


def _code(value: str) -> str:
    """A DICOM code as it stands, anything else as a sort of thing: free text may be a name."""
    return (
        value if value.isascii() and value.isalpha() and value.isupper() and len(value) <= 10 else "unknown"
    )
