"""An exam on its native grids: NIfTI files and where each of them came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from isal import igzip
from pydicom.uid import UID

from climb_model.atomic import write_atomic, write_text_atomic
from climb_model.intake.dicom.stacks import read_voxels
from climb_model.intake.pseudonym import keyed_digest, pseudonym
from climb_model.intake.sequences.recognise import RULES_VERSION, Named
from climb_model.intake.sequences.runs import seconds_after
from climb_model.intake.study import VENDORS, SeriesError, Stack, Study
from climb_model.made_by import made_by

PROVENANCE = "provenance.json"
PATIENT = "patient"
"""Under this every provenance of an import names its patient, who may have no row in the tables."""
_NEEDED = ("Pre", "Post_1")


def write_native(study: Study, named: Named, folder: Path, *, key: bytes) -> dict[str, Any]:
    """Write every sequence as `<name>.nii.gz` and `provenance.json` into a folder; returns the provenance.

    The same study, key and rules give the same bytes. Nothing written holds a name, a date, a time of
    day, a UID or free text of a tag; a series is told by a keyed hash of its UID.

    Args:
        study: the source.
        named: its sequences.
        folder: made if missing; the caller shows it to readers when all is written.
        key: the site's key.

    Raises:
        SeriesError: voxels of Pre or Post_1 that cannot be read. Others that cannot are left out, with
            the reason under `without`.
    """
    files, without = dict[str, Any](), dict[str, str]()
    pre = named.sequences["Pre"]
    for name, stack in named.sequences.items():
        try:
            voxels = read_voxels(stack)
        except SeriesError as error:
            if name in _NEEDED:
                raise SeriesError(f"{name}: {error}") from None
            without[name] = str(error)
            continue
        content = nifti_bytes(voxels, stack.geometry.affine)
        write_atomic(folder / f"{name}.nii.gz", content)
        seconds = 0.0 if stack is pre else seconds_after(pre, stack)
        files[name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "series": pseudonym(key, "series", stack.series.uid),
            "recognised": named.how[name],
            "seconds_after_pre": None if seconds is None else round(seconds, 1),
            "time_from": stack.time_from,
            "dtype": voxels.dtype.name,
            **_of_stack(stack),
        }
    provenance = {
        "program": made_by()["version"],
        "rules": RULES_VERSION,
        "source": source_digest(study, key),
        "vendor": study.vendor if study.vendor in VENDORS else "other",
        "field_strength_t": study.field_strength_t,
        "age_days": study.age_days,
        "laterality": named.laterality,
        "files": files,
        "without": without,
    }
    write_text_atomic(folder / PROVENANCE, json.dumps(provenance, indent=1, sort_keys=True) + "\n")
    return provenance


def source_digest(study: Study, key: bytes) -> str:
    """Keyed digest of which images a study holds: equal if it holds the same SOPInstanceUIDs."""
    instances = {frame.instance for series in study.series for frame in series.frames}
    return keyed_digest(key, "source", *sorted(instances))


def read_provenance(folder: Path) -> dict[str, Any] | None:
    """What `write_native` wrote; None where it is missing or damaged."""
    try:
        content: object = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # ValueError: no UTF-8, no JSON
        return None
    return cast(dict[str, Any], content) if isinstance(content, dict) else None


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
    return igzip.compress(image.to_bytes(), 2, mtime=0)  # 15 times as fast as zlib's level 6, 5 % larger


def _of_stack(stack: Stack) -> Mapping[str, Any]:
    """What a file's provenance says of its geometry and its pixels."""
    geometry = stack.geometry
    syntaxes = {frame.transfer_syntax for frame in stack.frames}
    return {
        "num_frames": len(stack.frames),
        "shape_slice_row_column": list(geometry.shape),
        "spacing_slice_row_column_mm": [round(step, 6) for step in geometry.spacing_mm],
        "slice_spacing_from": geometry.spacing_from,
        "affine_from": "ImagePositionPatient and ImageOrientationPatient",
        "transfer_syntaxes": sorted(UID(syntax).name for syntax in syntaxes),
        "lossy": any(frame.lossy for frame in stack.frames),
        "notices": list(stack.notices),
    }
