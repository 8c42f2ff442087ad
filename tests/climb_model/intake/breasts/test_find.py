"""The breasts are found by the body's front contour, whatever the scanner; other things are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from climb_model.data.nifti import Image
from climb_model.data.synthetic import BASE_STYLES
from climb_model.intake.breasts.find import find_breasts
from climb_model.intake.study import SeriesError


def image_of(voxels: np.ndarray, affine: np.ndarray | None = None, slope: float = 1.0) -> Image:
    return Image(voxels=voxels, slope=slope, intercept=0.0, affine=np.eye(4) if affine is None else affine)


def middle_x(exam, image: Image, side: str = "") -> float:
    """The found middle in the patient, towards the right, in mm."""
    return float(exam.affine[0, 3]) + find_breasts(image, side).middle_mm


@pytest.mark.parametrize("style", range(4))
@pytest.mark.parametrize("seed", [1, 2])
def test_the_midline_is_found_within_five_millimetres(draw_exam, style: int, seed: int) -> None:
    exam = draw_exam(seed, midline_mm=17.0, left_seed=seed + 40, style=BASE_STYLES[style])
    found = middle_x(exam, image_of(exam.images["Pre"], exam.affine))
    assert abs(found - 17.0) < 5.0


def test_the_midline_is_found_where_one_side_is_cut_off(draw_exam) -> None:
    exam = draw_exam(3)
    cut = exam.images["Pre"][22:]  # 40 mm of the left side
    found = float(exam.affine[0, 3]) + 22 * 1.8 + find_breasts(image_of(cut, exam.affine)).middle_mm
    assert abs(found) < 5.0


def changed(voxels: np.ndarray, how: str) -> np.ndarray:
    values = voxels.astype(np.float32)
    across = np.linspace(-1, 1, values.shape[0], dtype=np.float32)[:, None, None]
    front = np.linspace(0, 1, values.shape[1], dtype=np.float32)[None, :, None]
    if how == "thousandfold":
        return values * 1000
    if how == "a thousandth":
        return values / 1000
    if how == "bias across":
        return values * np.exp(0.9 * across)
    if how == "coil in front":
        return values * np.exp(2.0 * front - 1)
    if how == "noise":
        noise = np.random.default_rng(0).normal(0, 60, (2, *values.shape)).astype(np.float32)
        return np.hypot(values + noise[0], noise[1])
    if how == "zeroed air":
        return np.where(values > 60, values, 0)
    if how == "offset":
        return values + 500
    assert how == "fat saturated"
    fat = values > 0.62 * 420
    return np.where(fat, values * 0.25, values)


@pytest.mark.parametrize(
    "how",
    [
        "thousandfold",
        "a thousandth",
        "bias across",
        "coil in front",
        "noise",
        "zeroed air",
        "offset",
        "fat saturated",
    ],
)
def test_neither_scale_nor_shading_nor_fat_saturation_moves_the_breasts(draw_exam, how: str) -> None:
    exam = draw_exam(4)
    plain = find_breasts(image_of(exam.images["Pre"], exam.affine))
    found = find_breasts(image_of(changed(exam.images["Pre"], how), exam.affine))
    assert found.pair
    assert abs(found.middle_mm - plain.middle_mm) < 5.0
    assert abs(found.front_mm - plain.front_mm) < 6.0  # two voxels of 3.6 mm, smoothed
    assert abs(found.centre_mm - plain.centre_mm) < 5.0


def test_a_negative_slope_turns_the_intensities_around(draw_exam) -> None:
    exam = draw_exam(4)
    plain = find_breasts(image_of(exam.images["Pre"], exam.affine))
    found = find_breasts(image_of(-exam.images["Pre"], exam.affine, slope=-2.0))
    assert found.middle_mm == plain.middle_mm


def test_the_front_lies_at_the_nipples(draw_exam) -> None:
    exam = draw_exam(5)
    body = exam.images["Pre"] > 100  # drawn with a gain of 420, air at 8 and noise of 13
    rows = np.flatnonzero(body.sum(axis=(0, 2)) > 20)
    found = find_breasts(image_of(exam.images["Pre"], exam.affine))
    assert abs(found.front_mm - rows.max() * 1.8) < 5.0
    assert found.wall_mm < found.front_mm - 60


def test_slices_are_centred_on_the_breasts_not_on_the_image(draw_exam) -> None:
    exam = draw_exam(6)
    lower = np.pad(exam.images["Pre"], ((0, 0), (0, 0), (0, 20)), mode="edge")
    flat = lower.copy()
    wall = int(find_breasts(image_of(exam.images["Pre"], exam.affine)).wall_mm / 1.8)
    flat[:, wall:, 20:] = 8  # only the chest goes on towards the head
    found = find_breasts(image_of(flat, exam.affine))
    assert abs(found.centre_mm - 9.5 * 4) < 8.0  # the breasts fill slices 0 to 19


def one_breast(draw_exam: Callable, side: str) -> np.ndarray:
    voxels = draw_exam(7).images["Pre"]
    half = len(voxels) // 2
    return voxels[:half] if side == "L" else voxels[half:]


@pytest.mark.parametrize("side", ["L", "R"])
def test_one_breast_in_view_needs_a_side(draw_exam, side: str) -> None:
    image = image_of(one_breast(draw_exam, side), np.diag([1.8, 1.8, 4.0, 1.0]))
    with pytest.raises(SeriesError, match="no side told"):
        find_breasts(image)
    found = find_breasts(image, side)
    assert not found.pair
    assert abs(found.middle_mm - 79 * 1.8 / 2) < 8.0


def test_after_a_mastectomy_the_body_is_cut_in_the_middle_and_that_is_told(draw_exam) -> None:
    voxels = draw_exam(8).images["Pre"].copy()
    image = image_of(voxels, np.diag([1.8, 1.8, 4.0, 1.0]))
    wall = int(find_breasts(image).wall_mm / 1.8)
    voxels[:80, wall + 2 :] = 8
    found = find_breasts(image)
    assert found.pair
    assert found.notices == ("no valley between two breasts: cut at the middle of the body",)
    assert abs(found.middle_mm - 79.5 * 1.8) < 5.0


def ellipsoid(size: tuple[int, int, int], radii: tuple[float, float, float], level: float) -> np.ndarray:
    grid = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    inside = sum((axis / radius) ** 2 for axis, radius in zip(grid, radii, strict=True)) < 1
    rng = np.random.default_rng(0)
    return (inside * level + rng.normal(10, 3, size)).astype(np.float32)


@pytest.mark.parametrize(
    ("voxels", "reason"),
    [
        (np.zeros((64, 64, 16), np.int16), "constant"),
        (np.random.default_rng(0).normal(100, 20, (96, 96, 24)).astype(np.float32), "no air in front"),
        (ellipsoid((90, 90, 60), (30, 40, 25), 300.0), "no side told"),  # a head, a bottle
        (ellipsoid((140, 100, 40), (60, 35, 60), 300.0), "no valley between two humps"),  # a belly
        (np.full((64, 64, 16), np.inf, np.float32), "not finite"),
        (np.full((64, 64, 1), 100, np.int16), "only 4 mm thick"),
    ],
    ids=["empty", "noise", "head", "belly", "infinite", "one slice"],
)
def test_what_is_no_breast_is_refused_with_a_reason(voxels: np.ndarray, reason: str) -> None:
    with pytest.raises(SeriesError, match=reason):
        find_breasts(image_of(voxels, np.diag([3.0, 3.0, 4.0, 1.0])))


def test_two_legs_are_no_breasts() -> None:
    leg = ellipsoid((70, 70, 40), (28, 28, 400), 300.0)
    with pytest.raises(SeriesError, match=r"no breasts found|no side told"):
        find_breasts(image_of(np.concatenate([leg, leg]), np.diag([3.0, 3.0, 4.0, 1.0])))


def test_a_brain_is_refused() -> None:
    nib = pytest.importorskip("nibabel")
    nilearn = pytest.importorskip("nilearn")
    template = Path(nilearn.__file__).parent / "datasets" / "data"
    path = next(iter(sorted(template.glob("mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"))), None)
    if path is None:
        pytest.skip("this nilearn ships no MNI152 template")
    brain = nib.as_closest_canonical(nib.load(path))
    with pytest.raises(SeriesError, match="no side told"):
        find_breasts(image_of(np.asarray(brain.dataobj), np.asarray(brain.affine)))
