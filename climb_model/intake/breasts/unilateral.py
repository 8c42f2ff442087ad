"""From the native volumes of one exam to two breasts on the standard grid (the ODELIA recipe)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from climb_model.data.exam import DataError
from climb_model.data.nifti import Image, NiftiError, read_nifti
from climb_model.intake.breasts.find import Breasts, find_body, find_breasts, find_front
from climb_model.intake.breasts.motion import breast_region, check_motion, motion_notices
from climb_model.intake.breasts.one_breast import Sequence, SideVolume, cut_side, in_order
from climb_model.intake.breasts.resampling import (
    Grid,
    Values,
    lay_grid,
    part_of,
    resample,
    spacing_mm,
    turn_canonical,
)
from climb_model.intake.sequences.native import nifti_bytes
from climb_model.intake.study import SeriesError

SPACING_MM = (0.7, 0.7, 3.0)
"""Column, row, slice."""
SIZE = (256, 256, 32)
"""Columns from the midline outward, rows from the breasts' front backward, slices."""
MARGIN_MM = 16.0
"""Air kept in front of the breasts; the model's grid (224 of 256 rows, to the centre) takes 11 mm of it."""
OFF_MM = 6.0
"""A body contour that lies farther from Pre's is told."""

_NAMES = re.compile(r"Pre|Post_\d+|T2")
_SIDES = {"L": "left", "R": "right", "": ""}
_STRIDE = 4
_FEW_POINTS = 50
"""Points of a contour that say nothing about the rest of it."""
_ASIDE_MM = 30.0
_WHOLE_SHARE = 0.98


@dataclass(frozen=True, kw_only=True)
class SplitExam:
    """Both breasts of an exam, or the one in the field of view."""

    sides: dict[str, dict[str, SideVolume]] = field(repr=False)
    """`left`, `right` of the patient: `Pre`, `Post_1` ..., `Sub_1`, `T2`, as far as they are there."""

    provenance: dict[str, Any]
    """How it was made, in figures and codes; for JSON."""

    notices: tuple[str, ...] = ()
    """What was left out or looks wrong, without identifiers."""


