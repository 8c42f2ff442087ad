"""What the model is given of an exam's files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from climb_model.data.exam import DataError, ExamRecord, Volume
from climb_model.data.volume import foreground, read_volume, zscore
from configs.schema import DataConfig

SIZE = (20, 24, 10)
"""column, row, slice of the files, as they are stored."""
SPACING = (0.7, 0.7, 3.0)
SMALL = DataConfig(slices=10, rows=24, columns=20)
Store = Callable[..., ExamRecord]


def lps(
    spacing: tuple[float, float, float] = SPACING, origin: tuple[float, float, float] = (5, -8, 11)
) -> np.ndarray:
    """Affine (RAS) of an image stored as column to the left, row to the back, slice to the head."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = origin
    return affine


def tissue(seed: int, size: tuple[int, int, int] = SIZE) -> np.ndarray:
    """Bright noise in the inner part, dark noise around it; int16."""
    rng = np.random.default_rng(seed)
    voxels = rng.integers(0, 20, size)
    inner = tuple(slice(length // 5, length - length // 5) for length in size)
    voxels[inner] += rng.integers(300, 900, voxels[inner].shape)
    return voxels.astype(np.int16)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Write sequences as NIfTI files and return the exam that has them."""

    def write(affine: np.ndarray | None = None, **sequences: np.ndarray) -> ExamRecord:
        files: dict[str, Path] = {}
        for name, voxels in sequences.items():
            files[name] = tmp_path / f"{name}.nii.gz"
            nib.save(nib.Nifti1Image(voxels, lps() if affine is None else affine), files[name])
        return exam(files)

    return write


def exam(files: dict[str, Path]) -> ExamRecord:
    return ExamRecord(uid="0042_left", patient="0042", split="train", files=files)


def refusal(record: ExamRecord, data: DataConfig = SMALL) -> DataError:
    """The error of an exam that must be refused; one line, its public form without UID and path."""
    with pytest.raises(DataError) as caught:
        read_volume(record, data)
    error = caught.value
    assert "\n" not in str(error)
    assert "exam '0042_left'" in str(error)
    assert "0042" not in error.public
    assert "/" not in error.public
    return error


def by_hand(
    voxels: np.ndarray, mask: np.ndarray, percentiles: tuple[float, float] = (0.5, 99.5)
) -> np.ndarray:
    inner = np.sort(voxels[mask].astype(np.float64))
    low, high = (inner[round(share / 100 * (inner.size - 1))] for share in percentiles)
    inner = np.clip(inner, low, high)
    return (np.clip(voxels, low, high) - inner.mean()) / inner.std()


# The grid


def test_voxels_on_the_grid_already_are_only_scored(store: Store) -> None:
    pre, sub, t2 = tissue(0), tissue(1) - 500, tissue(2)
    volume = read_volume(store(Pre=pre, Sub=sub, T2=t2), SMALL)
    assert volume.values.shape == (3, 10, 24, 20)
    assert volume.values.dtype == np.float32
    assert volume.present.all()
    assert volume.spacing_mm == SMALL.spacing_mm
    mask = foreground(pre.astype(np.float32))
    for place, voxels in enumerate((pre, sub, t2)):
        expected = by_hand(voxels, mask).transpose(2, 1, 0)
        np.testing.assert_allclose(volume.values[place], expected, atol=2e-5)


def test_a_smaller_image_is_padded_around_its_centre(store: Store) -> None:
    record = store(Pre=tissue(0))
    whole = read_volume(record, SMALL)
    padded = read_volume(record, DataConfig(slices=16, rows=30, columns=26))
    assert np.flatnonzero(padded.present[0]).tolist() == list(range(3, 13))
    assert not padded.present[1:].any()
    np.testing.assert_array_equal(padded.values[0, 3:13, 3:27, 3:23], whole.values[0])
    padded.values[0, 3:13, 3:27, 3:23] = 0
    assert not padded.values.any()


def test_a_larger_image_is_cropped_to_its_centre(store: Store) -> None:
    pre = tissue(0)
    volume = read_volume(store(Pre=pre), DataConfig(slices=6, rows=16, columns=10))
    middle = pre[5:15, 4:20, 2:8]
    expected = by_hand(middle, foreground(middle.astype(np.float32))).transpose(2, 1, 0)
    assert volume.present[0].all()
    np.testing.assert_allclose(volume.values[0], expected, atol=2e-5)


PADDINGS = {
    "none": ((0, 0), (0, 0), (0, 0)),
    "midline": ((7, 0), (0, 0), (0, 0)),
    "front and feet": ((0, 0), (0, 9), (2, 0)),
    "everywhere": ((1, 4), (11, 3), (3, 6)),
}
"""Planes of zeros before and behind the voxels: column, row, slice."""


@pytest.mark.parametrize("padding", PADDINGS.values(), ids=PADDINGS)
@pytest.mark.parametrize(
    "data",
    [SMALL, DataConfig(slices=6, rows=16, columns=10), DataConfig(slices=9, rows=31, columns=25)],
    ids=["equal", "cropped", "padded"],
)
@pytest.mark.parametrize("spacing", [SPACING, (0.9, 0.8, 2.0)], ids=["copied", "interpolated"])
def test_zeros_around_pre_change_no_bit(
    store: Store, padding: tuple[tuple[int, int], ...], data: DataConfig, spacing: tuple[float, float, float]
) -> None:
    """A field that reaches beyond the image neither moves the grid nor counts in the foreground."""
    voxels = {"Pre": tissue(0), "Sub": tissue(1) - 500, "T2": tissue(2)}
    plain = read_volume(store(lps(spacing), **voxels), data)
    beyond = {name: np.pad(image, padding) for name, image in voxels.items()}
    beyond["T2"] = np.pad(voxels["T2"], padding, constant_values=4000)  # only Pre decides
    padded = read_volume(store(lps(spacing), **beyond), data)
    np.testing.assert_array_equal(padded.values, plain.values)
    np.testing.assert_array_equal(padded.present, plain.present)


def test_a_dark_plane_with_a_single_voxel_is_no_padding(store: Store) -> None:
    pre = np.pad(tissue(0), ((0, 0), (0, 0), (0, 2)))
    pre[10, 3, -1] = 1
    data = DataConfig(slices=12, rows=24, columns=20)
    volume = read_volume(store(Pre=pre), data)
    assert volume.present[0].all()
    expected = by_hand(pre, foreground(pre.astype(np.float32))).transpose(2, 1, 0)
    np.testing.assert_allclose(volume.values[0], expected, atol=2e-5)


def test_zero_is_the_value_not_the_stored_number(store: Store, tmp_path: Path) -> None:
    """With an intercept a stored zero is air of some brightness, and padding is another number."""
    pre = tissue(0)
    pre[0] = 0
    plain = read_volume(store(Pre=pre + 1), SMALL)
    stored = np.pad(pre, ((6, 0), (0, 0), (0, 0)), constant_values=-400)
    image = nib.Nifti1Image(stored, lps())
    image.header.set_slope_inter(0.25, 100)
    nib.save(image, tmp_path / "scaled.nii")
    assert not np.asarray(nib.load(tmp_path / "scaled.nii").dataobj)[:6].any()
    scaled = read_volume(exam({"Pre": tmp_path / "scaled.nii"}), SMALL)
    np.testing.assert_allclose(scaled.values, plain.values, atol=1e-5)


def test_an_odd_number_of_slices_in_an_even_grid_is_copied_not_mixed(store: Store) -> None:
    pre = tissue(0, (20, 24, 9))
    volume = read_volume(store(Pre=pre), SMALL)
    assert volume.present[0].sum() == 9
    expected = by_hand(pre, foreground(pre.astype(np.float32))).transpose(2, 1, 0)
    np.testing.assert_allclose(volume.values[0, volume.present[0]], expected, atol=2e-5)


def test_an_image_thinner_than_a_step_of_the_grid_fills_one_slice(store: Store) -> None:
    pre = tissue(0, (20, 24, 1))
    volume = read_volume(store(lps((0.7, 0.7, 0.5)), Pre=pre), SMALL)
    assert volume.present[0].sum() == 1
    expected = by_hand(pre, foreground(pre.astype(np.float32)))[:, :, 0].T
    np.testing.assert_allclose(volume.values[0, volume.present[0]][0], expected, atol=2e-5)


@pytest.mark.parametrize("spacing", [(0.9, 0.8, 2.0), (0.37, 0.5, 4.1)])
def test_resampling_is_simpleitks_linear_one(store: Store, spacing: tuple[float, float, float]) -> None:
    affine = lps(spacing)
    turn = np.array([[np.cos(0.1), -np.sin(0.1), 0], [np.sin(0.1), np.cos(0.1), 0], [0, 0, 1]])
    affine[:3, :3] = turn @ affine[:3, :3]
    record = store(affine, Pre=tissue(0, (30, 28, 12)))
    data = DataConfig(slices=12, rows=40, columns=44)
    image = sitk.DICOMOrient(sitk.ReadImage(str(record.files["Pre"]), sitk.sitkFloat32), "LPS")
    size, step = (44, 40, 12), np.array([0.7, 0.7, 3.0])
    middle = image.TransformContinuousIndexToPhysicalPoint([(length - 1) / 2 for length in image.GetSize()])
    axes = np.array(image.GetDirection()).reshape(3, 3)
    origin = np.array(middle) - axes @ ((np.array(size) - 1) / 2 * step)
    grid = (size, sitk.Transform(), sitk.sitkLinear, origin.tolist(), step.tolist(), image.GetDirection())
    values = sitk.GetArrayFromImage(sitk.Resample(image, *grid, float("nan")))
    inside = ~np.isnan(values)
    box = values[np.ix_(*(inside.any(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)))]
    mask = np.zeros_like(inside)
    mask[inside] = foreground(box).reshape(-1)
    expected = np.where(inside, by_hand(np.where(inside, values, 0), mask), 0)
    volume = read_volume(record, data)
    assert np.array_equal(volume.present[0], inside.any(axis=(1, 2)))
    np.testing.assert_allclose(volume.values[0], expected, atol=1e-4)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL"])
def test_how_the_axes_are_stored_makes_no_difference(store: Store, codes: str) -> None:
    pre = tissue(0)
    plain = read_volume(store(Pre=pre), SMALL)
    image = nib.Nifti1Image(pre, lps())
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    )
    turned = image.as_reoriented(turn)
    assert nib.aff2axcodes(turned.affine) == tuple(codes)
    again = read_volume(store(turned.affine, Pre=np.asarray(turned.dataobj)), SMALL)
    np.testing.assert_array_equal(again.values, plain.values)


def test_slices_go_to_the_head_rows_to_the_back_and_columns_to_the_left(store: Store) -> None:
    pre = tissue(0)
    pre[-1, 0, -1] = 4000  # RAS: the index grows to the patient's right side, front and head
    ras = np.diag([0.7, 0.7, 3.0, 1.0])
    data = DataConfig(slices=10, rows=24, columns=20, clip_percentiles=(0.0, 100.0))
    volume = read_volume(store(ras, Pre=pre), data)
    assert np.unravel_index(volume.values[0].argmax(), (10, 24, 20)) == (9, 23, 0)


def test_the_files_scaling_and_number_type_make_no_difference(store: Store, tmp_path: Path) -> None:
    pre = tissue(0)
    plain = read_volume(store(Pre=pre), SMALL).values
    as_float = read_volume(store(Pre=pre.astype(np.float64)), SMALL).values
    np.testing.assert_array_equal(as_float, plain)
    image = nib.Nifti1Image(pre, lps())
    image.header.set_slope_inter(0.25, 100)
    nib.save(image, tmp_path / "scaled.nii")
    assert nib.load(tmp_path / "scaled.nii").dataobj.slope == 0.25
    scaled = read_volume(exam({"Pre": tmp_path / "scaled.nii"}), SMALL).values
    np.testing.assert_allclose(scaled, plain, atol=1e-5)


def test_a_trailing_axis_of_length_one_is_dropped(store: Store) -> None:
    plain = read_volume(store(Pre=tissue(0)), SMALL).values
    np.testing.assert_array_equal(read_volume(store(Pre=tissue(0)[..., None]), SMALL).values, plain)


# Intensities and presence


def test_foreground_does_not_depend_on_the_scanners_scale() -> None:
    values = tissue(0).astype(np.float32)
    mask = foreground(values)
    assert 0.15 < mask.mean() < 0.3  # the inner part is 0.6 of each axis: 0.216
    np.testing.assert_array_equal(foreground(values * 37 + 1000), mask)


def test_a_foreground_is_never_empty() -> None:
    values = np.full((4, 5, 6), 7, np.float32)
    values[0, 0, 0] = 3
    assert foreground(values).all()


def test_scores_do_not_depend_on_the_scanners_scale(store: Store) -> None:
    plain = read_volume(store(Pre=tissue(0), T2=tissue(1)), SMALL).values
    scaled = read_volume(store(Pre=tissue(0) * 7 + 40, T2=tissue(1) * 3), SMALL).values
    np.testing.assert_allclose(scaled, plain, atol=1e-4)


def test_outliers_are_clipped_at_the_percentiles() -> None:
    values = np.arange(1000, dtype=np.float32).reshape(10, 10, 10)
    values[0, 0, 0], values[9, 9, 9] = -1e6, 1e6
    scored = zscore(values, np.ones_like(values, np.bool_), (0.5, 99.5))
    assert scored is not None
    assert scored.min() == scored[0, 0, 4]
    assert scored.max() == scored[9, 9, 5]
    assert abs(float(scored.mean())) < 1e-4
    assert abs(float(scored.std()) - 1) < 1e-3


def test_a_sequence_without_a_file_is_absent(store: Store) -> None:
    volume = read_volume(store(Pre=tissue(0), T2=tissue(1)), SMALL)
    assert volume.present.all(axis=1).tolist() == [True, False, True]
    assert volume.present.any(axis=1).tolist() == [True, False, True]
    assert not volume.values[1].any()


def test_without_pre_the_first_sequence_that_is_there_sets_the_grid(store: Store) -> None:
    volume = read_volume(store(Sub=tissue(1), T2=tissue(2)), SMALL)
    assert volume.present.all(axis=1).tolist() == [False, True, True]


@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("sequence", ["Pre", "Sub"])
def test_a_constant_sequence_is_absent(store: Store, value: int, sequence: str) -> None:
    voxels = {"Pre": tissue(0), "Sub": tissue(1), "T2": tissue(2)}
    voxels[sequence] = np.full(SIZE, value, np.int16)
    volume = read_volume(store(**voxels), SMALL)
    there = [name != sequence for name in ("Pre", "Sub", "T2")]
    assert volume.present.any(axis=1).tolist() == there
    assert not volume.values[~np.array(there)].any()
    assert np.isfinite(volume.values).all()


def test_a_sequence_constant_in_the_foreground_is_absent(store: Store) -> None:
    pre = tissue(0)
    t2 = np.where(foreground(pre.astype(np.float32)), 300.3, 0.1).astype(np.float32)
    assert read_volume(store(Pre=pre, T2=t2), SMALL).present.any(axis=1).tolist() == [True, False, False]


def test_a_volume_refuses_values_where_nothing_is_present() -> None:
    with pytest.raises(ValueError, match="must be zero"):
        Volume(
            values=np.ones((1, 2, 3, 4), np.float32),
            present=np.zeros((1, 2), np.bool_),
            spacing_mm=(3.0, 0.7, 0.7),
        )


# Faults of one exam


def test_an_exam_without_any_sequence_is_refused(store: Store) -> None:
    assert "no sequence is present" in refusal(store(Pre=np.zeros(SIZE, np.int16))).public
    assert "no sequence is present" in refusal(exam({})).public


def test_a_sequence_of_another_size_is_refused_naming_both(store: Store) -> None:
    error = refusal(store(Pre=tissue(0), Sub=tissue(1, (20, 24, 9))))
    assert "Sub is of another size than Pre: 20x24x9 voxels, Pre has 20x24x10" in str(error)


def test_a_sequence_elsewhere_in_the_patient_is_refused(store: Store, tmp_path: Path) -> None:
    record = store(Pre=tissue(0), T2=tissue(1))
    nib.save(nib.Nifti1Image(tissue(1), lps(origin=(5, -8, 31))), tmp_path / "T2.nii.gz")
    assert "T2 is not on the voxel grid of Pre: corners up to 20.00 mm apart" in str(refusal(record))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_finite_are_refused(store: Store, value: float) -> None:
    sub = tissue(1).astype(np.float32)
    sub[0, 0, 0] = value  # outside the cropped grid, too
    data = DataConfig(slices=4, rows=4, columns=4)
    assert "Sub: voxels that are not finite" in refusal(store(Pre=tissue(0), Sub=sub), data).public


def test_values_beyond_float32_are_refused(store: Store) -> None:
    pre = tissue(0).astype(np.float64) * 1e300
    assert "beyond the range of float32" in refusal(store(Pre=pre)).public


def test_a_4d_file_is_refused(store: Store) -> None:
    four = np.stack([tissue(0), tissue(1)], axis=3)
    assert "Pre: wanted a 3-D image, got 4-D 20x24x10x2" in refusal(store(Pre=four)).public


def test_nibabels_4d_example_is_refused() -> None:
    path = Path(nib.__file__).parent / "tests" / "data" / "example4d.nii.gz"
    assert path.is_file()
    assert "wanted a 3-D image, got 4-D 128x96x24x2" in refusal(exam({"Pre": path})).public


def test_a_flat_image_and_a_colour_image_are_refused(store: Store) -> None:
    assert "wanted a 3-D image, got 2-D" in refusal(store(Pre=tissue(0)[:, :, 5])).public
    colour = np.zeros(SIZE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    assert "not real numbers" in refusal(store(Pre=colour)).public


@pytest.mark.parametrize("missing", [1, 4, 8, 9, 100, 3000])
def test_a_truncated_file_is_refused_wherever_it_ends(store: Store, missing: int) -> None:
    record = store(Pre=tissue(0), Sub=tissue(1))
    path = record.files["Sub"]
    path.write_bytes(path.read_bytes()[:-missing])
    assert "Sub: truncated or damaged gzip stream" in refusal(record).public


def test_simpleitk_takes_a_truncated_file_for_whole(store: Store) -> None:
    """Why the checksum is compared here; if this fails, SimpleITK has learned to do it."""
    path = store(Pre=tissue(0)).files["Pre"]
    path.write_bytes(path.read_bytes()[:-8])
    assert sitk.GetArrayFromImage(sitk.ReadImage(str(path))).shape == SIZE[::-1]


def test_a_damaged_checksum_is_refused(store: Store) -> None:
    record = store(Pre=tissue(0))
    path = record.files["Pre"]
    packed = bytearray(path.read_bytes())
    packed[-6] ^= 1
    path.write_bytes(bytes(packed))
    assert "truncated or damaged gzip stream" in refusal(record).public


def test_a_file_with_fewer_voxels_than_its_header_promises_is_refused(store: Store) -> None:
    record = store(Pre=tissue(0))
    path = record.files["Pre"]
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    assert "truncated" in refusal(record).public


def test_a_gzip_file_of_several_members_is_read(store: Store) -> None:
    record = store(Pre=tissue(0))
    plain = read_volume(record, SMALL).values
    path = record.files["Pre"]
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw[:5000]) + gzip.compress(raw[5000:]))
    np.testing.assert_array_equal(read_volume(record, SMALL).values, plain)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no NIfTI header"),
        (b"no image at all" * 100, "no NIfTI header"),
        (gzip.compress(b"no image at all" * 100, mtime=0), "no NIfTI header"),
        (b"\x1f\x8bno gzip stream", "damaged gzip stream"),
        (None, "unreadable file"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "Pre.nii.gz"
    if content is not None:
        path.write_bytes(content)
    assert f"Pre: {reason}" in refusal(exam({"Pre": path})).public


def test_an_image_without_orientation_or_sheared_is_refused(store: Store, tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(tissue(0), None), tmp_path / "Pre.nii.gz")
    assert "no orientation" in refusal(exam({"Pre": tmp_path / "Pre.nii.gz"})).public
    sheared = lps()
    sheared[0, 2] = 1.5
    assert "sheared image" in refusal(store(sheared, Pre=tissue(0))).public
