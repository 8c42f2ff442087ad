"""Both breasts on the standard grid: every value where it was in the patient, whatever the storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from climb_model.data.exam import DataError
from climb_model.data.nifti import read_nifti
from climb_model.data.phantom import ImageStyle
from climb_model.data.synthetic import BASE_STYLES
from climb_model.intake.breasts.motion import UNLIKE_PRE
from climb_model.intake.breasts.unilateral import SplitExam, split_exam, write_side
from climb_model.intake.study import SeriesError
from configs.errors import SettingsError

GRID = {"size": [256, 256, 32], "spacing_mm": [0.7, 0.7, 3.0]}


@pytest.fixture
def store(tmp_path: Path, save_volume: Callable[..., Path]) -> Callable[..., dict[str, Path]]:
    """`store(exam, axes="RAS", affine=None)`: the exam's files."""

    def save(exam, axes: str = "RAS", affine: np.ndarray | None = None) -> dict[str, Path]:
        where = exam.affine if affine is None else affine
        return {
            name: save_volume(tmp_path / f"{name}.nii.gz", voxels, where, axes)
            for name, voxels in exam.images.items()
        }

    return save


def points_of(volume) -> tuple[np.ndarray, np.ndarray]:
    """(point, 3) voxel index and RAS+ mm of about two thousand scattered voxels."""
    steps = zip(volume.voxels.shape, (17, 17, 3), strict=True)
    index = np.stack(np.meshgrid(*(np.arange(2, n, step) for n, step in steps), indexing="ij"), -1)
    index = index.reshape(-1, 3)
    return index, index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def worst(exam, name: str, volume) -> float:
    """Largest difference from the drawn exam at the same points of the patient, its edge left out."""
    index, points = points_of(volume)
    native = np.linalg.solve(exam.affine, np.c_[points, np.ones(len(points))].T)[:3].T
    inner = ((native > 0) & (native < np.array(exam.images[name].shape) - 1)).all(axis=1)
    assert inner.sum() > 300
    found = volume.voxels[tuple(index[inner].T)]
    return float(np.abs(found - exam.at(name, points[inner])).max())


@pytest.mark.parametrize("axes", ["LPS", "PSR", "RIA", "SLA"])
def test_values_stay_where_they_are_in_the_patient(draw_exam, store, axes: str) -> None:
    exam = draw_exam(1, midline_mm=-12.0)
    split = split_exam(store(exam, axes))
    for side in ("left", "right"):
        for name in ("Pre", "Post_1", "T2"):
            assert worst(exam, name, split.sides[side][name]) <= 0.51  # half a grey level by rounding


def test_left_and_right_are_the_patients(draw_exam, store) -> None:
    exam = draw_exam(2, midline_mm=30.0)
    for axes in ("RAS", "LPS"):
        split = split_exam(store(exam, axes))
        for side, sign in (("left", -1), ("right", 1)):
            volume = split.sides[side]["Pre"]
            bright = np.argwhere(volume.voxels > 100)
            x = (bright @ volume.affine[:3, :3].T + volume.affine[:3, 3])[:, 0]
            assert np.sign(np.median(x) - 30.0) == sign
            assert np.quantile((x - 30.0) * sign, 0.02) > -5.0


def test_all_sequences_share_one_grid_and_the_halves_meet(draw_exam, store) -> None:
    split = split_exam(store(draw_exam(3)))
    assert split.provenance["grid"] == GRID
    for volumes in split.sides.values():
        assert sorted(volumes) == ["Post_1", "Pre", "Sub_1", "T2"]
        for volume in volumes.values():
            assert volume.voxels.shape == (256, 256, 32)
            assert volume.voxels.dtype == np.int16
            assert np.allclose(volume.affine, volumes["Pre"].affine)
            assert np.allclose(np.diag(volume.affine)[:3], (0.7, 0.7, 3.0))
    left, right = (split.sides[side]["Pre"].affine for side in ("left", "right"))
    assert right[0, 3] - left[0, 3] == pytest.approx(256 * 0.7)


