"""Where the slices of one volume lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from climb_model.intake.study import Frame, Geometry, SeriesError

SPACING_TOLERANCE = 0.01
"""Largest deviation of a gap between slices from the usual gap, as a share of it."""
SAME_POSITION_MM = 0.01
_NEAR_THE_SMALLEST = 1.1
"""Gaps up to this many times the smallest one count as gaps between neighbours."""


def normal_of(frames: Sequence[Frame]) -> np.ndarray:
    """Unit vector (LPS) from slice to slice, of the frames' median orientation.

    Raises:
        SeriesError: direction cosines that are no two unit vectors at a right angle.
    """
    cosines = np.median(np.array([frame.orientation for frame in frames], np.float64), axis=0)
    axes = np.stack([cosines[:3], cosines[3:]])
    if np.abs(axes @ axes.T - np.eye(2)).max() > 1e-3:
        raise SeriesError("ImageOrientationPatient does not hold two unit vectors at a right angle")
    return np.cross(axes[0], axes[1])


def levels_of(frames: Sequence[Frame]) -> np.ndarray:
    """(frame,) number of each frame's position along the normal, from 0; frames at one position share it."""
    along = np.array([frame.position for frame in frames]) @ normal_of(frames)
    order = np.argsort(along, kind="stable")
    levels = np.empty(len(frames), np.int64)
    levels[order] = np.concatenate([[0], np.cumsum(np.diff(along[order]) >= SAME_POSITION_MM)])
    return levels


def find_geometry(frames: Sequence[Frame]) -> Geometry:
    """The affine of slices that are sorted along their normal, one at each position.

    It follows DICOM PS3.3 C.7.6.2.1.1 with x and y negated (LPS to RAS).

    Raises:
        SeriesError: missing slices, uneven gaps, slices that are not stacked along their normal, a single
            slice whose thickness is not told.
    """
    normal = normal_of(frames)
    cosines = np.median(np.array([frame.orientation for frame in frames], np.float64), axis=0)
    spacings = np.array([frame.spacing for frame in frames], np.float64)
    between_rows, between_columns = (float(value) for value in np.median(spacings, axis=0))
    positions = np.array([frame.position for frame in frames])
    step, spacing_from = _slice_step(positions, normal, frames[0])
    affine = np.eye(4)
    affine[:3, 0] = cosines[:3] * between_columns
    affine[:3, 1] = cosines[3:] * between_rows
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    return Geometry(
        affine=np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine,
        shape=(len(frames), frames[0].rows, frames[0].columns),
        spacing_mm=(float(np.linalg.norm(step)), between_rows, between_columns),
        spacing_from=spacing_from,
    )


def _slice_step(positions: np.ndarray, normal: np.ndarray, first: Frame) -> tuple[np.ndarray, str]:
    """Vector from one slice to the next in mm (LPS), and where its length comes from."""
    if len(positions) == 1:
        for tag, value in (
            ("SpacingBetweenSlices", first.slice_spacing_mm),
            ("SliceThickness", first.thickness_mm),
        ):
            if value is not None and value > 0:
                return normal * value, tag
        raise SeriesError("a single slice without SpacingBetweenSlices or SliceThickness")
    usual = _usual_gap(np.diff(positions @ normal))
    step = (positions[-1] - positions[0]) / (len(positions) - 1)
    along = np.outer((positions - positions[0]) @ normal, normal)
    sideways = float(np.linalg.norm(np.diff(positions - positions[0] - along, axis=0), axis=1).max())
    if sideways > max(SPACING_TOLERANCE * usual, SAME_POSITION_MM):
        raise SeriesError(f"slices are not stacked along their normal: {sideways:.3f} mm sideways per slice")
    return step, "positions"


def _usual_gap(gaps: np.ndarray) -> float:
    """Distance between neighbours in mm, where every gap is that distance."""
    usual = float(np.median(gaps[gaps <= _NEAR_THE_SMALLEST * gaps.min()]))
    steps = np.maximum(np.rint(gaps / usual), 1)
    off = np.flatnonzero(np.abs(gaps - steps * usual) > SPACING_TOLERANCE * usual)
    if off.size:
        raise SeriesError(
            f"uneven slices: {gaps[off[0]]:.3f} mm between slices {off[0] + 1} and {off[0] + 2}, "
            f"usually {usual:.3f} mm; {off.size} such gaps"
        )
    missing = int(steps.sum()) - len(gaps)
    if missing:
        raise SeriesError(f"missing slices: {missing} in between the others (usually {usual:.3f} mm apart)")
    return usual
