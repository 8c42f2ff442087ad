"""Motion between the phases of one breast: measured always, corrected on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from climb_model.data.exam import DataError
from climb_model.data.nifti import Image
from climb_model.intake.breasts.resampling import Grid, Values
from configs.errors import SettingsError

METHODS = ("none", "rigid", "deformable", "convexadam")
SKIN_MM = 3.0
"""Air in front of the skin that counts as breast: its edge shows motion best."""
FEW_VOXELS = 1000
"""A region with fewer voxels of 1.4 x 1.4 x 3 mm is no breast to measure in."""
LEAST_GAIN = 0.005
"""In similarity, for a correction to be kept: interpolation alone changes it by about a tenth of this."""
FOLDED = 0.1
"""A deformation that shrinks some tissue below this share of its volume is rejected."""
UNLIKE_PRE = "edges lie elsewhere than in Pre, the patient may have moved: look at it, or try --motion"
LOW_SIMILARITY = 0.65
"""A phase below it is told. Six drawn breasts of each of four hospitals: 0.83 to 0.94 at rest (with twice
the noise from 0.71 on), 0.69 to 0.79 after a shift of 2.8 mm, 0.48 to 0.62 after 5.4 mm, 0.26 to 0.40 after
8.5 mm. No claim about patients."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of one breast, and how well it lies on Pre."""

    values: Values = field(repr=False)
    figures: dict[str, Any]
    """`before`, `after`: similarity to Pre. `mean_mm`, `largest_mm`: displacement within the breast.
    `smallest_volume`: what is left of the most shrunken tissue. `kept`: whether the correction is."""


def check_motion(method: str) -> None:
    """Refuse a correction that is unknown or not installed.

    Raises:
        SettingsError: unknown.
        DataError: its package is missing.
    """
    if method not in METHODS:
        raise SettingsError(f"motion must be one of {', '.join(METHODS)}, got '{method}'")
    if method == "convexadam" and find_spec("convexAdam") is None:
        fact = "motion 'convexadam' needs the package convexAdam: pip install 'climb-federated[motion]'"
        raise DataError(fact, fact)


