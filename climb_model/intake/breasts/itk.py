"""Images and grids as SimpleITK knows them, in RAS+ millimetres throughout."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
import SimpleITK as sitk

from climb_model.data.nifti import Image
from climb_model.intake.breasts.resampling import Grid, spacing_mm


@contextmanager
def one_thread() -> Generator[None]:
    """SimpleITK works in one thread inside; a registration's metric heeds this global number alone."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def resample_by(image: Image, grid: Grid, transform: sitk.Transform | None) -> tuple[np.ndarray, np.ndarray]:
    """Linear interpolation of an image at a grid's points, moved by a transform; one thread.

    Args:
        transform: from the grid's points to the image's, in mm; None leaves them.

    Returns:
        (column, row, slice) float32 values, zeros outside; and which points lie within the image.
    """
    moved = sitk.Transform(3, sitk.sitkIdentity) if transform is None else transform
    voxels = image.voxels.astype(np.float32) * np.float32(image.slope) + np.float32(image.intercept)
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)
    resampler.SetSize(grid.shape)
    resampler.SetOutputSpacing(spacing_mm(grid.affine))
    resampler.SetOutputOrigin(grid.affine[:3, 3].tolist())
    resampler.SetOutputDirection(_direction(grid.affine))
    resampler.SetTransform(moved)
    resampler.SetInterpolator(sitk.sitkLinear)
    outside = float(np.finfo(np.float32).min)
    resampler.SetDefaultPixelValue(outside)
    values = from_itk(resampler.Execute(to_itk(voxels, image.affine)))
    within = values != np.float32(outside)
    return np.where(within, values, np.float32(0)), within


def to_itk(voxels: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """A SimpleITK image of voxels (column, row, slice)."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(voxels.transpose(2, 1, 0)))
    image.SetSpacing(spacing_mm(affine))
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection(_direction(affine))
    return image


def from_itk(image: sitk.Image) -> np.ndarray:
    """Voxels (column, row, slice); vectors stay last."""
    voxels = sitk.GetArrayFromImage(image)
    return voxels.transpose(2, 1, 0, *range(3, voxels.ndim))


def _direction(affine: np.ndarray) -> list[float]:
    return (affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)).ravel().tolist()
