"""Linear interpolation axis by axis, for grids whose axes are parallel to an image's own."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

SAME_SPACING = 1e-4
"""Spacings whose ratio is this close to 1 are equal: voxels are copied."""


@dataclass(frozen=True)
class Axis:
    """Where a grid's points of one axis fall between the voxels of an image."""

    inside: slice
    """Grid points within the image."""

    low: np.ndarray = field(repr=False)
    """Voxel below each of these points, and the weight of the voxel above it."""

    weight: np.ndarray = field(repr=False)

    @property
    def crop(self) -> slice:
        """The voxels that these points need."""
        return slice(int(self.low[0]), int(self.low[-1]) + (2 if self.weight.any() else 1))


def place_points(at: np.ndarray, size: int, inside: np.ndarray) -> Axis:
    """The axis of points that lie `at` voxels from the first of `size`; those numbered `inside` count.

    Args:
        at: (point,) ascending.
        inside: neighbouring points, at least one.
    """
    at = np.clip(at[inside], 0, size - 1)
    low = at.astype(np.intp)
    return Axis(slice(int(inside[0]), int(inside[-1]) + 1), low, (at - low).astype(np.float32))


def points_within(at: np.ndarray, size: int) -> np.ndarray:
    """Numbers of the points that lie within `size` voxels; a voxel reaches half a step to both sides."""
    return np.flatnonzero((at > -0.5 - 1e-6) & (at < size - 0.5 + 1e-6))


def interpolate(box: np.ndarray, axis: int, low: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values between `low` and the next voxel of one axis; float32, or the box's own type if only copied."""
    if len(low) == box.shape[axis] and not weight.any():
        return box
    below = box.take(low, axis)
    if not weight.any():
        return below
    below = below.astype(np.float32)
    above = box.take(np.minimum(low + 1, box.shape[axis] - 1), axis).astype(np.float32)
    shape = [1, 1, 1]
    shape[axis] = -1
    above -= below
    above *= weight.reshape(shape)
    above += below
    return above
