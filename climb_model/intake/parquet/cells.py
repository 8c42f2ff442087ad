"""Cells of a parquet table as images and affines, by their arrow type."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from climb_model.intake.study import SeriesError

LARGEST_MM = 600.0
"""No bore is wider: an image of a larger extent has its axes in another order than its affine."""

LARGEST_OFFSET_MM, SMALLEST_VOXEL_MM3 = 1e5, 1e-9

_NPY = b"\x93NUMPY"


def nifti_of(cell: Any) -> bytes | None:
    """The bytes of a cell that holds a NIfTI file; None where it holds something else."""
    content = _bytes_of(cell)
    return None if content is None or content.startswith(_NPY) else content


def array_of(cell: Any) -> np.ndarray:
    """Numbers of a cell: lists within lists of equal lengths (also Array2D and Array3D of `datasets`), or the
    bytes of a `.npy` file.

    Args:
        cell: pyarrow scalar that is not null.

    Raises:
        SeriesError: lists of unequal lengths, empty or missing values, anything but numbers.
    """
    content = _bytes_of(cell)
    if content is None:
        return _nested(cell)
    try:
        found: object = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        raise SeriesError("bytes that are no .npy array") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "iuf" or not found.size:
        raise SeriesError("values that are no real numbers")
    return found


def image_of(cell: Any) -> np.ndarray:
    """Voxels (i, j, k); a leading axis of length 1 (a channel) is dropped.

    Raises:
        SeriesError: as `array_of`, not 3-D, or not finite.
    """
    voxels = array_of(cell)
    if voxels.ndim == 4 and len(voxels) == 1:
        voxels = voxels[0]
    if voxels.ndim != 3:
        raise SeriesError(f"wanted a 3-D image, got {voxels.ndim}-D {'x'.join(map(str, voxels.shape))}")
    if not np.isfinite(voxels).all():
        raise SeriesError("voxels that are not finite (NaN or infinite)")
    return compact(voxels)


def affine_of(cell: Any) -> np.ndarray:
    """(4, 4) voxel index to RAS+ millimetres, of four rows of four numbers or of 16 numbers row by row.

    Raises:
        SeriesError: as `array_of`, no affine, or one that no image has.
    """
    affine = array_of(cell).astype(np.float64)
    if affine.size != 16 or affine.ndim > 2:
        raise SeriesError(f"wanted an affine of 4 x 4 numbers, got {'x'.join(map(str, affine.shape))}")
    affine = affine.reshape(4, 4)
    if not np.isfinite(affine).all() or affine[3].tolist() != [0, 0, 0, 1]:
        raise SeriesError("an affine whose last row is not 0, 0, 0, 1")
    if np.abs(affine).max() > LARGEST_OFFSET_MM or abs(np.linalg.det(affine)) < SMALLEST_VOXEL_MM3:
        raise SeriesError("an impossible affine")
    return affine


def check_extent(shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Refuse an image whose index axes cannot be the affine's columns.

    Raises:
        SeriesError: an extent that no scanner has.
    """
    extent = [
        size * float(step) for size, step in zip(shape, np.linalg.norm(affine[:3, :3], axis=0), strict=True)
    ]
    if max(extent) > LARGEST_MM:
        shown = " x ".join(f"{length:.0f}" for length in extent)
        raise SeriesError(f"an extent of {shown} mm: its axes are not in the order of its affine's columns")


def _bytes_of(cell: Any) -> bytes | None:
    """Of a binary cell, or of a struct with a field `bytes`, as `datasets` writes files."""
    import pyarrow as pa

    if isinstance(cell, pa.ExtensionScalar):
        cell = cell.value
    if pa.types.is_struct(cell.type):
        if cell.type.get_field_index("bytes") < 0 or not cell["bytes"].is_valid:
            raise SeriesError("a file that is told by its path and not contained")
        cell = cell["bytes"]
    if pa.types.is_binary(cell.type) or pa.types.is_large_binary(cell.type):
        return bytes(cell.as_buffer())
    return None


def _nested(cell: Any) -> np.ndarray:
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(cell, pa.ExtensionScalar):
        cell = cell.value
    shape: list[int] = []
    values = getattr(cell, "values", None)  # an arrow array, of a scalar that is a list
    while values is not None:
        if values.null_count:
            raise SeriesError("missing values among the numbers")
        if not _is_list(values.type):
            shape.append(len(values) // max(math.prod(shape), 1))
            if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
                break
            return values.to_numpy(zero_copy_only=False).reshape(shape)
        shape.append(len(values) // max(math.prod(shape), 1))
        lengths = pc.call_function("list_value_length", [values])
        if len(lengths.unique()) != 1 or not lengths[0].as_py():
            raise SeriesError("lists of unequal lengths, or none")
        values = values.flatten()
    raise SeriesError("values that are no real numbers")


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def compact(voxels: np.ndarray) -> np.ndarray:
    """int16 where whole numbers fit, else float32."""
    low, high = voxels.min(), voxels.max()
    limits = np.iinfo(np.int16)
    if voxels.dtype.kind in "iu" and limits.min <= low and high <= limits.max:
        return voxels.astype(np.int16)
    return voxels.astype(np.float32)
