"""Where the breasts lie in an image: the midline between them, their front, their middle slice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from climb_model.data.nifti import Image
from climb_model.intake.breasts.resampling import spacing_mm
from climb_model.intake.study import SeriesError

_COARSE_MM = 3.0
_FEW_COARSE = 3
"""A contour needs as many voxels of about 3 mm along each axis."""
_SHADE = 0.02
"""Intensities are compared as log(1 + v / shade), the shade being this share of their range."""
_PAIR_WIDTH_MM = 200.0
"""A body that shows two breasts is at least as wide."""
_PAIR_APART_MM = 80.0
"""The fronts of two breasts are at least as far apart."""
_VALLEY_MM = 8.0
"""Two breasts stand out at least as far before the sternum between them."""
_HUMP_MM = 15.0
"""One breast stands out at least as far before the chest wall beside it."""
_FEW_TOUCH = 0.1
"""A body that reaches the image's front in a larger share of its columns has swallowed the air."""
_CENTRAL = 0.25
"""The midline is sought within this share of the body's width from its middle."""
_FOOT = 0.25
"""The valley's edges are where the contour has climbed this share of a breast's height."""


@dataclass(frozen=True, kw_only=True)
class Breasts:
    """Where the breasts lie, in mm along the image's axes from the centre of its first voxel."""

    pair: bool
    """Whether both breasts are in the field of view."""

    middle_mm: float
    """Along columns: the midline of a pair, the middle of one breast."""

    front_mm: float
    """Along rows: the foremost point of the breasts."""

    wall_mm: float
    """Along rows: the skin before the sternum, or beside one breast."""

    centre_mm: float
    """Along slices: the middle of what stands out before `wall_mm`."""

    profile: np.ndarray
    """(slice, 2): position along slices and how much of the breasts lies there, sum 1."""

    notices: tuple[str, ...] = ()


def find_breasts(image: Image, side: str = "") -> Breasts:
    """Find the breasts by the front contour of the body.

    Neither the intensity scale nor fat saturation matters: the body is what Otsu's threshold of the
    logarithm separates from air. The midline is the middle of the valley between the two humps of the
    contour, in the slices where they stand out most.

    Args:
        image: before contrast agent, finite, its axes towards right, front and head.
        side: `L` or `R` where the files tell one; needed if there is only one hump.

    Raises:
        SeriesError: a single slice, no air in front, no hump, or one hump and no side told.
    """
    coarse, step, first = _coarse(image)
    if min(coarse.shape) < _FEW_COARSE:
        thin = min(n * mm for n, mm in zip(image.voxels.shape, spacing_mm(image.affine), strict=True))
        raise SeriesError(f"no breasts found: Pre is only {thin:.0f} mm thick")
    body = find_body(coarse)
    front = find_front(body) * step[1]
    columns = _columns(body)
    between = (columns.stop - columns.start) * step[0]
    found = _valley(front, columns, step) if between >= _PAIR_WIDTH_MM else None
    notices: tuple[str, ...] = ()
    if found is not None and not _closed(body, *found):
        raise SeriesError("no breasts found: the two humps have no body between them")
    if found is not None:
        column, slices = found
        pair, wall = (
            True,
            float(np.interp(column, np.arange(len(front)), np.median(front[:, slices], axis=1))),
        )
    else:
        pair, column, wall = _one_hump(front, columns, step, side)
        if pair:
            notices = ("no valley between two breasts: cut at the middle of the body",)
    profile = np.clip(front - wall, 0, None)[columns].sum(axis=0)
    at = first[2] + step[2] * np.arange(len(profile))
    profile = profile / profile.sum()
    return Breasts(
        pair=pair,
        middle_mm=first[0] + step[0] * column,
        front_mm=first[1] + float(front.max()),
        wall_mm=first[1] + wall,
        centre_mm=float(at @ profile),
        profile=np.stack([at, profile], axis=1),
        notices=notices,
    )