def test_an_oblique_exam_is_not_rotated(draw_exam, store) -> None:
    exam = draw_exam(4)
    turn = np.eye(4)
    turn[:3, :3] = rotation(12.0, 0) @ rotation(7.0, 2)
    affine = turn @ exam.affine
    split = split_exam(store(exam, "PIR", affine))
    upright = split_exam(store(exam))
    for side in ("left", "right"):
        voxels, same = (one.sides[side]["Pre"].voxels for one in (split, upright))
        assert np.abs(voxels.astype(int) - same).max() <= 1  # NIfTI's affine is float32
        assert (voxels != same).mean() < 0.01
        assert np.allclose(
            split.sides[side]["Pre"].affine, turn @ upright.sides[side]["Pre"].affine, atol=1e-3
        )


def rotation(degrees: float, axis: int) -> np.ndarray:
    """Rotation about one axis."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.roll(np.roll([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], axis, 0), axis, 1)


@pytest.mark.parametrize("degrees", [0.0, 9.0])
def test_t2_on_a_grid_of_its_own_lands_at_the_same_points(
    draw_exam, store, save_volume, tmp_path: Path, degrees: float
) -> None:
    exam = draw_exam(5)
    files = store(exam)
    affine = np.eye(4)
    affine[:3, :3] = rotation(degrees, 0) @ np.diag([1.3, 1.3, 3.1])
    shape = (260, 150, 40)
    affine[:3, 3] = [-168.0, -75.0, -80.0]
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    smooth = points_to_wave(grid @ affine[:3, :3].T + affine[:3, 3]).reshape(shape)
    files["T2"] = save_volume(tmp_path / "T2.nii.gz", smooth.astype(np.float32), affine, "LSP")
    split = split_exam(files)
    for side in ("left", "right"):
        volume = split.sides[side]["T2"]
        assert volume.voxels.dtype == np.float32
        index, points = points_of(volume)
        found = volume.voxels[tuple(index.T)]
        at = (points - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
        between = ((at >= 0) & (at <= np.array(shape) - 1)).all(axis=1)  # not beyond the last voxels' centres
        known = (found != 0) & between
        assert known.sum() > 500
        assert np.abs(found - points_to_wave(points))[known].max() < 1.5  # curvature over 3 mm


def points_to_wave(points: np.ndarray) -> np.ndarray:
    """A smooth function of the patient's coordinates between 100 and 300."""
    return 200 + 100 * np.sin(points @ np.array([0.05, 0.04, 0.06]))


def test_the_subtraction_is_that_of_the_native_grid(draw_exam, store) -> None:
    exam = draw_exam(6)
    split = split_exam(store(exam))
    exam.images["Sub_1"] = exam.images["Post_1"] - exam.images["Pre"]
    for side in ("left", "right"):
        volume = split.sides[side]["Sub_1"]
        assert volume.voxels.min() < 0
        assert worst(exam, "Sub_1", volume) <= 0.51


