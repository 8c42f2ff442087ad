"""Registration of one breast's phase onto Pre by SimpleITK or convexAdam."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from jaxtyping import Bool, Float
from scipy import ndimage

from climb_model.intake.breasts.itk import from_itk, one_thread, to_itk
from climb_model.intake.breasts.resampling import Grid, spacing_mm

SEED = 1
CONTROL_MM = 40.0
"""Between control points of the B-splines: wider than a lesion, which must keep its volume."""
_BINS = 32
_SAMPLES = 0.2
"""Share of the region's voxels that a step looks at."""
_FEW_SAMPLES = 0.05
"""Likewise for B-splines, whose hundreds of coefficients make a step slow."""
_SMOOTH_MM = 8.0
"""convexAdam's displacements are smoothed: as they come, they shrink an enhancing lesion to half."""


def register(
    fixed: Float[np.ndarray, "column row slice"],
    moving: Float[np.ndarray, "column row slice"],
    grid: Grid,
    region: Bool[np.ndarray, "column row slice"],
    method: str,
) -> sitk.Transform | None:
    """The transform from the grid's points to the moving image's, in mm; None where it fails.

    `rigid`: six degrees of freedom, Mattes mutual information. `deformable`: cubic B-splines on top
    (Rueckert et al. 1999). `convexadam`: Siebert et al. 2024, on MIND features.
    """
    if method == "convexadam":
        return _convex_adam(fixed, moving, grid)
    images = to_itk(fixed, grid.affine), to_itk(moving, grid.affine)
    mask = to_itk(region.astype(np.uint8), grid.affine)
    try:
        with one_thread():
            rigid = _rigid(*images, mask)
            return rigid if method == "rigid" else _deformable(*images, mask, rigid, grid)
    except RuntimeError:  # SimpleITK's only exception: too few samples, nothing overlaps
        return None


def displacement(
    transform: sitk.Transform, grid: Grid
) -> tuple[Float[np.ndarray, "column row slice"], Float[np.ndarray, "column row slice"]]:
    """How far each point of a grid is moved in mm, and its volume afterwards (the Jacobian determinant)."""
    image = to_itk(np.zeros(grid.shape, np.uint8), grid.affine)
    field = sitk.TransformToDisplacementField(
        transform,
        sitk.sitkVectorFloat32,
        image.GetSize(),
        image.GetOrigin(),
        image.GetSpacing(),
        image.GetDirection(),
    )
    vectors = from_itk(field)
    axes = grid.affine[:3, :3] / np.array(spacing_mm(grid.affine))
    along = vectors @ axes.astype(np.float32)  # components along the grid's own axes
    slopes = [np.gradient(along, mm, axis=axis) for axis, mm in enumerate(spacing_mm(grid.affine))]
    jacobian = np.stack(slopes, axis=-1) + np.eye(3, dtype=np.float32)
    return np.linalg.norm(vectors, axis=-1), np.linalg.det(jacobian)


def _rigid(fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image) -> sitk.Transform:
    start = sitk.Euler3DTransform()
    start.SetCenter(_centre(mask))
    method = _method(mask, _SAMPLES)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=100, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(start, inPlace=True)
    method.SetShrinkFactorsPerLevel([2, 1])
    method.SetSmoothingSigmasPerLevel([3.0, 1.0])
    method.Execute(fixed, moving)
    return start


def _deformable(
    fixed: sitk.Image, moving: sitk.Image, mask: sitk.Image, rigid: sitk.Transform, grid: Grid
) -> sitk.Transform:
    lengths = np.array(grid.shape) * np.array(spacing_mm(grid.affine))
    mesh = [max(1, round(float(length) / CONTROL_MM)) for length in lengths]
    spline = sitk.BSplineTransformInitializer(fixed, mesh, order=3)
    method = _method(mask, _FEW_SAMPLES)
    method.SetOptimizerAsLBFGSB(
        gradientConvergenceTolerance=1e-4, numberOfIterations=15, maximumNumberOfFunctionEvaluations=25
    )
    method.SetMovingInitialTransform(rigid)
    method.SetInitialTransform(spline, inPlace=True)
    method.SetShrinkFactorsPerLevel([1])
    method.SetSmoothingSigmasPerLevel([1.5])
    method.Execute(fixed, moving)
    return sitk.CompositeTransform([rigid, spline])


def _method(mask: sitk.Image, share: float) -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(_BINS)
    method.SetMetricFixedMask(mask)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(share, SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    return method


def _centre(mask: sitk.Image) -> tuple[float, ...]:
    statistics = sitk.LabelShapeStatisticsImageFilter()
    statistics.Execute(mask)
    return statistics.GetCentroid(1)


def _convex_adam(
    fixed: Float[np.ndarray, "column row slice"], moving: Float[np.ndarray, "column row slice"], grid: Grid
) -> sitk.Transform:
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt  # pyright: ignore[reportMissingImports]

    scale = float(np.percentile(fixed, 99)) or 1.0
    moved = convex_adam_pt(
        torch.from_numpy(fixed / scale),
        torch.from_numpy(moving / scale),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    width = [_SMOOTH_MM / mm for mm in spacing_mm(grid.affine)]
    smooth = ndimage.gaussian_filter(np.asarray(moved, np.float64), width, axes=(0, 1, 2), mode="nearest")
    vectors = smooth @ grid.affine[:3, :3].T
    field = to_itk(np.zeros(grid.shape, np.uint8), grid.affine)
    image = sitk.GetImageFromArray(np.ascontiguousarray(vectors.transpose(2, 1, 0, 3)), isVector=True)
    image.CopyInformation(field)
    return sitk.DisplacementFieldTransform(image)