def _coarse(image: Image) -> tuple[Float[np.ndarray, "column row slice"], np.ndarray, np.ndarray]:
    """About 3 mm a voxel, smoothed; its spacing and first voxel's centre in mm.

    A few voxels of each block stand for all: the smoothing makes up for it.
    """
    voxels, spacing = image.voxels, np.array(spacing_mm(image.affine))
    step = np.array([max(1, round(_COARSE_MM / mm)) for mm in spacing])
    step = np.minimum(step, voxels.shape)
    size = np.array(voxels.shape) // step * step
    second = step[:2] // 2
    box = voxels[: size[0], : size[1], : size[2] : step[2]]
    parts = [box[i :: step[0], j :: step[1]] for i in {0, second[0]} for j in {0, second[1]}]
    mean = np.zeros(parts[0].shape, np.float32)
    for part in parts:
        mean += part
    smooth = ndimage.uniform_filter(mean * np.float32(np.sign(image.slope) / len(parts)), 3)
    return smooth, step * spacing, np.append(second / 2, 0.0) * spacing


def find_body(coarse: Float[np.ndarray, "column row slice"]) -> Bool[np.ndarray, "column row slice"]:
    """The largest connected part above Otsu's threshold of the logarithm.

    First the lower threshold of three classes, as a coil leaves the chest far dimmer than the breasts; if
    that takes noise in front for body, the threshold of two.

    Raises:
        SeriesError: a constant image, values that are not finite, nothing connected.
    """
    low, high = np.percentile(coarse, (1, 99))
    if not np.isfinite(high - low) or high <= low:
        raise SeriesError("no breasts found: Pre is constant or not finite")
    values = np.log1p(np.clip((coarse - low) / (_SHADE * (high - low)), 0, None))
    counts, edges = np.histogram(values, 64)
    lower, only = _otsu(counts, (edges[1:] + edges[:-1]) / 2)
    body = _largest(values > lower)
    return body if _touches_front(body) < _FEW_TOUCH else _largest(values > only)


def _largest(mask: Bool[np.ndarray, "column row slice"]) -> Bool[np.ndarray, "column row slice"]:
    """The largest connected part, without thin threads."""
    mask = ndimage.binary_opening(mask, ndimage.generate_binary_structure(3, 1))
    parts = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=parts)
    if not parts.any():
        raise SeriesError("no breasts found: nothing connected stands out from the background")
    return parts == 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))


def _otsu(counts: np.ndarray, centres: np.ndarray) -> tuple[float, float]:
    """The lower threshold between three classes, and the one between two (Otsu 1979).

    Both make the variance between the classes the largest.
    """
    number = np.append(0.0, np.cumsum(counts))
    total = np.append(0.0, np.cumsum(counts * centres))

    def spread(first: np.ndarray, last: np.ndarray) -> np.ndarray:
        held = number[last] - number[first]
        return (total[last] - total[first]) ** 2 / np.maximum(held, 1)

    begin, cut, end = np.zeros(1, np.intp), np.arange(len(counts) + 1), np.full(1, len(counts))
    two = spread(begin, cut) + spread(cut, end)
    lower, upper = cut[:, None], cut[None, :]
    three = np.where(lower < upper, spread(begin, lower) + spread(lower, upper) + spread(upper, end), 0)
    least = int(np.unravel_index(np.argmax(three), three.shape)[0])
    edges = [centres[max(place - 1, 0)] for place in (least, int(np.argmax(two)))]
    return float(edges[0]), float(edges[1])


def _touches_front(body: Bool[np.ndarray, "column row slice"]) -> float:
    """Share of the columns with body in which it reaches the image's front."""
    return float((find_front(body)[body.any(axis=1)] >= body.shape[1] - 2).mean())


def find_front(body: Bool[np.ndarray, "column row slice"]) -> Int[np.ndarray, "column slice"]:
    """Row of the foremost point of the body per column and slice, 0 where there is none."""
    return np.where(body.any(axis=1), body.shape[1] - 1 - np.argmax(body[:, ::-1], axis=1), 0)


