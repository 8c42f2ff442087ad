"""Both breasts of a patient in one volume, as a scanner would have taken it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from scipy.ndimage import affine_transform

from climb_model.data.exam import DataError
from climb_model.data.nifti import Image, NiftiError, read_nifti

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS+ to LPS+ and back."""

_FINER, _COARSER = 0.8, 1.25


@dataclass(frozen=True)
class Grid:
    """Voxels and where they lie."""

    voxels: np.ndarray = field(repr=False)
    """(column, row, slice) of whole numbers."""

    affine: np.ndarray = field(repr=False)
    """(4, 4) index of column, row, slice to millimetres in DICOM's axes: left, back, head."""


def join_breasts(
    right: Mapping[str, Path], left: Mapping[str, Path], table_mm: tuple[float, float, float]
) -> dict[str, Grid]:
    """Pre, Sub and T2 of both breasts side by side, the right one at the patient's right.

    A sequence that one breast lacks is zero there; one that both lack is missing.

    Args:
        right: sequence to file.
        left: likewise; of the same size and place as the right breast's.
        table_mm: offset of the whole exam towards left, back and head.

    Raises:
        DataError: breasts on different grids, or a file that cannot be read.
    """
    images = [{name: _read(path) for name, path in side.items()} for side in (right, left)]
    first = images[0]["Pre"]
    for image in (one for side in images for one in side.values()):
        if image.voxels.shape != first.voxels.shape or not np.array_equal(image.affine, first.affine):
            fact = "make-dicom: the sequences of a patient lie on different grids"
            raise DataError(fact, fact)
    affine = _LPS @ first.affine
    if (np.abs(affine[:3, :3] - np.diag(np.diag(affine)[:3])) > 0).any() or (np.diag(affine) <= 0).any():
        fact = "make-dicom: wanted volumes whose axes run to the left, back and head"
        raise DataError(fact, fact)
    width = affine[0, 0] * first.voxels.shape[0]
    affine[:3, 3] += np.array(table_mm) - [width / 2, 0, 0]
    joined: dict[str, Grid] = {}
    for name in ("Pre", "Sub", "T2"):
        halves = [side[name].voxels if name in side else np.zeros_like(first.voxels) for side in images]
        if any(name in side for side in images):
            joined[name] = Grid(np.concatenate(halves), affine)
    return joined


def half_width_mm(joined: Grid) -> float:
    """How far a breast's own centre lies beside the centre of the joined volume."""
    return float(joined.affine[0, 0]) * joined.voxels.shape[0] / 4


def phases(pre: Grid, sub: Grid, num_posts: int, rng: np.random.Generator) -> list[Grid]:
    """Pre, Post_1 = Pre + Sub exactly, and later phases in which the enhancement washes out or stays."""
    shares = [0.0, 1.0, *np.cumprod(rng.uniform(0.86, 1.02, num_posts - 1))]
    difference = sub.voxels.astype(np.int32)
    found = [pre.voxels + np.round(share * difference).astype(np.int32) for share in shares]
    return [Grid(voxels, pre.affine) for voxels in found]


def t2_on(grid: Grid, how: Literal["same", "finer", "coarser", "sagittal"]) -> Grid:
    """T2 as that hospital acquires it."""
    if how == "same":
        return grid
    if how == "sagittal":
        return turned(grid, (1, 2, 0), (1, -1, 1))
    scale = _FINER if how == "finer" else _COARSER
    step = np.array([scale, scale, 1.0])
    size = np.array(grid.voxels.shape)
    shape = np.floor((size - 1) / step).astype(int) + 1
    begin = (size - 1 - (shape - 1) * step) / 2
    place = np.diag([*step, 1.0])
    place[:3, 3] = begin
    values = affine_transform(grid.voxels.astype(np.float64), place, output_shape=tuple(shape), order=1)
    return Grid(np.round(values).astype(np.int32), grid.affine @ place)


def turned(grid: Grid, axes: tuple[int, int, int], signs: tuple[int, int, int]) -> Grid:
    """The same voxels in the same places, with other axes: `axes` says which old axis each new one is."""
    voxels = grid.voxels.transpose(axes)
    affine = grid.affine[:, [*axes, 3]].copy()
    for place, sign in enumerate(signs):
        if sign < 0:
            voxels = np.flip(voxels, place)
            affine[:3, 3] += affine[:3, place] * (voxels.shape[place] - 1)
            affine[:3, place] *= -1
    return Grid(np.ascontiguousarray(voxels), affine)


def _read(path: Path) -> Image:
    try:
        return read_nifti(path)
    except NiftiError as error:
        raise DataError(f"make-dicom: {path}: {error}", public=f"make-dicom: {error}") from None
