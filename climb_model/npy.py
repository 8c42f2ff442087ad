"""A tensor's bytes as NumPy writes them: compared, not parsed, since they come from elsewhere."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

_TYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def values_of(data: bytes, dtype: str, shape: Sequence[int]) -> np.ndarray | None:
    """The array in the bytes of an `.npy` file, read-only and without a copy.

    Args:
        dtype: `float32` or `float16`.
        shape: as it is wanted or announced.

    Returns:
        None, unless the bytes are exactly those that NumPy writes for an array of this type and shape:
        nothing can hide in its header or behind it.
    """
    kind = _TYPES.get(dtype)
    if kind is None or any(size < 0 for size in shape):
        return None
    try:
        for order in ("C", "F"):
            header = _header(kind, tuple(shape), order)
            if len(data) == len(header) + math.prod(shape) * kind.itemsize and data.startswith(header):
                return np.frombuffer(data, kind, offset=len(header)).reshape(shape, order=order)
    except ValueError:
        pass  # NumPy has no array of this shape
    return None


def _header(dtype: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> bytes:
    """What NumPy writes before the values."""
    stream = io.BytesIO()
    told = {"descr": dtype.str, "fortran_order": order == "F", "shape": shape}
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue()
