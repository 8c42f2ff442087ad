"""Where stacks lie to each other: the same grid, slices or plane, one within the other."""

from __future__ import annotations

import numpy as np

from climb_model.intake.study import Stack

SAME_GRID_MM = 0.1
"""Largest distance between the corners of two stacks that are phases of one dynamic series."""

PLANES = ("sagittal", "coronal", "axial")
_LATTICE = 6
"""Points an axis at which the overlap of two stacks is tried."""


def same_grid(one: Stack, other: Stack) -> bool:
    """Whether the voxels of two stacks lie at the same places."""
    if one.geometry.shape != other.geometry.shape:
        return False
    slices, rows, columns = one.geometry.shape
    corners = np.array(
        [(c, r, s, 1) for c in (0, columns - 1) for r in (0, rows - 1) for s in (0, slices - 1)]
    )
    apart = corners @ (one.geometry.affine - other.geometry.affine).T
    return float(np.abs(apart).max()) <= SAME_GRID_MM


def same_slices(one: Stack, other: Stack) -> bool:
    """Whether the slices of two stacks are of one pile: more than half of the smaller one's are in both."""
    slices, others = one.geometry.shape[0], other.geometry.shape[0]
    if one.geometry.shape[1:] != other.geometry.shape[1:]:
        return False
    size = np.array((*other.geometry.shape[:0:-1], max(slices, others)))  # column, row, slice
    turned = (one.geometry.affine[:3, :3] - other.geometry.affine[:3, :3]) * size
    if float(np.abs(turned).max()) > SAME_GRID_MM:
        return False
    moved = other.geometry.affine[:3, 3] - one.geometry.affine[:3, 3]
    index = np.linalg.solve(one.geometry.affine[:3, :3], moved)
    shift = round(float(index[2]))
    apart = one.geometry.affine[:3, :3] @ (index - (0, 0, shift))
    shared = min(slices, shift + others) - max(0, shift)
    return float(np.abs(apart).max()) <= SAME_GRID_MM and 2 * shared > min(slices, others)


def plane(stack: Stack) -> str:
    """The patient plane closest to the slices."""
    along_row, along_column = stack.geometry.affine[:3, 0], stack.geometry.affine[:3, 1]
    return PLANES[int(np.argmax(np.abs(np.cross(along_row, along_column))))]


def covered(inner: Stack, outer: Stack) -> float:
    """Share of the volume of `inner` that lies within `outer`, from 0 to 1."""
    size = np.array(inner.geometry.shape[::-1])  # column, row, slice
    steps = (np.arange(_LATTICE) + 0.5) / _LATTICE
    points = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3) * size - 0.5
    world = points @ inner.geometry.affine[:3, :3].T + inner.geometry.affine[:3, 3]
    index = (world - outer.geometry.affine[:3, 3]) @ np.linalg.inv(outer.geometry.affine[:3, :3]).T
    inside = (index >= -0.5) & (index <= np.array(outer.geometry.shape[::-1]) - 0.5)
    return float(inside.all(axis=1).mean())
