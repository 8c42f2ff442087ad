"""NIfTI files decompressed once, with their checksum verified."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

_HEAD = 560
"""Bytes that hold a NIfTI-1 (348) or NIfTI-2 (540) header with its extension flag."""


class NiftiError(ValueError):
    """A file that is no sound 3-D image; says what is wrong with it, without its name."""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A 3-D image as it is stored."""

    voxels: np.ndarray = field(repr=False)
    """(i, j, k) in the file's number type; a value is slope * voxel + intercept."""

    slope: float
    intercept: float
    affine: np.ndarray
    """(4, 4) voxel index to RAS+ millimetres."""


def read_nifti(path: Path) -> Image:
    """Read a `.nii` or `.nii.gz` file; a trailing fourth axis of length 1 is dropped.

    SimpleITK takes a `.nii.gz` whose last bytes are missing for whole, and nibabel one with damaged
    voxels; here the whole stream is decompressed and its CRC compared, which costs no second pass.

    Raises:
        NiftiError: unreadable, truncated or damaged, not 3-D, not real numbers, without orientation.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise NiftiError(f"unreadable file: {error.strerror}") from None
    zipped = packed[:2] == b"\x1f\x8b"
    header = _header(_inflate_head(packed) if zipped else packed[:_HEAD])
    shape = _shape(header)
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise NiftiError("voxels are not real numbers")
    offset, count = int(header.get_data_offset()), int(np.prod(shape))
    size = offset + count * dtype.itemsize
    raw = _inflate(packed, size) if zipped else packed
    if len(raw) < size:
        raise NiftiError(f"truncated: its header promises {size} bytes, {len(raw)} came")
    slope, intercept = _scaling(header)
    voxels = np.frombuffer(raw, dtype, count, offset).reshape(shape, order="F")
    return Image(voxels=voxels, slope=slope, intercept=intercept, affine=_affine(header))


def _inflate_head(packed: bytes) -> bytes:
    try:
        return zlib.decompressobj(31).decompress(packed[:4096], _HEAD)
    except zlib.error:
        raise NiftiError("damaged gzip stream") from None


def _inflate(packed: bytes, size: int) -> bytes:
    try:
        raw = zlib.decompress(packed, 31, size)
        return raw if len(raw) >= size else gzip.decompress(packed)  # some programs write several members
    except (zlib.error, EOFError, gzip.BadGzipFile):
        raise NiftiError("truncated or damaged gzip stream") from None


def _header(head: bytes) -> Nifti1Header:
    for kind in (Nifti1Header, Nifti2Header):
        size = kind.template_dtype.itemsize
        lengths = {int.from_bytes(head[:4], "little"), int.from_bytes(head[:4], "big")}
        if size in lengths and len(head) >= size:
            return kind(head[:size], check=False)
    raise NiftiError("no NIfTI header")


def _shape(header: Nifti1Header) -> tuple[int, int, int]:
    dim = [int(length) for length in header["dim"]]
    shape = dim[1 : 1 + max(0, min(dim[0], 7))]
    if any(length < 1 for length in shape):
        raise NiftiError(f"header with an impossible size, {dim}")
    if len(shape) < 3 or any(length > 1 for length in shape[3:]):
        raise NiftiError(f"wanted a 3-D image, got {len(shape)}-D {'x'.join(map(str, shape))}")
    return shape[0], shape[1], shape[2]


def _scaling(header: Nifti1Header) -> tuple[float, float]:
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError:
        raise NiftiError("header with an impossible intensity scaling") from None
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)


def _affine(header: Nifti1Header) -> np.ndarray:
    if int(header["sform_code"]) > 0:
        affine = np.asarray(header.get_sform(), np.float64)
    elif int(header["qform_code"]) > 0:
        try:
            affine = np.asarray(header.get_qform(), np.float64)
        except (HeaderDataError, ValueError):
            raise NiftiError("header with an impossible qform") from None
    else:
        raise NiftiError("no orientation: sform and qform codes are both 0")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() <= 0:
        raise NiftiError("header with an impossible affine")
    axes = affine[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-2:
        raise NiftiError("sheared image: its axes are not at right angles")
    return affine
