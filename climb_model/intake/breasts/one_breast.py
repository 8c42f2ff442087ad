"""One breast of an exam: its sequences on one grid, the subtraction, what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from climb_model.data.nifti import Image
from climb_model.intake.breasts.motion import match_phase
from climb_model.intake.breasts.resampling import Grid, Values

FEW_SHARE = 0.25
"""A sequence that covers less of Pre's part of a breast is left out."""

CONSTANT_SHARE = 0.95
"""A sequence with one value in more of a breast's voxels is constant there."""


@dataclass(frozen=True, kw_only=True)
class SideVolume:
    """One sequence of one breast."""

    voxels: np.ndarray = field(repr=False)
    """(column, row, slice) int16 or float32, towards the patient's right, front and head."""

    affine: np.ndarray
    """(4, 4) index of column, row, slice to RAS+ millimetres."""


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """One sequence on the grid of the whole field."""

    image: Image = field(repr=False)
    values: Values = field(repr=False)
    whole: bool
    """Whether its native values are whole numbers."""


def in_order(name: str) -> tuple[str, int]:
    """Post_2 before Post_10."""
    stem, _, number = name.partition("_")
    return stem, int(number or 0)


def cut_side(
    fields: Mapping[str, Sequence], part: Grid, columns: slice, region: np.ndarray, motion: str
) -> tuple[dict[str, SideVolume], dict[str, Any]]:
    """The sequences of one breast, and their figures: coverage, motion, what was left out."""
    halves = {
        name: Values(voxels=each.values.voxels[columns], within=each.values.within[columns])
        for name, each in fields.items()
    }
    pre = halves["Pre"]
    figures: dict[str, Any] = {"covered": {}, "left_out": {}, "motion": {}}
    if _constant(pre, region):
        return {}, figures | {"left_out": {"Pre": "constant"}}
    kept = {"Pre": pre}
    for name, values in halves.items():
        if name == "Pre":
            continue
        share = float((values.within & pre.within).sum() / pre.within.sum())
        figures["covered"][name] = round(share, 3)
        if share < FEW_SHARE:
            figures["left_out"][name] = f"covers {share:.0%} of Pre's field"
        elif _constant(values, region):
            figures["left_out"][name] = "constant"
        elif name == "T2":
            kept[name] = _within_pre(values, pre)
        else:
            phase = match_phase(pre, _within_pre(values, pre), fields[name].image, part, region, motion)
            kept[name] = _within_pre(phase.values, pre)
            figures["motion"][name] = phase.figures
    whole = {name: fields[name].whole for name in kept}
    if "Post_1" in kept:
        kept["Sub_1"] = _difference(kept["Post_1"], pre)
        whole["Sub_1"] = whole["Post_1"] and whole["Pre"]
        if _constant(kept["Sub_1"], region):
            figures["left_out"]["Sub_1"] = "Post_1 equals Pre"
            del kept["Sub_1"]
    volumes = {
        name: SideVolume(voxels=_stored(values.voxels, whole[name]), affine=part.affine)
        for name, values in sorted(kept.items(), key=lambda item: in_order(item[0]))
    }
    return volumes, figures


def _constant(values: Values, region: np.ndarray) -> bool:
    """Whether nearly all of the breast has one value: the other breast's edge may reach into a half."""
    inner = values.voxels[::2, ::2][region & values.within[::2, ::2]]
    if not inner.size:
        inner = values.voxels[values.within]
    return inner.size == 0 or float((inner == np.median(inner)).mean()) > CONSTANT_SHARE


def _within_pre(values: Values, pre: Values) -> Values:
    """Zeros where Pre ends, so that all sequences end there."""
    if not (values.within > pre.within).any():
        return values
    return Values(voxels=values.voxels * pre.within, within=values.within & pre.within)


def _difference(post: Values, pre: Values) -> Values:
    """Post - Pre where both are; a phase has been cut to Pre before."""
    voxels = post.voxels - pre.voxels
    if (pre.within > post.within).any():
        voxels *= post.within
    return Values(voxels=voxels, within=post.within)


def _stored(voxels: np.ndarray, whole: bool) -> np.ndarray:
    """Rounded to int16 where the source holds whole numbers and they fit, else as they are."""
    limits = np.iinfo(np.int16)
    if not whole or voxels.min() < limits.min or voxels.max() > limits.max:
        return voxels
    return np.rint(voxels).astype(np.int16)
