"""Motion of a known size is measured, corrected, and the lesion is still there."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from climb_model.data.exam import DataError
from climb_model.data.nifti import Image
from climb_model.data.phantom import ImageStyle, ball, draw_breast
from climb_model.intake.breasts import motion
from climb_model.intake.breasts.motion import (
    LOW_SIMILARITY,
    UNLIKE_PRE,
    Phase,
    breast_region,
    check_motion,
    halve,
    match_phase,
    motion_notices,
    similarity,
)
from climb_model.intake.breasts.resampling import Grid, resample
from configs.errors import SettingsError

STYLE = ImageStyle(shape=(32, 100, 100), spacing_mm=(3.0, 1.4, 1.4))
AFFINE = np.array([[1.4, 0, 0, -70], [0, 1.4, 0, -70], [0, 0, 3.0, -47], [0, 0, 0, 1]])
GRID = Grid(
    affine=np.array([[0.7, 0, 0, -70.35], [0, 0.7, 0, -70.35], [0, 0, 3.0, -47], [0, 0, 0, 1]]),
    shape=(200, 200, 32),
)


class Moved:
    """A breast with a lesion of 16 mm, before and after contrast agent, the second one moved."""

    def __init__(self, kind: str) -> None:
        canvas = draw_breast(np.random.default_rng(1), STYLE, 1, 0.0, 0.12)
        lesion = ball(canvas, (3.0, canvas.chest_y - 45, 8.0), (8, 8, 8))
        z, y, x = np.meshgrid(canvas.z.ravel(), canvas.y.ravel(), canvas.x.ravel(), indexing="ij")
        if kind == "smooth":
            near = np.exp(-((z / 45) ** 2 + ((y - 70) / 50) ** 2 + (x / 50) ** 2))
            by = np.stack([2 * near, -6 * near, 5 * near * np.cos(z / 40)], -1)
        else:
            by = np.broadcast_to({"shift": [2.0, -4.0, 3.0], "still": [0.0, 0.0, 0.0]}[kind], (*z.shape, 3))
        index = np.moveaxis(np.stack(np.meshgrid(*map(np.arange, STYLE.shape), indexing="ij"), -1), -1, 0)
        index = index + np.moveaxis(by / np.array(STYLE.spacing_mm), -1, 0)
        noise = 0.03 * np.random.default_rng(2).standard_normal((2, *STYLE.shape))

        def turned(values: np.ndarray) -> np.ndarray:
            """From slice, row, column of LPS to column, row, slice of RAS."""
            return np.ascontiguousarray(values[:, ::-1, ::-1].transpose(2, 1, 0), np.float32)

        def displaced(values: np.ndarray) -> np.ndarray:
            return map_coordinates(values, index, order=1, mode="nearest")

        self.pre = image_of(400 * turned(canvas.pre + noise[0]))
        enhanced = canvas.pre + canvas.enhancement + 0.9 * lesion
        self.post = image_of(400 * turned(displaced(enhanced) + noise[1]))
        self.lesion, self.moved_lesion = turned(lesion), image_of(turned(displaced(lesion)))
        self.by_mm = turned_vectors(by)
        body = halve(resample(self.pre, GRID).voxels) > 80
        front = np.where(body.any(1), 99 - np.argmax(body[:, ::-1], axis=1), 0) * 2
        self.region = breast_region(front, (140 - canvas.chest_y) / 0.7, GRID)

    def matched(self, method: str) -> Phase:
        pre, post = resample(self.pre, GRID), resample(self.post, GRID)
        return match_phase(pre, post, self.post, GRID, self.region, method)


def turned_vectors(by: np.ndarray) -> np.ndarray:
    """Displacements (column, row, slice, 3) in mm towards right, front, head."""
    return by[:, ::-1, ::-1].transpose(2, 1, 0, 3)[..., ::-1] * np.array([-1.0, -1.0, 1.0])


def image_of(voxels: np.ndarray) -> Image:
    return Image(voxels=voxels, slope=1.0, intercept=0.0, affine=AFFINE)


def errors_mm(moved: Moved, method: str) -> tuple[float, float, Any]:
    """Mean displacement error within the breast before and after correction, and the transform."""
    from climb_model.intake.breasts.motion import halved_grid
    from climb_model.intake.breasts.registration import register

    pre, post = (halve(resample(image, GRID).voxels) for image in (moved.pre, moved.post))
    transform = register(pre, post, halved_grid(GRID), moved.region, method)
    assert transform is not None
    points = np.argwhere(moved.region)[::29] @ AFFINE[:3, :3].T + AFFINE[:3, 3]  # the halved grid is native
    there = np.array([transform.TransformPoint(point.tolist()) for point in points])

    def by(places: np.ndarray) -> np.ndarray:
        index = np.linalg.solve(AFFINE, np.c_[places, np.ones(len(places))].T)[:3]
        parts = [map_coordinates(moved.by_mm[..., k], index, order=1, mode="nearest") for k in range(3)]
        return np.stack(parts, -1)

    before = np.linalg.norm(by(points), axis=1).mean()
    after = np.linalg.norm(there + by(there) - points, axis=1).mean()
    return float(before), float(after), transform


@pytest.mark.parametrize(
    ("kind", "method", "factor", "volume_error"),
    [("shift", "rigid", 20.0, 0.03), ("smooth", "deformable", 3.0, 0.1)],
)
def test_correction_undoes_a_known_motion_and_keeps_the_lesion(
    kind: str, method: str, factor: float, volume_error: float
) -> None:
    from climb_model.intake.breasts.itk import resample_by

    moved = Moved(kind)
    before, after, transform = errors_mm(moved, method)
    assert before > 4.0
    assert after < before / factor
    there, _ = resample_by(moved.moved_lesion, GRID, transform)
    drawn = resample(image_of(moved.lesion), GRID).voxels
    assert abs(there.sum() / drawn.sum() - 1) < volume_error
    phase = moved.matched(method)
    assert phase.figures["kept"]
    assert phase.figures["after"] > phase.figures["before"] + 0.1
    assert phase.figures["mean_mm"] == pytest.approx(before, rel=0.2)
    assert phase.figures["mean_mm"] <= phase.figures["largest_mm"] < 15.0


def test_correction_gives_the_same_bits_each_time() -> None:
    moved = Moved("shift")
    first, second = moved.matched("rigid"), moved.matched("rigid")
    assert np.array_equal(first.values.voxels, second.values.voxels)
    assert first.figures == second.figures


def test_none_measures_and_changes_nothing() -> None:
    moved = Moved("shift")
    phase = moved.matched("none")
    assert np.array_equal(phase.values.voxels, resample(moved.post, GRID).voxels)
    assert list(phase.figures) == ["before"]
    assert phase.figures["before"] < Moved("still").matched("none").figures["before"] - 0.2


def test_a_correction_that_is_no_better_is_rejected_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    away = sitk.TranslationTransform(3, (9.0, 9.0, 9.0))
    monkeypatch.setattr("climb_model.intake.breasts.registration.register", lambda *_: away)
    moved = Moved("still")
    phase = moved.matched("rigid")
    assert phase.figures["kept"] is False
    assert phase.figures["reason"] == "hardly better than without"
    assert phase.figures["largest_mm"] == pytest.approx(15.59, abs=0.01)  # 9 * sqrt(3)
    assert np.array_equal(phase.values.voxels, resample(moved.post, GRID).voxels)


def test_a_failed_registration_keeps_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("climb_model.intake.breasts.registration.register", lambda *_: None)
    phase = Moved("still").matched("rigid")
    assert phase.figures["kept"] is False
    assert phase.figures["reason"] == "the registration failed"


def test_too_little_of_a_breast_is_not_measured() -> None:
    moved = Moved("still")
    pre, post = resample(moved.pre, GRID), resample(moved.post, GRID)
    nothing = np.zeros_like(moved.region)
    phase = match_phase(pre, post, moved.post, GRID, nothing, "rigid")
    assert phase.values is post
    assert phase.figures == {"before": None, "reason": "too little of a breast to measure in"}


KEPT = {"before": 0.3519, "after": 0.9213, "mean_mm": 6.41, "largest_mm": 7.0, "smallest_volume": 1.0}
IN_WORDS = "similarity 0.35 to 0.92, mean 6.4 mm, largest 7.0 mm, smallest volume 1.00"


@pytest.mark.parametrize(
    ("figures", "lines"),
    [
        ({"before": 0.91}, []),
        ({"before": LOW_SIMILARITY}, []),
        ({"before": 0.6499}, [f"{UNLIKE_PRE} (Post_1 left: similarity 0.65)"]),
        ({"before": None, "reason": "too little"}, ["motion not measured (Post_1 left: too little)"]),
        (KEPT | {"kept": True}, [f"motion corrected (Post_1 left: {IN_WORDS})"]),
        (
            KEPT | {"kept": True, "after": 0.5},
            [
                f"motion corrected (Post_1 left: {IN_WORDS.replace('0.92', '0.50')})",
                f"{UNLIKE_PRE} (Post_1 left: similarity 0.50)",
            ],
        ),
        (
            KEPT | {"kept": False, "reason": "it folds tissue"},
            [
                f"motion not corrected, it folds tissue (Post_1 left: {IN_WORDS})",
                f"{UNLIKE_PRE} (Post_1 left: similarity 0.35)",
            ],
        ),
        (
            {"before": 0.9, "kept": False, "reason": "the registration failed"},
            ["motion not corrected, the registration failed (Post_1 left: similarity 0.90)"],
        ),
    ],
)
def test_each_correction_and_each_low_similarity_is_told(figures: dict[str, Any], lines: list[str]) -> None:
    assert motion_notices({"Post_1 left": figures}) == lines


def test_the_phases_of_an_exam_share_a_line() -> None:
    figures = KEPT | {"kept": True}
    (line,) = motion_notices(
        {"Post_1 left": figures, "Post_2 left": {"before": 0.9}, "Post_1 right": figures}
    )
    assert line == f"motion corrected (Post_1 left: {IN_WORDS}; Post_1 right: {IN_WORDS})"


def test_similarity_is_one_for_the_same_edges_whatever_the_scale() -> None:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((20, 20, 4)).astype(np.float32)
    region = np.ones(image.shape, np.bool_)
    assert similarity(image, 3 * image + 100, region) == pytest.approx(1.0, abs=1e-5)
    assert similarity(image, -image, region) == pytest.approx(-1.0, abs=1e-5)
    assert similarity(image, np.zeros_like(image), region) == 0.0


def test_an_unknown_correction_is_refused() -> None:
    with pytest.raises(SettingsError, match="motion must be one of none, rigid, deformable, convexadam"):
        check_motion("demons")


def test_convexadam_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"pip install 'climb-federated\[motion\]'"):
        check_motion("convexadam")


def test_convexadam_displacements_are_voxels_of_the_fixed_image(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = ModuleType("convexAdam"), ModuleType("convexAdam.convex_adam_MIND")
    moved = Moved("shift")

    def convex_adam_pt(fixed: Any, moving: Any, *, dtype: Any, device: Any) -> np.ndarray:
        assert fixed.shape == moving.shape == (100, 100, 32)
        assert str(dtype) == "torch.float32"
        assert str(device) == "cpu"
        return -moved.by_mm / np.array([1.4, 1.4, 3.0])

    module.convex_adam_pt = convex_adam_pt  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "convexAdam", package)
    monkeypatch.setitem(sys.modules, "convexAdam.convex_adam_MIND", module)
    _, after, _ = errors_mm(moved, "convexadam")
    assert after < 0.01