def _columns(body: Bool[np.ndarray, "column row slice"]) -> slice:
    """The columns that the body fills, behind air."""
    hit = body.any(axis=1)
    if _touches_front(body) > 0.5:
        raise SeriesError("no breasts found: no air in front of the body")
    share = hit.mean(axis=1)
    filled = np.flatnonzero(share > 0.1 * share.max())
    return slice(int(filled[0]), int(filled[-1]) + 1)


def _valley(
    front: Float[np.ndarray, "column slice"], columns: slice, step: np.ndarray
) -> tuple[float, np.ndarray] | None:
    """Column of the midline, and the slices where two humps stand out; None where they do not."""
    reach = _CENTRAL * (columns.stop - columns.start)
    middle = (columns.start + columns.stop - 1) / 2
    central = slice(max(int(middle - reach), 0), int(middle + reach) + 1)
    slices = np.arange(front.shape[1])
    depth = _depth(front)[central].max(axis=0)
    if depth.max() < _VALLEY_MM:
        return None
    slices = slices[depth >= depth.max() / 2]
    contour = ndimage.median_filter(np.median(front[:, slices], axis=1), 3)
    depths = _depth(contour[:, None])[:, 0]
    lowest = central.start + int(np.argmax(depths[central]))
    left, right = int(np.argmax(contour[:lowest])), lowest + int(np.argmax(contour[lowest:]))
    if depths[lowest] < _VALLEY_MM or (right - left) * step[0] < _PAIR_APART_MM:
        return None
    edges: list[float] = []
    for peak in (left, right):
        level = contour[lowest] + _FOOT * (contour[peak] - contour[lowest])
        edges.append(_climb(contour, lowest, peak, level))
    return (edges[0] + edges[1]) / 2, slices


def _depth(front: Float[np.ndarray, "column slice"]) -> Float[np.ndarray, "column slice"]:
    """How far the contour lies behind the lower one of its peaks to both sides."""
    left = np.maximum.accumulate(front, axis=0)
    right = np.maximum.accumulate(front[::-1], axis=0)[::-1]
    return np.minimum(left, right) - front


def _climb(contour: np.ndarray, start: int, peak: int, level: float) -> float:
    """Where a contour first reaches a level on the way from its valley to a peak, between columns."""
    way = np.arange(start, peak, 1 if peak > start else -1)
    place = int(np.argmax(contour[way] >= level)) if (contour[way] >= level).any() else len(way) - 1
    here, before = contour[way[place]], contour[way[max(place - 1, 0)]]
    share = (level - before) / (here - before) if here > before else 1.0
    return float(way[max(place - 1, 0)] + share * (way[place] - way[max(place - 1, 0)]))


def _closed(body: Bool[np.ndarray, "column row slice"], column: float, slices: np.ndarray) -> bool:
    """Whether there is body at the midline in most of the slices."""
    return bool(body[round(column)][:, slices].any(axis=0).mean() > 0.5)


def _one_hump(
    front: Float[np.ndarray, "column slice"], columns: slice, step: np.ndarray, side: str
) -> tuple[bool, float, float]:
    """Whether both sides are in view, the column in the middle and the wall in mm, where no valley is."""
    contour = np.percentile(front[columns], 75, axis=1)
    contour = ndimage.median_filter(contour, 3)
    wall, peak = float(np.percentile(contour, 20)), int(np.argmax(contour))
    if contour[peak] - wall < _HUMP_MM:
        raise SeriesError("no breasts found: the front of the body is flat")
    middle = (len(contour) - 1) / 2
    if len(contour) * step[0] >= _PAIR_WIDTH_MM:
        mirrored = contour[len(contour) - 1 - peak]
        if abs(peak - middle) * step[0] < _PAIR_APART_MM / 2 or contour[peak] - mirrored < _HUMP_MM:
            raise SeriesError("no breasts found: the front of the body has no valley between two humps")
        return True, columns.start + middle, wall
    if not side:
        raise SeriesError("one hump in front, not two: one breast or none in the field of view, no side told")
    stands = np.clip(contour - wall, 0, None)
    return False, columns.start + float(np.arange(len(contour)) @ stands / stands.sum()), wall