def split_exam(files: Mapping[str, Path], *, laterality: str = "", motion: str = "none") -> SplitExam:
    """Two breasts on one grid each, from the native volumes of an exam.

    Pre's axes are reordered to the closest anatomical ones, not rotated. The field is 512 x 256 x 32 voxels
    of 0.7 x 0.7 x 3 mm: 256 columns to both sides of the midline, 256 rows from just before the breasts
    backward, 32 slices around their middle; zeros where Pre ends. Every sequence is interpolated linearly
    once, from its own voxels by its affine. Sub_1 = Post_1 - Pre is taken before rounding; linear
    interpolation and subtraction commute, so it is the difference on the native grid where both share it.
    Whole numbers stay int16 where they fit, else float32.

    Args:
        files: `Pre`, `Post_1` ..., `T2` to their NIfTI files.
        laterality: `L`, `R` or empty: the side of a field of view that shows one breast.
        motion: `none`, `rigid`, `deformable` or `convexadam`: correction of the Posts onto Pre.

    Raises:
        DataError: unknown names or settings, no Pre, a file that cannot be read, values not finite.
        SeriesError: no breasts found, or one breast and no side told.
    """
    _check_settings(files, laterality)
    check_motion(motion)
    pre = _read("Pre", files["Pre"])
    breasts = find_breasts(pre, laterality)
    whole, parts = _lay_field(pre, breasts, laterality)
    fields = {"Pre": _resampled("Pre", pre, whole)}
    for name in sorted(files, key=in_order):
        if name != "Pre":
            fields[name] = _resampled(name, _read(name, files[name]), whole)
    front = _front(fields["Pre"].values)
    wall = (breasts.wall_mm - _first_mm(breasts, pre)[1]) / SPACING_MM[1]
    notices = [*breasts.notices, *_side_notices(breasts, laterality, whole)]
    provenance: dict[str, Any] = {
        "grid": {"size": list(SIZE), "spacing_mm": list(SPACING_MM)},
        "breasts": _where(breasts, pre, whole),
        "front_off_mm": {name: _front_off(front, fields[name].values) for name in fields if name != "Pre"},
        "sides": {},
    }
    for name, off in provenance["front_off_mm"].items():
        if off is not None and off > OFF_MM:
            notices.append(
                f"{name}: the body's front lies {off:.0f} mm from Pre's: the patient moved, "
                "or it has another frame of reference"
            )
    sides: dict[str, dict[str, SideVolume]] = {}
    for side, columns in parts.items():
        part = part_of(whole, columns)
        region = breast_region(
            front[columns.start // _STRIDE // 2 : columns.stop // _STRIDE // 2], wall, part
        )
        sides[side], figures = cut_side(fields, part, columns, region, motion)
        provenance["sides"][side] = figures
        notices += _told(side, figures)
    notices += motion_notices(
        {
            f"{name} {side}": entry
            for side, figures in provenance["sides"].items()
            for name, entry in figures["motion"].items()
        }
    )
    kept = {side: volumes for side, volumes in sides.items() if "Pre" in volumes}
    if not kept:
        raise SeriesError("Pre is constant where the breasts are")
    return SplitExam(sides=kept, provenance=provenance, notices=tuple(notices))


def write_side(side: Mapping[str, SideVolume], folder: Path) -> dict[str, Any]:
    """Write the sequences of one breast as `<sequence>.nii.gz`; returns what was written.

    Args:
        side: as in `SplitExam.sides`.
        folder: there already.
    """
    written: dict[str, Any] = {}
    for name, volume in side.items():
        content = nifti_bytes(volume.voxels, volume.affine)
        (folder / f"{name}.nii.gz").write_bytes(content)
        written[name] = {"dtype": str(volume.voxels.dtype), "sha256": hashlib.sha256(content).hexdigest()}
    return written


def _check_settings(files: Mapping[str, Path], laterality: str) -> None:
    if laterality not in _SIDES:
        raise DataError("laterality must be L, R or empty", "laterality must be L, R or empty")
    unknown = [name for name in files if not _NAMES.fullmatch(name)]
    if unknown:
        fact = f"wanted Pre, Post_1 ... and T2 to split, got {unknown[0]}"
        raise DataError(fact, "a sequence of an unknown name")
    if "Pre" not in files:
        raise DataError("no Pre: nothing to split by", "no Pre: nothing to split by")


def _read(name: str, path: Path) -> Image:
    """An image in canonical orientation.

    Raises:
        DataError: unreadable, damaged, not 3-D, values that are not finite.
    """
    try:
        image = read_nifti(path)
    except NiftiError as error:
        raise DataError(f"{name}: {error} ({path})", f"{name}: {error}") from None
    if image.voxels.dtype.kind == "f" and not np.isfinite(image.voxels).all():
        fact = f"{name}: voxels that are not finite (NaN or infinite)"
        raise DataError(f"{fact} ({path})", fact)
    return turn_canonical(image)


def _first_mm(breasts: Breasts, pre: Image) -> tuple[float, float, float]:
    """The field's first point, in mm along Pre's axes; slices do not reach beyond Pre if they need not."""
    columns = 2 * SIZE[0] if breasts.pair else SIZE[0]
    lengths = [(size - 1) * mm for size, mm in zip(pre.voxels.shape, spacing_mm(pre.affine), strict=True)]
    reach = [(size - 1) * mm for size, mm in zip(SIZE, SPACING_MM, strict=True)]
    last_row = breasts.front_mm + MARGIN_MM
    spare = lengths[2] - reach[2]
    first_slice = min(max(breasts.centre_mm - reach[2] / 2, 0), spare) if spare > 0 else spare / 2
    return breasts.middle_mm - (columns - 1) / 2 * SPACING_MM[0], last_row - reach[1], first_slice


def _lay_field(pre: Image, breasts: Breasts, laterality: str) -> tuple[Grid, dict[str, slice]]:
    """The grid of the whole field, and the columns of each breast."""
    sides = ("left", "right") if breasts.pair else (_SIDES[laterality],)
    shape = (SIZE[0] * len(sides), SIZE[1], SIZE[2])
    parts = {side: slice(SIZE[0] * place, SIZE[0] * (place + 1)) for place, side in enumerate(sides)}
    return lay_grid(pre, _first_mm(breasts, pre), SPACING_MM, shape), parts


def _resampled(name: str, image: Image, grid: Grid) -> Sequence:
    values = resample(image, grid)
    scaled = (image.slope, image.intercept) != (1.0, 0.0) or image.voxels.dtype.kind == "f"
    if scaled and not np.isfinite([values.voxels.min(), values.voxels.max()]).all():
        fact = f"{name}: values beyond the range of float32"
        raise DataError(fact, fact)
    whole = image.voxels.dtype.kind in "iu" and image.slope.is_integer() and image.intercept.is_integer()
    return Sequence(image=image, values=values, whole=whole)


def _front(values: Values) -> np.ndarray:
    """(column, slice): row of the body's front on every eighth column, 0 where there is none.

    Looked for in the box that the image covers: zeros around it would pass for air, and its air for body.

    Raises:
        SeriesError: nothing stands out, or the image covers nothing.
    """
    seen = np.argwhere(values.within[:: 2 * _STRIDE, ::_STRIDE])
    if not seen.size:
        raise SeriesError("no breasts found: an image beside the field")
    first, last = seen.min(axis=0), seen.max(axis=0)
    columns, rows, slices = (slice(low, high + 1) for low, high in zip(first, last, strict=True))
    coarse = values.voxels[:: 2 * _STRIDE, ::_STRIDE]
    smooth = ndimage.uniform_filter(coarse[columns, rows, slices], 3, axes=(1, 2))
    found = find_front(find_body(smooth))
    front = np.zeros((coarse.shape[0], coarse.shape[2]), found.dtype)
    front[columns, slices] = np.where(found > 0, found + rows.start, 0)
    return front * _STRIDE


def _front_off(front: np.ndarray, values: Values) -> float | None:
    """Median distance of a sequence's body front from Pre's in mm; None where it cannot be told."""
    try:
        other = _front(values)
    except SeriesError:
        return None
    both = (front > 0) & (other > 0)
    if both.sum() < _FEW_POINTS:
        return None
    return round(float(np.median(np.abs(front - other)[both])) * SPACING_MM[1], 1)


def _where(breasts: Breasts, pre: Image, whole: Grid) -> dict[str, Any]:
    """Where the breasts were found: for the record, and for whoever doubts it."""
    middle = whole.affine @ [*((np.array(whole.shape) - 1) / 2), 1.0]
    at, share = breasts.profile.T
    first = _first_mm(breasts, pre)[2]
    within = (at >= first - SPACING_MM[2] / 2) & (at <= first + (SIZE[2] - 0.5) * SPACING_MM[2])
    return {
        "both_in_view": breasts.pair,
        "middle_ras_mm": [round(float(mm), 1) for mm in middle[:3]],
        "share_within_slices": round(float(share[within].sum()), 3),
    }


def _side_notices(breasts: Breasts, laterality: str, whole: Grid) -> list[str]:
    if breasts.pair:
        return [f"marked as {_SIDES[laterality]}, but both sides are in view: split"] if laterality else []
    middle = float((whole.affine @ [*((np.array(whole.shape) - 1) / 2), 1.0])[0])
    lies = "right" if middle > 0 else "left"
    if abs(middle) > _ASIDE_MM and lies != _SIDES[laterality]:
        return [
            f"marked as {_SIDES[laterality]}, but lies {abs(middle):.0f} mm {lies} of the scanner's middle"
        ]
    return []


def _told(side: str, figures: Mapping[str, Any]) -> list[str]:
    """What the site should hear of one breast's figures."""
    lines = [f"{name} {side}: left out, {reason}" for name, reason in figures["left_out"].items()]
    for name, share in figures["covered"].items():
        if share < _WHOLE_SHARE and name not in figures["left_out"]:
            lines.append(f"{name} {side}: covers {share:.0%} of Pre's field, zeros elsewhere")
    return lines
