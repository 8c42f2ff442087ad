"""An image in the closest anatomical axes, and its values on another grid in one interpolation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

from climb_model.data.interpolation import SAME_SPACING, Axis, interpolate, place_points, points_within
from climb_model.data.nifti import Image

_SAME_POINT = 1e-3
"""Grid points this close to a voxel, in voxels, are that voxel: rounding of affines must not blur."""
_PARALLEL = 0.05
"""Largest drift of parallel axes over the whole grid, in voxels."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Points in the patient."""

    affine: np.ndarray
    """(4, 4) index of column, row, slice to RAS+ millimetres."""

    shape: tuple[int, int, int]
    """column, row, slice."""


@dataclass(frozen=True, kw_only=True)
class Values:
    """An image's values on a grid."""

    voxels: np.ndarray
    """(column, row, slice) float32; zeros outside the image."""

    within: np.ndarray
    """(column, row, slice) bool: which points lie within the image, half a voxel around it included."""


def turn_canonical(image: Image) -> Image:
    """The image with its axes reordered and flipped towards right, front and head; voxels are not copied.

    An oblique image is not rotated: its axes are named after the closest anatomical ones.
    """
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(("R", "A", "S")))
    affine = image.affine @ inv_ornt_aff(turn, image.voxels.shape)
    voxels = apply_orientation(image.voxels, turn)
    return Image(voxels=voxels, slope=image.slope, intercept=image.intercept, affine=affine)


def spacing_mm(affine: np.ndarray) -> tuple[float, float, float]:
    """Distance of neighbouring voxels along column, row, slice."""
    first, second, third = np.linalg.norm(affine[:3, :3], axis=0)
    return float(first), float(second), float(third)


def lay_grid(
    image: Image, first_mm: tuple[float, ...], step_mm: tuple[float, ...], shape: tuple[int, int, int]
) -> Grid:
    """A grid along the axes of an image.

    Where the image's spacing already is the grid's, its points are voxels: moved by half a voxel at most.

    Args:
        image: in any orientation.
        first_mm: the grid's first point, in mm along each axis from the centre of the image's first voxel.
        step_mm: spacing of the grid.
        shape: number of points.
    """
    spacing = np.array(spacing_mm(image.affine))
    ratio, first = np.array(step_mm) / spacing, np.array(first_mm) / spacing
    same = np.abs(ratio - 1) < SAME_SPACING
    ratio[same], first[same] = 1.0, np.rint(first[same])
    affine = image.affine @ np.diag([*ratio, 1.0])
    affine[:3, 3] = image.affine[:3, :3] @ first + image.affine[:3, 3]
    return Grid(affine=affine, shape=shape)


def part_of(grid: Grid, columns: slice) -> Grid:
    """Some neighbouring columns of a grid."""
    affine = grid.affine.copy()
    affine[:3, 3] += affine[:3, 0] * columns.start
    return Grid(affine=affine, shape=(columns.stop - columns.start, *grid.shape[1:]))


def resample(image: Image, grid: Grid) -> Values:
    """Linear interpolation without smoothing, straight from the image's own voxels.

    Axis by axis where the axes are parallel, else by SimpleITK. Values beyond float32 become infinite.
    """
    axes = _axes(image, grid)
    if axes is None:
        from climb_model.intake.breasts.itk import resample_by

        voxels, within = resample_by(image, grid, None)
        return Values(voxels=voxels, within=within)
    voxels = np.zeros(grid.shape[::-1], np.float32).transpose()  # slices apart in memory, as in most files
    within = np.zeros(grid.shape[::-1], np.bool_).transpose()
    if all(axis.low.size for axis in axes):
        inside = tuple(axis.inside for axis in axes)
        with np.errstate(over="ignore", invalid="ignore"):
            _fill(voxels[inside], image, axes)
        within[inside] = True
    return Values(voxels=voxels, within=within)


def _fill(values: np.ndarray, image: Image, axes: tuple[Axis, Axis, Axis]) -> None:
    """Interpolate plane by plane along the axis whose voxels lie farthest apart: planes fit the cache."""
    slow, *others = sorted(range(3), key=lambda axis: -abs(image.voxels.strides[axis]))
    order = [slow, *others]
    box = image.voxels[tuple(axis.crop for axis in axes)].transpose(order)
    planes = values.transpose(order)
    along = axes[slow]
    for number, (low, weight) in enumerate(zip(along.low - along.low[0], along.weight, strict=True)):
        plane = interpolate(box[low : low + 2], 0, np.zeros(1, np.intp), np.array([weight]))
        for place, axis in enumerate(axes[each] for each in others):
            plane = interpolate(plane, place + 1, axis.low - axis.low[0], axis.weight)
        planes[number] = _scaled(plane[0], image)


def _scaled(values: np.ndarray, image: Image) -> np.ndarray:
    if (image.slope, image.intercept) == (1.0, 0.0):
        return values
    return values * np.float32(image.slope) + np.float32(image.intercept)


def _axes(image: Image, grid: Grid) -> tuple[Axis, Axis, Axis] | None:
    """Where the grid's points fall on each of the image's axes; None if the axes are not parallel."""
    between = np.linalg.solve(image.affine, grid.affine)  # grid index to image index
    drift = np.abs(between[:3, :3] - np.diag(np.diag(between)[:3])) @ np.array(grid.shape)
    if drift.max() > _PARALLEL:
        return None
    axes: list[Axis] = []
    for axis, (size, points) in enumerate(zip(image.voxels.shape, grid.shape, strict=True)):
        at = between[axis, 3] + between[axis, axis] * np.arange(points)
        near = np.rint(at)
        at = np.where(np.abs(at - near) < _SAME_POINT, near, at)
        inside = points_within(at, size)
        none = Axis(slice(0, 0), np.zeros(0, np.intp), np.zeros(0, np.float32))
        axes.append(place_points(at, size, inside) if inside.size else none)
    return axes[0], axes[1], axes[2]
