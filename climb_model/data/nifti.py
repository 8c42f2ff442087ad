"""NIfTI files read once: checksum verified, header doubted, nothing allocated that is not there."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from climb_model.data.inflate import LARGEST_RATIO, GzipError, inflate, inflate_head
from climb_model.data.nifti_header import LARGEST_VOLUME, NUM_BYTES, NiftiError, NiftiHead, check_header

_PACKED_HEAD = 4096
"""Bytes of a gzip file that surely hold them; a gzip header may carry a file name."""


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
        NiftiError: unreadable, truncated or damaged, larger than its header promises, not 3-D, not real
            numbers, without orientation, or with statements about its position that contradict each other.
    """
    (image,) = _read(path, most_volumes=1)
    return image


def read_phases(path: Path) -> tuple[Image, ...]:
    """Read an image whose fourth axis is time: one image a time point, in the file's order.

    Raises:
        NiftiError: as `read_nifti`, but for the fourth axis.
    """
    return _read(path, most_volumes=None)


def read_nifti_header(path: Path) -> NiftiHead:
    """The header of a `.nii` or `.nii.gz` file, from its first 4 KB, with all checks that need no voxel.

    A file that passes may still be truncated or damaged.

    Raises:
        NiftiError: as `read_nifti`, as far as header and file size tell.
    """
    return _head(path, most_volumes=1)


def read_phases_header(path: Path) -> NiftiHead:
    """`read_nifti_header` of a file that `read_phases` reads.

    Raises:
        NiftiError: as `read_nifti_header`, but for the fourth axis.
    """
    return _head(path, most_volumes=None)


def _head(path: Path, most_volumes: int | None) -> NiftiHead:
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise NiftiError("unreadable file: not a regular file")
        with path.open("rb") as file:
            start = file.read(_PACKED_HEAD)
    except OSError as error:
        raise NiftiError(f"unreadable file: {_reason(error)}") from None
    zipped = _is_gzip(start)
    try:
        head = check_header(inflate_head(start, NUM_BYTES) if zipped else start[:NUM_BYTES], most_volumes)
    except GzipError as error:
        raise NiftiError(str(error)) from None
    promised = f"its header promises {head.num_bytes} bytes"
    if head.num_bytes > LARGEST_VOLUME * head.num_volumes:
        raise NiftiError(f"header with an impossible size: {promised}")
    most = state.st_size * LARGEST_RATIO if zipped else state.st_size
    if most < head.num_bytes:
        raise NiftiError(f"truncated: {promised}, {'at most ' if zipped else ''}{most} came")
    if not zipped and most > head.num_bytes:
        raise NiftiError(f"larger than its header says: {promised}, {most} came")
    return head


def _read(path: Path, most_volumes: int | None) -> tuple[Image, ...]:
    head = _head(path, most_volumes)
    try:
        raw = path.read_bytes()
        if _is_gzip(raw):
            raw = inflate(raw, head.num_bytes)
    except OSError as error:
        raise NiftiError(f"unreadable file: {_reason(error)}") from None
    except GzipError as error:
        raise NiftiError(str(error)) from None
    promised = f"its header promises {head.num_bytes} bytes"
    if len(raw) < head.num_bytes:
        raise NiftiError(f"truncated: {promised}, {len(raw)} came")
    if len(raw) > head.num_bytes:
        raise NiftiError(f"larger than its header says: {promised}, more came")
    size = (*head.shape, head.num_volumes)
    volumes = np.frombuffer(raw, head.dtype, offset=head.offset).reshape(size, order="F")
    return tuple(
        Image(voxels=volumes[..., place], slope=head.slope, intercept=head.intercept, affine=head.affine)
        for place in range(head.num_volumes)
    )


def _is_gzip(start: bytes) -> bool:
    return start[:2] == b"\x1f\x8b"


def _reason(error: OSError) -> str:
    return error.strerror or os.strerror(error.errno or 0)
