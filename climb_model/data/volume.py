"""From an exam's files to the model's grid: resampled, clipped, z-scored, under a presence mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float
from nibabel.orientations import (
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)

from climb_model.data.exam import DataError, ExamRecord, Volume
from climb_model.data.interpolation import SAME_SPACING, Axis, interpolate, place_points, points_within
from climb_model.data.nifti import Image, NiftiError, read_nifti
from configs.schema import DataConfig

FOREGROUND_SHARE = 0.1
"""Foreground is what lies above this share of the way from the 1st to the 99th percentile of Pre."""

_FLAT = 1e-6
"""A sequence whose spread is below this share of its values is constant but for rounding."""


def read_volume(exam: ExamRecord, data: DataConfig) -> Volume:
    """One exam on the model's grid, every sequence on Pre's voxels.

    The grid is centred on what the first sequence that has a file (Pre, as configured) covers, and lies
    along that image's own axes in the order slice (feet to head), row (front to back), column (patient's
    right to left): an oblique image is not rotated. Planes at the image's ends that are wholly zero are
    padding: all sequences end where they begin, as if the files had been stored without them. Linear
    interpolation without smoothing; where the spacing already is the grid's, voxels are copied, so that the
    centre may be off by half a voxel. A larger image is cropped to the centre, a smaller one padded with
    zeros.

    Foreground is found on the first sequence that is not constant and used for all. Each sequence is
    clipped at the percentiles of its foreground values, everywhere, and z-scored with their mean and
    standard deviation. A sequence without a file or with a constant value is absent.

    Raises:
        DataError: a file that is unreadable, damaged or not 3-D, values that are not finite, a size or
            position that differs from the first sequence's, or no sequence that is present.
    """
    boxes: dict[str, np.ndarray] = {}
    first: tuple[str, Image] | None = None
    axes: tuple[Axis, ...] = ()
    for sequence in data.sequences:
        if sequence not in exam.files:
            continue
        image = _read(exam, sequence)
        if first is None:
            first = (sequence, image)
            grid = zip((data.slices, data.rows, data.columns), data.spacing_mm, strict=True)
            parts = zip(_cover(image), _spacing(image), strict=True)
            axes = tuple(_axis(*part, *points) for part, points in zip(parts, grid, strict=True))
        else:
            _check_same_grid(exam, sequence, image, *first)
        boxes[sequence] = _resample(exam, sequence, image, axes)
    varied = {sequence: box for sequence, box in boxes.items() if box.min() < box.max()}
    if not varied:
        fact = "no sequence is present: each lacks its file or is constant"
        raise _fault(exam, fact, exam.files.get(data.sequences[0]))
    mask = foreground(next(iter(varied.values())))
    values = np.zeros((len(data.sequences), data.slices, data.rows, data.columns), np.float32)
    present = np.zeros(values.shape[:2], np.bool_)
    where = tuple(axis.inside for axis in axes)
    for place, sequence in enumerate(data.sequences):
        scored = zscore(varied[sequence], mask, data.clip_percentiles) if sequence in varied else None
        if scored is not None:
            values[place][where] = scored
            present[place, where[0]] = True
    if not present.any():
        raise _fault(exam, "no sequence varies within the foreground", exam.files.get(data.sequences[0]))
    return Volume(values=values, present=present, spacing_mm=data.spacing_mm)


def foreground(values: Float[np.ndarray, "slice row column"]) -> Bool[np.ndarray, "slice row column"]:
    """Voxels above a tenth of the way from the 1st to the 99th percentile; all, if there are none.

    Independent of the scanner's intensity scale and offset.
    """
    count = values.size - 1
    places = (round(0.01 * count), round(0.99 * count))
    ordered = np.partition(values, places, axis=None)
    low, high = float(ordered[places[0]]), float(ordered[places[1]])
    mask = values > low + FOREGROUND_SHARE * (high - low)
    return mask if mask.any() else np.ones_like(mask)


def zscore(
    values: Float[np.ndarray, "slice row column"],
    mask: Bool[np.ndarray, "slice row column"],
    percentiles: tuple[float, float],
) -> Float[np.ndarray, "slice row column"] | None:
    """Values clipped at percentiles of the masked ones, with those at mean 0 and standard deviation 1.

    Args:
        values: finite.
        mask: foreground, at least one voxel.
        percentiles: lower and upper, in percent; nearest rank.

    Returns:
        None where the masked values are constant.
    """
    inner = values[mask]
    places = [round(share / 100 * (inner.size - 1)) for share in percentiles]
    ordered = np.partition(inner, places)
    low, high = ordered[places[0]], ordered[places[1]]
    np.clip(inner, low, high, out=inner)
    mean = float(inner.mean(dtype=np.float64))
    deviation = float(inner.std(dtype=np.float64))
    smallest = max(_FLAT * max(abs(float(low)), abs(float(high))), float(np.finfo(np.float32).tiny))
    if deviation <= smallest:
        return None
    clipped = np.clip(values, low, high)
    clipped -= np.float32(mean)
    clipped /= np.float32(deviation)
    return clipped


def _read(exam: ExamRecord, sequence: str) -> Image:
    """The image with its axes turned to slice, row, column of the LPS orientation; voxels not copied."""
    path = exam.files[sequence]
    try:
        image = read_nifti(path)
    except NiftiError as error:
        raise _fault(exam, f"{sequence}: {error}", path) from None
    if image.voxels.dtype.kind == "f" and not np.isfinite(image.voxels).all():
        raise _fault(exam, f"{sequence}: voxels that are not finite (NaN or infinite)", path)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(("L", "P", "S")))
    affine = image.affine @ inv_ornt_aff(turn, image.voxels.shape)
    voxels = apply_orientation(image.voxels, turn).transpose(2, 1, 0)
    order = [2, 1, 0, 3]
    return Image(voxels=voxels, slope=image.slope, intercept=image.intercept, affine=affine[:, order])


def _spacing(image: Image) -> tuple[float, float, float]:
    slices, rows, columns = np.linalg.norm(image.affine[:3, :3], axis=0)
    return float(slices), float(rows), float(columns)


def _check_same_grid(exam: ExamRecord, sequence: str, image: Image, first: str, other: Image) -> None:
    path = exam.files[sequence]
    if image.voxels.shape != other.voxels.shape:
        sizes = ["x".join(map(str, each.voxels.shape[::-1])) for each in (image, other)]
        detail = f": {sizes[0]} voxels, {first} has {sizes[1]}"
        raise _fault(exam, f"{sequence} is of another size than {first}", path, detail)
    corners = np.array(np.meshgrid(*([0, size - 1] for size in image.voxels.shape))).reshape(3, -1)
    difference = image.affine - other.affine
    apart = float(np.linalg.norm(difference[:3, :3] @ corners + difference[:3, 3:], axis=0).max())
    if apart > 0.5 * min(_spacing(other)):
        detail = f": corners up to {apart:.2f} mm apart"
        raise _fault(exam, f"{sequence} is not on the voxel grid of {first}", path, detail)


def _cover(image: Image) -> tuple[slice, ...]:
    """The voxels between the first and the last plane of each axis that is not wholly zero; all, if all are.

    Planes are looked at from both ends, so that an image without padding costs six planes.
    """
    box, zero = image.voxels, -image.intercept / image.slope
    cover: list[slice] = []
    for axis in range(3):
        planes = np.moveaxis(box, axis, 0)
        first = next((place for place, plane in enumerate(planes) if (plane != zero).any()), None)
        if first is None:
            return tuple(slice(0, size) for size in image.voxels.shape)
        last = next(place for place in range(len(planes) - 1, -1, -1) if (planes[place] != zero).any())
        cover.append(slice(first, last + 1))
        box = np.moveaxis(planes[first : last + 1], 0, axis)
    return tuple(cover)


def _axis(cover: slice, spacing: float, points: int, step: float) -> Axis:
    """Grid points `step` mm apart, centred on some of an axis' voxels, `spacing` mm apart."""
    size = cover.stop - cover.start
    ratio = step / spacing
    start = (size - 1) / 2 - ratio * (points - 1) / 2
    if abs(ratio - 1) < SAME_SPACING:
        ratio, start = 1.0, float(np.floor((size - points) / 2))
    at = start + ratio * np.arange(points)
    inside = points_within(at, size)
    if not inside.size:  # an image thinner than the grid's step lies between two points: take its middle
        inside = np.array([(points - 1) // 2])
        at[inside] = (size - 1) / 2
    axis = place_points(at, size, inside)
    return replace(axis, low=axis.low + cover.start)


def _resample(exam: ExamRecord, sequence: str, image: Image, axes: tuple[Axis, ...]) -> np.ndarray:
    """float32 values at the grid points inside the image; touches only the voxels it needs."""
    box = image.voxels[tuple(axis.crop for axis in axes)]
    with np.errstate(over="ignore", invalid="ignore"):
        for number, axis in enumerate(axes):
            box = interpolate(box, number, axis.low - axis.low[0], axis.weight)
        box = np.ascontiguousarray(box, np.float32)
        if (image.slope, image.intercept) != (1.0, 0.0):
            box = box * np.float32(image.slope) + np.float32(image.intercept)
        span = box.max() - box.min()
    if not np.isfinite(span):
        raise _fault(exam, f"{sequence}: values beyond the range of float32", exam.files[sequence])
    return box


def _fault(exam: ExamRecord, fact: str, path: Path | None, detail: str = "") -> DataError:
    where = "" if path is None else f" ({path})"
    return DataError(f"exam '{exam.uid}': {fact}{detail}{where}", public=fact)
