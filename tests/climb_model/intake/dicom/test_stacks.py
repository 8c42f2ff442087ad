"""How the frames of a series become volumes, and when they do not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from climb_model.intake.dicom.headers import scan
from climb_model.intake.dicom.stacks import Found, find_stacks, read_voxels
from climb_model.intake.study import SeriesError


def found(mr_files: Any, folder: Path, slices: list[Any]) -> Found:
    random.Random(0).shuffle(slices)
    (study,) = scan(mr_files.save(folder, slices)).studies
    (series,) = study.series
    return find_stacks(series)


def without(slices: list[Any], *keywords: str) -> list[Any]:
    for data in slices:
        for keyword in keywords:
            delattr(data, keyword)
    return slices


def renumbered(slices: list[Any]) -> list[Any]:
    """Another instance number for each, as other objects of the same series have."""
    for number, data in enumerate(slices):
        data.SOPInstanceUID = f"1.2.840.99.{number + 1}"
    return slices


def reasons(result: Found) -> list[str]:
    return [one.reason for one in result[1]]


# Phases


def by_temporal_position(slices: list[Any]) -> None:
    without(slices, "AcquisitionTime")


def by_acquisition_number(slices: list[Any]) -> None:
    for data in slices:
        data.AcquisitionNumber = data.TemporalPositionIdentifier
    without(slices, "AcquisitionTime", "TemporalPositionIdentifier")


def by_acquisition_time(slices: list[Any]) -> None:
    without(slices, "TemporalPositionIdentifier")


def by_time_of_each_slice(slices: list[Any]) -> None:
    """As in 2D acquisitions: slices one after the other, phase after phase."""
    for data in slices:
        minute = 10 * data.TemporalPositionIdentifier + (100 - data.InstanceNumber)
        data.AcquisitionTime = f"10{minute:02d}00"
    without(slices, "TemporalPositionIdentifier")


def by_time_over_midnight(slices: list[Any]) -> None:
    for data in slices:
        data.AcquisitionTime = ("235800", "235930", "000100")[data.TemporalPositionIdentifier - 1]
    without(slices, "TemporalPositionIdentifier")


def by_trigger_time(slices: list[Any]) -> None:
    for data in slices:
        data.TriggerTime = 1000.0 * data.TemporalPositionIdentifier
    without(slices, "AcquisitionTime", "TemporalPositionIdentifier")


def by_content_time(slices: list[Any]) -> None:
    for data in slices:
        data.ContentTime = f"11{data.TemporalPositionIdentifier:02d}00"
        data.TemporalPositionIdentifier, data.AcquisitionTime = 1, "100000"


@pytest.mark.parametrize(
    ("change", "time_from"),
    [
        (by_temporal_position, "temporal position"),
        (by_acquisition_number, ""),
        (by_acquisition_time, "acquisition time"),
        (by_time_of_each_slice, "acquisition time"),
        (by_time_over_midnight, "acquisition time"),
        (by_trigger_time, "trigger time"),
        (by_content_time, "content time"),
    ],
)
def test_phases_of_one_series_are_told_apart(
    mr_files: Any, tmp_path: Path, change: Callable[[list[Any]], None], time_from: str
) -> None:
    slices = mr_files.dynamic(5, 3)
    change(slices)
    stacks, left_out = found(mr_files, tmp_path, slices)
    assert left_out == ()
    assert [(stack.phase, stack.num_phases) for stack in stacks] == [(1, 3), (2, 3), (3, 3)]
    assert {stack.time_from for stack in stacks} == {time_from}
    times = [stack.time_s for stack in stacks if stack.time_s is not None]
    assert times == sorted(times)
    for phase, stack in enumerate(stacks):
        np.testing.assert_array_equal(read_voxels(stack), mr_files.voxels(5, phase))
        np.testing.assert_allclose(stack.geometry.affine, mr_files.affine(), atol=1e-6)


def test_phases_that_nothing_tells_apart_are_refused(mr_files: Any, tmp_path: Path) -> None:
    slices = without(mr_files.dynamic(4, 2), "AcquisitionTime", "TemporalPositionIdentifier")
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert reasons(result) == [
        "slices at one position and one time with other pixels: which one counts is not told"
    ]


def test_phases_in_an_order_against_their_times_are_refused(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.dynamic(4, 3)
    for data in slices:
        data.TemporalPositionIdentifier = {1: 2, 2: 1, 3: 3}[data.TemporalPositionIdentifier]
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert reasons(result) == ["3 phases whose order by temporal position contradicts their acquisition time"]


def test_slice_times_that_overlap_between_phases_are_refused(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.dynamic(4, 2)
    by_time_of_each_slice(slices)
    slices[2].AcquisitionTime = "105900"  # after the second phase has started
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert "no time that tells them apart" in reasons(result)[0]


def test_a_phase_without_all_slices_keeps_its_place(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.dynamic(5, 3)
    del slices[4]  # the last slice of the first phase
    stacks, left_out = found(mr_files, tmp_path, slices)
    assert [(stack.phase, stack.num_phases) for stack in stacks] == [(2, 3), (3, 3)]
    assert [(one.what, one.reason, one.num_files) for one in left_out] == [
        ("phase", "phase 1 of 3 lacks 1 of 5 slices", 4)
    ]


def test_a_2d_dynamic_of_one_position_has_phases_too(mr_files: Any, tmp_path: Path) -> None:
    stacks, left_out = found(mr_files, tmp_path, mr_files.dynamic(1, 4))
    assert left_out == ()
    assert [stack.phase for stack in stacks] == [1, 2, 3, 4]
    assert {stack.geometry.spacing_from for stack in stacks} == {"SliceThickness"}


# Groups


def test_echoes_are_volumes_of_their_own(mr_files: Any, tmp_path: Path) -> None:
    slices = renumbered([*mr_files.stack(3), *mr_files.stack(3, EchoTime=4.8)])
    stacks, left_out = found(mr_files, tmp_path, slices)
    assert left_out == ()
    assert [stack.frames[0].echo_ms for stack in stacks] == [2.4, 4.8]
    assert all(stack.notices[0].startswith("one of 2 groups of its series") for stack in stacks)


@pytest.mark.parametrize(
    ("image_type", "reason"),
    [
        (["DERIVED", "SECONDARY", "MPR"], "derived by the scanner"),
        (["DERIVED", "PRIMARY", "M", "SUB"], "derived by the scanner"),
        (["ORIGINAL", "SECONDARY", "MIP"], "derived by the scanner"),
        (["ORIGINAL", "PRIMARY", "P"], "phase, real or imaginary images"),
        (["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"),
        (["ORIGINAL", "PRIMARY", "M", "MOSAIC"], "mosaic of several slices"),
    ],
)
def test_images_not_as_acquired_are_left_out(
    mr_files: Any, tmp_path: Path, image_type: list[str], reason: str
) -> None:
    slices = renumbered([*mr_files.stack(3), *mr_files.stack(4, ImageType=image_type)])
    stacks, (left_out,) = found(mr_files, tmp_path, slices)
    assert [len(stack.frames) for stack in stacks] == [3]
    assert left_out.reason.startswith(reason)
    assert (left_out.what, left_out.num_files) == ("phase", 4)


def test_three_orientations_of_few_slices_are_a_localizer(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.dynamic(3, 3)
    for data in slices:
        turn = data.TemporalPositionIdentifier - 1
        data.ImageOrientationPatient = np.roll([1, 0, 0], turn).tolist() + np.roll([0, 1, 0], turn).tolist()
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert reasons(result) == ["slices of three or more orientations: a localizer"]


def test_a_stray_slice_does_not_spoil_its_series(mr_files: Any, tmp_path: Path) -> None:
    stray = mr_files.slice_of(9, Rows=10, PixelData=mr_files.pixels(9)[:10].tobytes())
    stacks, left_out = found(mr_files, tmp_path, [*mr_files.stack(4), stray])
    np.testing.assert_array_equal(read_voxels(stacks[0]), mr_files.voxels(4))
    assert [one.reason for one in left_out] == [
        "one slice of another orientation, size or kind than the rest of its series"
    ]


# Copies, gaps, geometry


def test_copies_are_dropped_and_counted(mr_files: Any, tmp_path: Path) -> None:
    slices = renumbered([*mr_files.dynamic(4, 2), mr_files.slice_of(1, 0), mr_files.slice_of(2, 1)])
    stacks, left_out = found(mr_files, tmp_path, slices)
    assert left_out == ()
    for phase, stack in enumerate(stacks):
        np.testing.assert_array_equal(read_voxels(stack), mr_files.voxels(4, phase))
        assert stack.notices == ("copies of slices dropped: 2",)


@pytest.mark.parametrize("missing", [(1,), (1, 2), (1, 3)])
def test_missing_slices_are_counted_never_made_up(
    mr_files: Any, tmp_path: Path, missing: tuple[int, ...]
) -> None:
    slices = [data for level, data in enumerate(mr_files.stack(6)) if level not in missing]
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert reasons(result) == [
        f"missing slices: {len(missing)} in between the others (usually 2.500 mm apart)"
    ]


def test_uneven_slices_are_refused(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.stack(5)
    up = mr_files.axes()[:, 2]
    place = np.array(slices[4].ImagePositionPatient, np.float64) + 0.4 * mr_files.slice_mm * up
    slices[4].ImagePositionPatient = [f"{value:.9f}" for value in place]
    result = found(mr_files, tmp_path, slices)
    assert result[0] == ()
    assert reasons(result) == [
        "uneven slices: 3.500 mm between slices 4 and 5, usually 2.500 mm; 1 such gaps"
    ]


def test_what_is_unusual_is_noted(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.stack(4, SpacingBetweenSlices=1.25)
    slices[2].RescaleSlope, slices[2].RescaleIntercept = 3, -10
    slices[1].PixelRepresentation = 0
    (stack,), _ = found(mr_files, tmp_path, slices)
    assert stack.notices == (
        "2 different rescale slopes or intercepts, each applied to its slices",
        "stored values of different types (PixelRepresentation, BitsAllocated)",
        "slices lie 2.500 mm apart, SpacingBetweenSlices says 1.250 mm",
    )
    expected = mr_files.voxels(4).astype(np.float32)
    expected[:, :, 2] = expected[:, :, 2] * 3 - 10
    np.testing.assert_array_equal(read_voxels(stack)[:, :, 1:], expected[:, :, 1:])


def test_integers_stay_integers_without_a_rescale(mr_files: Any, tmp_path: Path) -> None:
    (stack,), _ = found(mr_files, tmp_path, mr_files.stack(3, RescaleSlope=1, RescaleIntercept=0))
    assert read_voxels(stack).dtype == np.int16


def test_pixels_beyond_the_told_size_are_refused(mr_files: Any, tmp_path: Path) -> None:
    (stack,), _ = found(mr_files, tmp_path, mr_files.stack(3, Rows=11))
    with pytest.raises(SeriesError, match="more pixels than Rows, Columns and NumberOfFrames say"):
        read_voxels(stack)


def test_a_file_gone_since_the_scan_is_a_reason(mr_files: Any, tmp_path: Path) -> None:
    (stack,), _ = found(mr_files, tmp_path, mr_files.stack(3))
    (tmp_path / "IM0001").unlink()
    with pytest.raises(SeriesError, match="truncated, damaged or missing pixel data"):
        read_voxels(stack)