def breast_region(
    front: Int[np.ndarray, "column slice"], wall: float, grid: Grid
) -> Bool[np.ndarray, "column2 row2 slice"]:
    """Voxels of `halve`d images between the chest wall and just before the skin.

    Args:
        front: row of the skin per column and slice, both on a multiple of the grid's spacing.
        wall: row behind which the chest is, on the grid.
        grid: of one breast.
    """
    columns, rows = grid.shape[0] // 2, grid.shape[1] // 2
    front = front.repeat(-(-columns // len(front)), axis=0)[:columns]
    row = 2 * np.arange(rows)[None, :, None] + 0.5
    margin = SKIN_MM / float(np.linalg.norm(grid.affine[:3, 1]))
    return (row >= wall) & (row <= front[:, None] + margin)


def halve(voxels: Float[np.ndarray, "column row slice"]) -> Float[np.ndarray, "column2 row2 slice"]:
    """Means of 2 x 2 voxels in the plane of columns and rows."""
    rows = voxels[::2] + voxels[1::2]
    return (rows[:, ::2] + rows[:, 1::2]) * np.float32(0.25)


def halved_grid(grid: Grid) -> Grid:
    """The grid of a `halve`d image."""
    affine = grid.affine @ np.diag([2.0, 2.0, 1.0, 1.0])
    affine[:3, 3] += grid.affine[:3, :2].sum(axis=1) / 2
    return Grid(affine=affine, shape=(grid.shape[0] // 2, grid.shape[1] // 2, grid.shape[2]))


def similarity(
    fixed: Float[np.ndarray, "column row slice"],
    moving: Float[np.ndarray, "column row slice"],
    region: Bool[np.ndarray, "column row slice"],
) -> float:
    """Normalised correlation of the in-plane gradients, from -1 to 1; 0 where one is flat.

    Edges stay where they are when contrast agent arrives; intensities do not.
    """
    product, first, second = 0.0, 0.0, 0.0
    for axis in (0, 1):
        one, other = (np.gradient(image, axis=axis)[region] for image in (fixed, moving))
        product += float(one @ other)
        first += float(one @ one)
        second += float(other @ other)
    scale = (first * second) ** 0.5
    return product / scale if scale > 0 else 0.0


def match_phase(
    pre: Values,
    post: Values,
    image: Image,
    grid: Grid,
    region: Bool[np.ndarray, "column row slice"],
    method: str,
) -> Phase:
    """Measure how a phase lies on Pre, and correct it if asked.

    The correction is estimated on halved images within the region, and the phase then interpolated once
    from its own voxels. Seeds are fixed and one thread works: the same files give the same result. A
    correction that is hardly better, or that folds tissue, is rejected, and the figures say so.

    Args:
        pre: of one breast, on `grid`.
        post: the phase as it lies, on `grid`.
        image: the phase's native image.
        grid: of the breast.
        region: of `breast_region`.
        method: one of `METHODS`, checked.
    """
    if int(region.sum()) < FEW_VOXELS:
        return Phase(values=post, figures={"before": None, "reason": "too little of a breast to measure in"})
    fixed, moving = halve(pre.voxels), halve(post.voxels)
    before = similarity(fixed, moving, region)
    figures: dict[str, Any] = {"before": round(before, 4)}
    if method == "none":
        return Phase(values=post, figures=figures)
    from climb_model.intake.breasts.itk import resample_by
    from climb_model.intake.breasts.registration import displacement, register

    transform = register(fixed, moving, halved_grid(grid), region, method)
    if transform is None:
        return Phase(values=post, figures=figures | {"kept": False, "reason": "the registration failed"})
    voxels, within = resample_by(image, grid, transform)
    after = similarity(fixed, halve(voxels), region)
    length, volume = displacement(transform, halved_grid(grid))
    figures |= {
        "after": round(after, 4),
        "mean_mm": round(float(length[region].mean()), 2),
        "largest_mm": round(float(length[region].max()), 2),
        "smallest_volume": round(float(volume[region].min()), 2),
    }
    if after < before + LEAST_GAIN:
        return Phase(values=post, figures=figures | {"kept": False, "reason": "hardly better than without"})
    if volume[region].min() < FOLDED:
        return Phase(values=post, figures=figures | {"kept": False, "reason": "it folds tissue"})
    return Phase(values=Values(voxels=voxels, within=within), figures=figures | {"kept": True})


def motion_notices(phases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What the site should hear of an exam's motion: one line a kind, its figures in brackets behind.

    Args:
        phases: `Post_1 left` and so on to the figures of that `Phase`.
    """
    told: dict[str, list[str]] = {}
    for name, figures in phases.items():
        if figures["before"] is None:
            told.setdefault("motion not measured", []).append(f"{name}: {figures['reason']}")
            continue
        kept = figures.get("kept")
        if kept is not None:
            kind = "motion corrected" if kept else f"motion not corrected, {figures['reason']}"
            told.setdefault(kind, []).append(f"{name}: {_in_words(figures)}")
        similar = figures["after"] if kept else figures["before"]
        if similar < LOW_SIMILARITY:
            told.setdefault(UNLIKE_PRE, []).append(f"{name}: similarity {similar:.2f}")
    return [f"{kind} ({'; '.join(items)})" for kind, items in told.items()]


def _in_words(figures: Mapping[str, Any]) -> str:
    if "after" not in figures:
        return f"similarity {figures['before']:.2f}"
    return (
        f"similarity {figures['before']:.2f} to {figures['after']:.2f}, mean {figures['mean_mm']:.1f} mm, "
        f"largest {figures['largest_mm']:.1f} mm, smallest volume {figures['smallest_volume']:.2f}"
    )
