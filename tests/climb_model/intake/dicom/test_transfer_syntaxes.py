"""Every transfer syntax gives the same voxels, or a true reason why not."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.uid import (
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
)

from climb_model.intake.dicom.headers import scan
from climb_model.intake.dicom.stacks import all_stacks, find_stacks, read_voxels
from climb_model.intake.study import SeriesError, Stack

SYNTAXES = (
    "JPEGLosslessProcess14",
    "JPEGLosslessProcess14_1",
    "JPEGLSLossless",
    "JPEG2000Lossless",
    "RLELossless",
)


def stacks_of(folder: Path) -> tuple[Stack, ...]:
    found = scan(folder)
    assert found.left_out == ()
    stacks, left_out = find_stacks(found.studies[0].series[0])
    assert left_out == ()
    return stacks


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("enhanced", [False, True])
def test_compression_without_loss_changes_nothing(
    mr_files: Any, tmp_path: Path, syntax: str, enhanced: bool
) -> None:
    slices = mr_files.dynamic(4, 2)
    folder = mr_files.save(tmp_path / "in", [mr_files.enhanced(slices[::-1])] if enhanced else slices)
    mr_files.compress(folder, syntax)
    for path in folder.iterdir():
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    for phase, stack in enumerate(stacks_of(folder)):
        np.testing.assert_array_equal(read_voxels(stack), mr_files.voxels(4, phase))
        np.testing.assert_allclose(stack.geometry.affine, mr_files.affine(), atol=1e-6)
        assert stack.notices == ()


@pytest.mark.parametrize(
    "syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian]
)
@pytest.mark.parametrize("enhanced", [False, True])
def test_uncompressed_encodings_change_nothing(
    mr_files: Any, tmp_path: Path, syntax: str, enhanced: bool
) -> None:
    slices = mr_files.dynamic(4, 2)
    files = [mr_files.enhanced(slices[::-1])] if enhanced else slices
    for data in files:
        data.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            data.PixelData = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    for phase, stack in enumerate(stacks_of(mr_files.save(tmp_path / "in", files))):
        voxels = read_voxels(stack)
        assert voxels.dtype == np.dtype("<i2")
        np.testing.assert_array_equal(voxels, mr_files.voxels(4, phase))


@pytest.mark.parametrize(
    "name",
    ["", "_RLE", "_bigendian", "_expb", "_implicit", "_padded", "_jp2klossless", "_jpeg_ls_lossless"],
)
def test_pydicoms_mr_file_is_the_same_in_all_its_syntaxes(tmp_path: Path, name: str) -> None:
    shutil.copy(str(get_testdata_file(f"MR_small{name}.dcm")), tmp_path)
    series = scan(tmp_path).studies[0].series[0]
    (stack,), _ = all_stacks(series)
    expected = pydicom.dcmread(str(get_testdata_file("MR_small.dcm"))).pixel_array
    np.testing.assert_array_equal(read_voxels(stack)[:, :, 0].T, expected)
    assert find_stacks(series)[1][0].reason.startswith("derived by the scanner")  # as its ImageType says


def test_loss_is_noted_not_refused(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(3))
    mr_files.compress(folder, "JPEG2000Lossless")
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.LossyImageCompression, data.ImageType = "01", ["DERIVED", "PRIMARY", "M"]
        data.file_meta.TransferSyntaxUID = JPEG2000
        data.save_as(path)
    (stack,) = stacks_of(folder)
    assert stack.notices == ("3 of 3 slices were compressed with loss",)
    np.testing.assert_array_equal(read_voxels(stack), mr_files.voxels(3))


def test_a_syntax_without_decoder_is_named(mr_files: Any, tmp_path: Path) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(3))
    mr_files.compress(folder, "JPEG2000Lossless")
    for path in folder.iterdir():
        data = pydicom.dcmread(path)
        data.file_meta.TransferSyntaxUID = HTJ2KLossless
        data.save_as(path)
    stacks, (left_out,) = find_stacks(scan(folder).studies[0].series[0])
    assert stacks == ()
    assert "High-Throughput JPEG 2000" in left_out.reason
    assert "no decoder for it is installed" in left_out.reason


def test_a_codestream_of_another_size_is_refused_before_it_is_decoded(mr_files: Any, tmp_path: Path) -> None:
    for syntax in SYNTAXES[:4]:
        folder = mr_files.save(tmp_path / syntax, mr_files.stack(2))
        mr_files.compress(folder, syntax)
        for path in folder.iterdir():
            data = pydicom.dcmread(path)
            data.Rows = 4000
            data.save_as(path)
        (stack,) = stacks_of(folder)
        with pytest.raises(SeriesError, match="another size than Rows and Columns"):
            read_voxels(stack)


def test_absurd_sizes_are_refused_without_taking_memory(mr_files: Any, tmp_path: Path) -> None:
    slices = mr_files.stack(3)
    for data in slices:
        data.Rows = data.Columns = 65535
    series = scan(mr_files.save(tmp_path / "in", slices)).studies[0].series[0]
    stacks, (left_out,) = find_stacks(series)
    assert stacks == ()
    assert "more than" in left_out.reason


def test_a_file_that_inflates_without_end_is_refused(mr_files: Any, tmp_path: Path) -> None:
    data = mr_files.slice_of(0)
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    folder = mr_files.save(tmp_path / "in", [data])
    (path,) = folder.iterdir()
    content = path.read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflater = zlib.compressobj(9, wbits=-15)
    packed = [deflater.compress(bytes(2**26)) for _ in range(17)]
    path.write_bytes(content[:start] + b"".join(packed) + deflater.flush())
    assert path.stat().st_size < 2**21
    assert [one.reason for one in scan(folder).left_out] == ["damaged DICOM header"]


def test_a_decoder_that_dies_is_a_reason_not_a_crash(
    mr_files: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = mr_files.save(tmp_path / "in", mr_files.stack(2))
    mr_files.compress(folder, "JPEGLosslessProcess14_1")
    (stack,) = stacks_of(folder)
    dying = tmp_path / "dying"
    dying.write_text("#!/bin/sh\nkill -ABRT $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr("climb_model.intake.dicom.decoder.sys.executable", str(dying))
    with pytest.raises(SeriesError, match="truncated, damaged or missing pixel data"):
        read_voxels(stack)
