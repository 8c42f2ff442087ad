"""What is read of classic and of enhanced multi-frame files."""

from __future__ import annotations

import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, LegacyConvertedEnhancedMRImageStorage

from climb_model.intake.dicom.headers import read_header, scan
from climb_model.intake.dicom.stacks import find_stacks, read_voxels
from climb_model.intake.study import Frame, Stack


def frames_of(path: Path) -> tuple[Frame, ...]:
    header = read_header(path)
    assert not isinstance(header, str), header
    return header.frames


def stacks_of(folder: Path) -> tuple[Stack, ...]:
    found = scan(folder)
    assert found.left_out == ()
    stacks, left_out = find_stacks(found.studies[0].series[0])
    assert left_out == ()
    return stacks


def test_a_classic_file_is_one_frame(mr_files: Any, tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -5, "TriggerTime": 30, "AcquisitionNumber": 4}
    data = mr_files.slice_of(2, 1, ContentTime="101500.25", SpacingBetweenSlices=2.5, **tags)
    mr_files.save(tmp_path, [data])
    (frame,) = frames_of(tmp_path / "IM0000")
    assert frame.position == pytest.approx(tuple(map(float, data.ImagePositionPatient)))
    assert frame.orientation == pytest.approx(tuple(map(float, data.ImageOrientationPatient)))
    assert frame == replace(
        frame,
        index=None,
        num_frames=1,
        instance=data.SOPInstanceUID,
        rows=12,
        columns=10,
        spacing=(0.9, 0.7),
        slope=2.0,
        intercept=-5.0,
        trigger_ms=30.0,
        acquisition_number=4,
        temporal_position=2,
        acquired_s=10 * 3600 + 60 + 30.5,
        content_s=10 * 3600 + 15 * 60 + 0.25,
        echo_ms=2.4,
        slice_spacing_mm=2.5,
        signed=True,
        lossy=False,
    )


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize("undefined_length", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
def test_shuffled_frames_of_an_enhanced_file_give_the_classic_volumes(
    mr_files: Any, tmp_path: Path, syntax: str, undefined_length: bool, legacy: bool
) -> None:
    slices = mr_files.dynamic(5, 2, RescaleSlope=0.5, RescaleIntercept=-20)
    classic = stacks_of(mr_files.save(tmp_path / "classic", slices))
    order = np.random.default_rng(0).permutation(len(slices))
    file = mr_files.enhanced([slices[place] for place in order])
    file.file_meta.TransferSyntaxUID = syntax
    file["PerFrameFunctionalGroupsSequence"].is_undefined_length = undefined_length
    if legacy:
        file.SOPClassUID = LegacyConvertedEnhancedMRImageStorage
    stacks = stacks_of(mr_files.save(tmp_path / "enhanced", [file]))
    assert len(stacks) == len(classic) == 2
    for phase, (one, other) in enumerate(zip(stacks, classic, strict=True)):
        np.testing.assert_array_equal(read_voxels(one), read_voxels(other))
        np.testing.assert_array_equal(read_voxels(one), mr_files.voxels(5, phase) * 0.5 - 20)
        np.testing.assert_allclose(one.geometry.affine, other.geometry.affine, atol=1e-9)
        assert (one.phase, one.num_phases, one.time_s, one.time_from) == (
            other.phase,
            other.num_phases,
            other.time_s,
            other.time_from,
        )


def test_a_group_of_one_frame_counts_before_the_shared_one(mr_files: Any, tmp_path: Path) -> None:
    file = mr_files.enhanced(mr_files.stack(2))
    own = Dataset()
    own.EffectiveEchoTime = 4.8
    file.PerFrameFunctionalGroupsSequence[1].MREchoSequence = [own]
    mr_files.save(tmp_path, [file])
    assert [frame.echo_ms for frame in frames_of(tmp_path / "IM0000")] == [2.4, 4.8]


def test_diffusion_weighting_and_echo_make_volumes_of_their_own(mr_files: Any, tmp_path: Path) -> None:
    slices = [*mr_files.stack(3), *mr_files.stack(3), *mr_files.stack(3)]
    file = mr_files.enhanced(slices)
    for number, groups in enumerate(file.PerFrameFunctionalGroupsSequence):
        diffusion = Dataset()
        diffusion.DiffusionBValue = (0.0, 400.0, 800.0)[number // 3]
        groups.MRDiffusionSequence = [diffusion]
    stacks = stacks_of(mr_files.save(tmp_path, [file]))
    assert [stack.frames[0].b_value for stack in stacks] == [0.0, 400.0, 800.0]
    assert all(stack.num_phases == 1 for stack in stacks)


def test_frames_without_their_groups_are_a_damaged_header(mr_files: Any, tmp_path: Path) -> None:
    file = mr_files.enhanced(mr_files.stack(4))
    file.NumberOfFrames = 5
    assert read_header(mr_files.save(tmp_path, [file]) / "IM0000") == "damaged DICOM header"
    del file.PerFrameFunctionalGroupsSequence
    found = scan(mr_files.save(tmp_path, [file]))
    assert [one.reason for one in found.left_out] == [
        "enhanced MR without the functional groups of its frames"
    ]


@pytest.mark.parametrize("value", ["1\\2", "nan", "1e999", "zwei"])
def test_a_number_that_is_none_is_a_damaged_header(mr_files: Any, tmp_path: Path, value: str) -> None:
    mr_files.save(tmp_path, [mr_files.slice_of(0, RescaleSlope=1.25)])
    path = tmp_path / "IM0000"
    content = path.read_bytes()
    assert content.count(b"1.25") == 1
    path.write_bytes(content.replace(b"1.25", value.ljust(4)[:4].encode().replace(b"1e99", b"inf ")))
    assert read_header(path) == "damaged DICOM header"


def test_thousands_of_frames_are_read_in_seconds(mr_files: Any, tmp_path: Path) -> None:
    file = mr_files.enhanced(mr_files.dynamic(5, 2))
    groups = file.PerFrameFunctionalGroupsSequence
    file.PerFrameFunctionalGroupsSequence = [deepcopy(one) for one in list(groups) * 100]
    file.NumberOfFrames = 1000
    file.PixelData = file.PixelData * 100
    mr_files.save(tmp_path, [file])
    start = time.process_time()
    assert len(frames_of(tmp_path / "IM0000")) == 1000
    assert time.process_time() - start < 5  # 0.6 s alone on a core
