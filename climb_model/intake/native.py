"""An exam on its native grids: NIfTI files and where each of them came from."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np


def nifti_bytes(voxels: np.ndarray, affine: np.ndarray) -> bytes:
    """A gzipped NIfTI-1 file: the same voxels and affine give the same bytes.

    Args:
        voxels: (column, row, slice).
        affine: (4, 4) index of column, row, slice to RAS+ millimetres.
    """
    image = nib.Nifti1Image(voxels, affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code="scanner")
    image.set_qform(affine, code="scanner")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)
