"""One volume of a parquet row, written as a NIfTI file."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from climb_model.atomic import write_atomic
from climb_model.data.nifti import read_nifti
from climb_model.data.nifti_header import NiftiError, farthest_corner_mm
from climb_model.intake.parquet.cells import affine_of, check_extent, compact, image_of, nifti_of
from climb_model.intake.sequences.native import nifti_bytes
from climb_model.intake.study import SeriesError


def write_volume(image: Any, affine: Any | None, path: Path) -> dict[str, Any]:
    """Write a cell's image with the affine of another; returns what was written.

    Args:
        image: pyarrow scalar that is not null: numbers, a `.npy` file or a NIfTI file, which has its own
            affine.
        affine: pyarrow scalar, or None without such a column.

    Raises:
        SeriesError: an image or affine that cannot be used, or two affines that contradict each other.
    """
    told = affine_of(affine) if affine is not None and affine.is_valid else None
    content = nifti_of(image)
    if content is None:
        voxels = image_of(image)
        if told is None:
            raise SeriesError("no affine")
        place = told
    else:
        voxels, place = _embedded(content, path)
        if told is not None and farthest_corner_mm(told, place, voxels.shape) > 0.5 * _finest_mm(place):
            raise SeriesError("its affine column contradicts the affine in its file")
    check_extent(voxels.shape, place)
    packed = nifti_bytes(voxels, place)
    write_atomic(path, packed)
    try:
        read_nifti(path)
    except NiftiError as error:  # an affine that is sheared, or of an impossible spacing
        raise SeriesError(str(error)) from None
    return {"sha256": hashlib.sha256(packed).hexdigest(), "dtype": voxels.dtype.name, "shape": voxels.shape}


def _finest_mm(affine: np.ndarray) -> float:
    return float(np.linalg.norm(affine[:3, :3], axis=0).min())


def _embedded(content: bytes, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine of a NIfTI file in a cell; only they are kept of it."""
    path.write_bytes(content)
    try:
        image = read_nifti(path)
    except NiftiError as error:
        raise SeriesError(str(error)) from None
    voxels = image.voxels
    if (image.slope, image.intercept) != (1.0, 0.0):
        with np.errstate(over="ignore", invalid="ignore"):
            voxels = (voxels * np.float64(image.slope) + image.intercept).astype(np.float32)
    if not np.isfinite(voxels).all():
        raise SeriesError("voxels that are not finite (NaN or infinite)")
    return compact(voxels), image.affine