def test_voxels_already_of_the_standard_spacing_are_copied(draw_exam, store) -> None:
    exam = draw_exam(7)
    exam.affine[:3, :3] = np.diag([0.7, 0.7, 3.0])
    for name, voxels in exam.images.items():
        sevens = (voxels // 7 * 7).astype(np.int16)  # any interpolation would leave other values
        exam.images[name] = sevens.repeat(3, 0).repeat(3, 1)
    split = split_exam(store(exam, "LPS"))
    both = np.concatenate([split.sides[side]["Pre"].voxels for side in ("left", "right")])
    assert not (both % 7).any()
    _, points = points_of(split.sides["left"]["Pre"])
    native = np.linalg.solve(exam.affine, np.c_[points, np.ones(len(points))].T)[:3]
    assert np.abs(native - np.rint(native)).max() < 1e-3


def test_the_breasts_lie_just_behind_the_front_of_the_field(draw_exam, store) -> None:
    split = split_exam(store(draw_exam(8)))
    for volumes in split.sides.values():
        rows = np.flatnonzero((volumes["Pre"].voxels > 100).any(axis=(0, 2)))
        assert 0 <= (255 - rows.max()) * 0.7 < 20.0


def test_whole_numbers_beyond_int16_become_float32(draw_exam, store) -> None:
    exam = draw_exam(9)
    large = {name: image.astype(np.int32) * 1000 for name, image in exam.images.items()}
    exam.images.update(large)
    split = split_exam(store(exam))
    volume = split.sides["left"]["Pre"]
    assert volume.voxels.dtype == np.float32
    assert worst(exam, "Pre", volume) < 1.0


def test_a_sequence_that_one_breast_lacks_is_left_out_there(draw_exam, store) -> None:
    exam = draw_exam(10, left_seed=60)
    exam.images["T2"][:80] = 0  # the left half; the found midline may lie beside this edge
    split = split_exam(store(exam))
    assert "T2" not in split.sides["left"]
    assert "T2" in split.sides["right"]
    assert "T2 left: left out, constant" in split.notices


def test_equal_phases_leave_no_subtraction(draw_exam, store) -> None:
    exam = draw_exam(11)
    exam.images["Post_1"] = exam.images["Pre"]
    split = split_exam(store(exam))
    assert "Sub_1" not in split.sides["left"]
    assert "Sub_1 left: left out, Post_1 equals Pre" in split.notices


@pytest.mark.parametrize(("away_mm", "left_out"), [(40.0, False), (75.0, True), (500.0, True)])
def test_a_t2_that_covers_less_is_told_or_left_out(
    draw_exam, store, save_volume, tmp_path: Path, away_mm: float, left_out: bool
) -> None:
    exam = draw_exam(12)
    files = store(exam)
    moved = exam.affine.copy()
    moved[2, 3] += away_mm
    files["T2"] = save_volume(tmp_path / "T2.nii.gz", exam.images["T2"], moved)
    split = split_exam(files)
    share = split.provenance["sides"]["left"]["covered"]["T2"]
    assert share == pytest.approx(max(0.0, 1 - away_mm / 80), abs=0.05)
    assert ("T2" not in split.sides["left"]) == left_out
    assert any(notice.startswith("T2 left: ") and "Pre's field" in notice for notice in split.notices)


@pytest.mark.parametrize("off_mm", [12.0, -20.0])
def test_a_patient_who_moved_off_is_told(
    draw_exam, store, save_volume, tmp_path: Path, off_mm: float
) -> None:
    """The field begins 16 mm before Pre's front: a body farther in front is cut."""
    exam = draw_exam(13)
    files = store(exam)
    assert split_exam(files).notices == ()
    moved = exam.affine.copy()
    moved[1, 3] += off_mm
    files["T2"] = save_volume(tmp_path / "T2.nii.gz", exam.images["T2"], moved)
    split = split_exam(files)
    assert split.provenance["front_off_mm"]["T2"] == pytest.approx(abs(off_mm), abs=3.0)
    assert any("T2: the body's front lies" in notice for notice in split.notices)


@pytest.mark.parametrize("seed", [9, 17])
def test_zeros_around_a_small_image_move_no_front(draw_exam, store, seed: int) -> None:
    """Beside the field's zeros the noise in front of these breasts would pass for body on T2."""
    exam = draw_exam(seed, style=BASE_STYLES[2])
    split = split_exam(store(exam))
    field = split.sides["left"]["Pre"].voxels
    assert not field[:, -1].any()  # it begins in front of the image
    assert split.provenance["front_off_mm"] == {"Post_1": 0.0, "T2": pytest.approx(0.0, abs=3.0)}
    assert split.notices == ()


def test_one_breast_goes_to_the_side_that_is_told(draw_exam, store) -> None:
    exam = draw_exam(14)
    half = {name: image[80:] for name, image in exam.images.items()}
    exam.images.update(half)
    exam.affine[0, 3] += 80 * 1.8
    with pytest.raises(SeriesError, match="no side told"):
        split_exam(store(exam))
    split = split_exam(store(exam), laterality="R")
    assert list(split.sides) == ["right"]
    assert split.notices == ()
    assert worst(exam, "Pre", split.sides["right"]["Pre"]) <= 0.51
    wrong = split_exam(store(exam), laterality="L")
    assert list(wrong.sides) == ["left"]
    assert any("marked as left, but lies" in notice for notice in wrong.notices)


def test_motion_is_measured_even_if_not_corrected(draw_exam, store) -> None:
    split = split_exam(store(draw_exam(15)))
    for side in ("left", "right"):
        figures = split.provenance["sides"][side]["motion"]["Post_1"]
        assert 0.5 < figures["before"] <= 1.0


@pytest.mark.parametrize("style", BASE_STYLES)
def test_no_hospitals_exam_at_rest_is_told_of_motion(draw_exam, store, style: ImageStyle) -> None:
    assert split_exam(store(draw_exam(19, style=style))).notices == ()


def test_a_phase_that_moved_is_told_corrected_or_not(draw_exam, store) -> None:
    exam = draw_exam(20)
    exam.images["Post_1"] = np.roll(exam.images["Post_1"], (3, 2), axis=(0, 1))  # 5.4 and 3.6 mm
    files = store(exam)
    (left_alone,) = split_exam(files).notices
    assert left_alone.startswith(f"{UNLIKE_PRE} (Post_1 left: similarity 0.")
    (corrected,) = split_exam(files, motion="rigid").notices
    assert corrected.startswith("motion corrected (Post_1 left: similarity 0.")
    assert corrected.count("mean 6.") == 2  # 6.49 mm, of each breast


def test_written_files_read_back_the_same_and_are_the_same_each_time(
    draw_exam, store, tmp_path: Path
) -> None:
    split: SplitExam = split_exam(store(draw_exam(16)))
    json.dumps(split.provenance)
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        written.append(write_side(split.sides["left"], tmp_path / name))
    assert written[0] == written[1]
    for name, volume in split.sides["left"].items():
        image = read_nifti(tmp_path / "one" / f"{name}.nii.gz")
        assert np.array_equal(image.voxels, volume.voxels)
        assert np.allclose(image.affine, volume.affine, atol=1e-4)


def test_settings_and_files_that_cannot_be_used_are_named(draw_exam, store, tmp_path: Path) -> None:
    files = store(draw_exam(17))
    with pytest.raises(DataError, match="no Pre"):
        split_exam({"T2": files["T2"]})
    with pytest.raises(DataError, match="got ADC"):
        split_exam({**files, "ADC": files["T2"]})
    with pytest.raises(DataError, match="laterality"):
        split_exam(files, laterality="B")
    with pytest.raises(SettingsError, match="motion must be one of"):
        split_exam(files, motion="elastic")
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(files["T2"].read_bytes()[:-20])
    with pytest.raises(DataError, match="T2: truncated or damaged") as caught:
        split_exam({**files, "T2": broken})
    assert str(tmp_path) not in caught.value.public


def test_values_that_are_not_finite_are_refused(draw_exam, store) -> None:
    exam = draw_exam(18)
    exam.images["T2"] = exam.images["T2"].astype(np.float32)
    exam.images["T2"][3, 3, 3] = np.nan
    with pytest.raises(DataError, match="T2: voxels that are not finite"):
        split_exam(store(exam))


def test_a_time_series_is_refused_for_its_fourth_axis() -> None:
    path = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    with pytest.raises(DataError, match="wanted a 3-D image"):
        split_exam({"Pre": path})
