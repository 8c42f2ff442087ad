"""What a NIfTI header says, believed only where its own statements agree."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError

NUM_BYTES = 560
"""Bytes that hold a NIfTI-1 (348) or NIfTI-2 (540) header with its extension flag."""

LARGEST_VOLUME = 2**32
"""Bytes of a volume. A breast exam's has under 2**28."""

_KINDS = ((Nifti1Header, b"n+1\0"), (Nifti2Header, b"n+2\0\r\n\x1a\n"))

_NUMBERS = {2: 8, 4: 16, 8: 32, 16: 32, 64: 64, 256: 8, 512: 16, 768: 32, 1024: 64, 1280: 64}
"""NIfTI's datatype codes of integers and of 32- and 64-bit floats, with their bits."""

_SPACING_MM = (1e-3, 1e3)
_FARTHEST_MM = 1e5
_PIXDIM_CLOSE = 0.01
"""Relative difference between pixdim and the length of the affine's columns; writers round."""


class NiftiError(ValueError):
    """A file that is no sound 3-D image; says what is wrong with it, without its name."""


@dataclass(frozen=True, kw_only=True)
class NiftiHead:
    """What a file's header says, after every check that needs no voxel."""

    shape: tuple[int, int, int]
    """(i, j, k) voxels."""

    num_volumes: int
    """Length of the fourth axis; 1 for a 3-D image."""

    dtype: np.dtype
    """Number type in the file, with its byte order."""

    slope: float
    intercept: float
    affine: np.ndarray = field(repr=False)
    """(4, 4) voxel index to RAS+ millimetres."""

    offset: int
    """Bytes before the first voxel."""

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of voxel centres along i, j and k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def num_bytes(self) -> int:
        """Size of the whole file, decompressed."""
        return self.offset + math.prod(self.shape) * self.num_volumes * self.dtype.itemsize


def check_header(start: bytes, most_volumes: int | None) -> NiftiHead:
    """The header at the beginning of a decompressed file, after every check that needs nothing else.

    Args:
        start: the first `NUM_BYTES` bytes, or all of a shorter file.
        most_volumes: longest fourth axis; None for any.

    Raises:
        NiftiError: no header of a single-file image, or one that is impossible or contradicts itself.
    """
    with np.errstate(all="ignore"):
        return _checked(_header(start), most_volumes)


def _header(head: bytes) -> Nifti1Header:
    """The header as it stands. Its first number, always the header's own length, tells the byte order."""
    for kind, magic in _KINDS:
        size = kind.template_dtype.itemsize
        for code in "<>":
            if len(head) >= size and struct.unpack(f"{code}i", head[:4]) == (size,):
                found = head[4:12] if kind is Nifti2Header else head[344:348]
                if found.startswith(b"ni"):
                    raise NiftiError("header of a .hdr/.img pair, whose voxels are in another file")
                if found != magic:
                    raise NiftiError("no NIfTI header: its magic string is another")
                return kind(head[:size], code, check=False)
    raise NiftiError("no NIfTI header")


def _checked(header: Nifti1Header, most_volumes: int | None) -> NiftiHead:
    shape, num_volumes = _shape(header, most_volumes)
    dtype = _number_type(header)
    slope, intercept = _scaling(header)
    return NiftiHead(
        shape=shape,
        num_volumes=num_volumes,
        dtype=dtype,
        slope=slope,
        intercept=intercept,
        affine=_affine(header, shape),
        offset=_offset(header),
    )


def _shape(header: Nifti1Header, most_volumes: int | None) -> tuple[tuple[int, int, int], int]:
    dim = [int(length) for length in header["dim"]]
    shape = dim[1 : 1 + max(0, min(dim[0], 7))]
    if not 1 <= dim[0] <= 7 or any(length < 1 for length in shape):
        raise NiftiError(f"header with an impossible size, {dim}")
    num_volumes = math.prod(shape[3:4])
    if len(shape) < 3 or any(length > 1 for length in shape[4:]) or num_volumes > (most_volumes or math.inf):
        raise NiftiError(f"wanted a 3-D image, got {len(shape)}-D {'x'.join(map(str, shape))}")
    return (shape[0], shape[1], shape[2]), num_volumes


def _number_type(header: Nifti1Header) -> np.dtype:
    code, bits = int(header["datatype"]), int(header["bitpix"])
    if code not in _NUMBERS:
        raise NiftiError(f"voxels are not real numbers of at most 64 bits: datatype {code}")
    if bits != _NUMBERS[code]:
        raise NiftiError(f"header with {bits} bits a voxel, where datatype {code} has {_NUMBERS[code]}")
    return header.get_data_dtype()


def _offset(header: Nifti1Header) -> int:
    offset = float(header["vox_offset"])
    least = header.template_dtype.itemsize + 4  # the extension flag
    if not (least <= offset <= LARGEST_VOLUME and offset.is_integer()):
        raise NiftiError(f"header with an impossible vox_offset: {offset:g}, wanted {least} or more")
    return int(offset)


def _scaling(header: Nifti1Header) -> tuple[float, float]:
    """Slope 0 means that the voxels are the values (NIfTI-1, scl_slope)."""
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise NiftiError("header with an impossible intensity scaling")
    return (slope, intercept) if slope else (1.0, 0.0)


def _affine(header: Nifti1Header, shape: tuple[int, int, int]) -> np.ndarray:
    """The sform, else the qform; where both are set they must tell the same place."""
    if int(header["xyzt_units"]) & 7 in (1, 3):
        raise NiftiError("lengths in metres or micrometres, wanted millimetres")
    sform = np.asarray(header.get_sform(), np.float64) if int(header["sform_code"]) > 0 else None
    qform = _qform(header) if int(header["qform_code"]) > 0 else None
    affine = qform if sform is None else sform
    if affine is None:
        raise NiftiError("no orientation: sform and qform codes are both 0")
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = _SPACING_MM
    if not (low <= lengths.min() and lengths.max() <= high and np.abs(affine[:3, 3]).max() <= _FARTHEST_MM):
        raise NiftiError("header with an impossible affine")
    axes = affine[:3, :3] / lengths
    if np.abs(axes.T @ axes - np.eye(3)).max() > 1e-2:
        raise NiftiError("sheared image: its axes are not at right angles")
    told = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    if not (np.abs(told - lengths) <= _PIXDIM_CLOSE * lengths).all():
        shown = " and ".join("x".join(f"{length:.4g}" for length in each) for each in (told, lengths))
        raise NiftiError(f"pixdim and affine tell different voxel sizes: {shown} mm")
    if sform is not None and qform is not None:
        apart = farthest_corner_mm(sform, qform, shape)
        if not apart <= 0.5 * lengths.min():
            raise NiftiError(f"sform and qform contradict each other: corners {apart:.2f} mm apart")
    return affine


def _qform(header: Nifti1Header) -> np.ndarray:
    if header["pixdim"][0] == 0:  # NIfTI-1: qfac 0 is 1
        header = header.copy()
        header["pixdim"][0] = 1
    try:
        return np.asarray(header.get_qform(), np.float64)
    except (HeaderDataError, ValueError):
        raise NiftiError("header with an impossible qform") from None


def farthest_corner_mm(one: np.ndarray, other: np.ndarray, shape: tuple[int, int, int]) -> float:
    """Greatest distance between the places that two affines give to a corner voxel."""
    corners = np.array(np.meshgrid(*([0, size - 1] for size in shape))).reshape(3, -1)
    difference = one - other
    return float(np.linalg.norm(difference[:3, :3] @ corners + difference[:3, 3:], axis=0).max())
