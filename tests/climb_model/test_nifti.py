"""NIfTI files are read as nibabel reads them, or refused with a reason that is true."""

from __future__ import annotations

import gzip
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from climb_model.data.nifti import read_nifti, read_nifti_header, read_phases, read_phases_header
from climb_model.data.nifti_header import NiftiError

NIBABEL = Path(nib.__file__).parent / "tests" / "data"
AFFINE = np.array([[-0.7, 0, 0, 60], [0, -0.7, 0, 70], [0, 0, 3, -40], [0, 0, 0, 1.0]])
FIELDS = {
    "dim": (40, "8h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl": (112, "2f"),
    "xyzt_units": (123, "b"),
    "codes": (252, "2h"),
    "quaternion": (256, "3f"),
    "qoffset": (268, "3f"),
    "srow_x": (280, "4f"),
    "magic": (344, "4s"),
}
"""Offset and struct format in a NIfTI-1 header."""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A sound 6x5x4 int16 file with sform and qform, then with header fields overwritten."""

    def write(name: str = "Pre.nii.gz", *, tail: bytes = b"", **fields: tuple[object, ...]) -> Path:
        voxels = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
        image = nib.Nifti1Image(voxels, AFFINE)
        image.set_qform(AFFINE, 1)
        raw = bytearray(image.to_bytes())
        for field, values in fields.items():
            offset, form = FIELDS[field]
            struct.pack_into(f"<{form}", raw, offset, *values)
        raw += tail
        path = tmp_path / name
        path.write_bytes(gzip.compress(bytes(raw)) if name.endswith(".gz") else bytes(raw))
        return path

    return write


def refusal(path: Path) -> str:
    """The one reason of both readers."""
    with pytest.raises(NiftiError) as of_header:
        read_nifti_header(path)
    with pytest.raises(NiftiError) as of_image:
        read_nifti(path)
    assert str(of_header.value) == str(of_image.value)
    assert "\n" not in str(of_image.value)
    return str(of_image.value)


@pytest.mark.parametrize("name", ["Pre.nii", "Pre.nii.gz"])
def test_header_and_image_say_the_same(write: Write, name: str) -> None:
    head, image = read_nifti_header(write(name)), read_nifti(write(name))
    assert head.shape == image.voxels.shape == (6, 5, 4)
    assert head.dtype == image.voxels.dtype == np.int16
    assert head.spacing_mm == pytest.approx((0.7, 0.7, 3.0))
    np.testing.assert_array_equal(head.affine, image.affine)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert image.voxels[3, 2, 1] == 3 * 20 + 2 * 4 + 1


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_byte_swapped_files_are_read(tmp_path: Path, kind: type[nib.Nifti1Image]) -> None:
    voxels = np.arange(120, dtype=np.int16).reshape(6, 5, 4)
    header = kind.header_class(endianness=">")
    image = kind(voxels, AFFINE, header)
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "swapped.nii")
    assert read_nifti_header(tmp_path / "swapped.nii").dtype == np.dtype(">i2")
    np.testing.assert_array_equal(read_nifti(tmp_path / "swapped.nii").voxels, voxels)


def test_of_a_gzip_file_only_the_head_is_read_for_its_header(write: Write) -> None:
    path = write()
    whole = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 2**15, (128, 128, 8), np.int16)
    nib.save(nib.Nifti1Image(noise, AFFINE), path)
    path.write_bytes(path.read_bytes()[:8000] + whole)
    assert read_nifti_header(path).shape == (128, 128, 8)
    with pytest.raises(NiftiError, match="truncated or damaged gzip stream"):
        read_nifti(path)


IMPOSSIBLE = {
    "vox_offset inside the header": ({"vox_offset": (348.0,)}, "impossible vox_offset: 348, wanted 352"),
    "vox_offset 0": ({"vox_offset": (0.0,)}, "impossible vox_offset"),
    "vox_offset NaN": ({"vox_offset": (np.nan,)}, "impossible vox_offset"),
    "vox_offset infinite": ({"vox_offset": (np.inf,)}, "impossible vox_offset"),
    "vox_offset between bytes": ({"vox_offset": (352.5,)}, "impossible vox_offset"),
    "bits of another type": ({"bitpix": (32,)}, "32 bits a voxel, where datatype 4 has 16"),
    "type of another width": ({"datatype": (16,)}, "16 bits a voxel, where datatype 16 has 32"),
    "colours": ({"datatype": (128,), "bitpix": (24,)}, "not real numbers"),
    "unknown type": ({"datatype": (77,)}, "not real numbers of at most 64 bits: datatype 77"),
    "slope NaN": ({"scl": (np.nan, 0.0)}, "impossible intensity scaling"),
    "intercept infinite": ({"scl": (1.0, np.inf)}, "impossible intensity scaling"),
    "no axes": ({"dim": (0, 6, 5, 4, 1, 1, 1, 1)}, "impossible size"),
    "200 axes": ({"dim": (200, 6, 5, 4, 1, 1, 1, 1)}, "impossible size"),
    "negative length": ({"dim": (3, 6, -5, 4, 1, 1, 1, 1)}, "impossible size"),
    "huge": ({"dim": (3, 32767, 32767, 32767, 1, 1, 1, 1)}, "impossible size: its header promises 7036"),
    "product over 2**64": (
        {"dim": (7, 32767, 32767, 32767, 32767, 32767, 32767, 32767)},
        "wanted a 3-D image, got 7-D",
    ),
    "larger than gzip can hold": ({"dim": (3, 600, 500, 400, 1, 1, 1, 1)}, "truncated: its header promises"),
    "metres": ({"xyzt_units": (1,)}, "lengths in metres"),
    "qform elsewhere": ({"qoffset": (60.0, 70.0, 40.0)}, "contradict each other: corners 80.00 mm apart"),
    "qform NaN": ({"quaternion": (np.nan, 0.0, 0.0)}, "qform"),
    "qform no rotation": ({"quaternion": (3.0, 0.0, 0.0)}, "impossible qform"),
    "sform elsewhere": ({"srow_x": (-0.7, 0.0, 0.0, 61.0)}, "contradict each other: corners 1.00 mm apart"),
    "spacing told twice": (
        {"codes": (0, 2), "pixdim": (1.0, 1.4, 0.7, 3.0, 0.0, 0.0, 0.0, 0.0)},
        "pixdim and affine tell different voxel sizes: 1.4x0.7x3 and 0.7x0.7x3 mm",
    ),
    "spacing NaN": (
        {"codes": (0, 2), "pixdim": (1.0, np.nan, 0.7, 3.0, 0.0, 0.0, 0.0, 0.0)},
        "pixdim and affine tell different voxel sizes",
    ),
    "no spacing": ({"srow_x": (0.0, 0.0, 0.0, 60.0)}, "impossible affine"),
    "outside the world": ({"codes": (0, 1), "srow_x": (-0.7, 0.0, 0.0, 1e9)}, "impossible affine"),
    "affine NaN": ({"srow_x": (np.nan, 0.0, 0.0, 60.0)}, "impossible affine"),
    "no codes": ({"codes": (0, 0)}, "no orientation"),
    "header of a pair": ({"magic": (b"ni1\0",)}, "header of a .hdr/.img pair"),
    "no magic": ({"magic": (b"\0\0\0\0",)}, "no NIfTI header"),
}


@pytest.mark.parametrize("fault", IMPOSSIBLE)
@pytest.mark.parametrize("name", ["Pre.nii", "Pre.nii.gz"])
def test_an_impossible_header_is_refused(write: Write, name: str, fault: str) -> None:
    fields, reason = IMPOSSIBLE[fault]
    assert reason in refusal(write(name, **fields))


def test_absurd_sizes_allocate_nothing(write: Write) -> None:
    absurd = write(dim=(3, 2000, 1000, 1000, 1, 1, 1, 1))  # 4 GB
    absurd.write_bytes(absurd.read_bytes() + b"\0" * 4_000_000)  # large enough for that, by its length
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NiftiError, match="truncated"):
        read_nifti(absurd)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KB


def test_a_stream_larger_than_its_header_says_is_not_expanded(write: Write) -> None:
    bomb = write(tail=bytes(200_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(NiftiError, match="larger than its header says"):
        read_nifti(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 512, b"x"])
@pytest.mark.parametrize("name", ["Pre.nii", "Pre.nii.gz"])
def test_data_behind_the_image_is_refused(write: Write, name: str, tail: bytes) -> None:
    with pytest.raises(NiftiError, match="larger than its header says"):
        read_nifti(write(name, tail=tail))


def test_behind_the_gzip_stream_zeros_are_padding_and_all_else_is_damage(write: Write) -> None:
    path = write()
    packed = path.read_bytes()
    path.write_bytes(packed + bytes(100))
    assert read_nifti(path).voxels.shape == (6, 5, 4)
    path.write_bytes(packed + b"other data")
    with pytest.raises(NiftiError, match="truncated or damaged gzip stream"):
        read_nifti(path)


def test_the_sign_that_only_a_qform_needs_is_mended(write: Write) -> None:
    """NIfTI-1: pixdim[0], the handedness of the qform, is 1 where it is 0."""
    plain = read_nifti(write(codes=(1, 0), pixdim=(1.0, 0.7, 0.7, 3.0, 0.0, 0.0, 0.0, 0.0)))
    mended = read_nifti(write(codes=(1, 0), pixdim=(0.0, 0.7, 0.7, 3.0, 0.0, 0.0, 0.0, 0.0)))
    np.testing.assert_array_equal(plain.affine, mended.affine)
    np.testing.assert_allclose(plain.affine, AFFINE, atol=1e-5)


def test_small_disagreement_of_sform_and_qform_is_rounding(write: Write) -> None:
    image = read_nifti(write(srow_x=(-0.7, 0.0, 0.0, 60.2)))
    assert image.affine[0, 3] == pytest.approx(60.2)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "Pre.nii.gz")
    assert refusal(tmp_path / "Pre.nii.gz") == "unreadable file: not a regular file"
    assert refusal(tmp_path) == "unreadable file: not a regular file"


def test_a_fourth_axis_is_time(tmp_path: Path) -> None:
    voxels = np.arange(360, dtype=np.int16).reshape(6, 5, 4, 3)
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "dynamic.nii.gz")
    assert read_phases_header(tmp_path / "dynamic.nii.gz").num_volumes == 3
    for number, image in enumerate(read_phases(tmp_path / "dynamic.nii.gz")):
        np.testing.assert_array_equal(image.voxels, voxels[..., number])
    assert refusal(tmp_path / "dynamic.nii.gz") == "wanted a 3-D image, got 4-D 6x5x4x3"


# Real files


@pytest.mark.parametrize("name", ["anatomical", "reoriented_anat_moved", "resampled_anat_moved", "standard"])
def test_nibabels_own_images_are_read_as_nibabel_reads_them(name: str) -> None:
    path = next(NIBABEL.glob(f"{name}.nii*"))
    same(path)


def test_the_mni_template_is_read_as_nibabel_reads_it() -> None:
    nilearn = pytest.importorskip("nilearn.datasets")
    folder = Path(nilearn.__file__).parent / "data"
    same(folder / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz")


def same(path: Path) -> None:
    image, wanted = read_nifti(path), nib.load(path)
    np.testing.assert_array_equal(image.voxels, np.asarray(wanted.dataobj.get_unscaled()))
    np.testing.assert_allclose(image.affine, wanted.affine, atol=1e-5)
    assert (image.slope, image.intercept) == (wanted.dataobj.slope, wanted.dataobj.inter)


@pytest.mark.parametrize(
    ("name", "size"),
    [("example4d", "128x96x24x2"), ("example_nifti2", "32x20x12x2"), ("functional", "17x21x3x20")],
)
def test_nibabels_images_with_time_are_refused_and_read_phase_by_phase(name: str, size: str) -> None:
    path = next(NIBABEL.glob(f"{name}.nii*"))
    assert refusal(path) == f"wanted a 3-D image, got 4-D {size}"
    wanted = np.asarray(nib.load(path).dataobj.get_unscaled())
    np.testing.assert_array_equal(np.stack([image.voxels for image in read_phases(path)], axis=-1), wanted)


def test_a_cifti_file_is_refused() -> None:
    assert "got 6-D 1x1x1x1x10x10" in refusal(NIBABEL / "row_major.dconn.nii")


def test_the_real_dynamic_series_is_refused_for_its_fourth_axis(assets: Path) -> None:
    path = assets / "data" / "breast_dce_invivo_192x192x1x25.nii.gz"
    assert refusal(path) == "wanted a 3-D image, got 4-D 192x192x1x25"
