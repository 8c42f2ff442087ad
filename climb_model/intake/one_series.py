"""Import of a DICOM series on its native grid: collect, choose, geometry, voxels, write."""

from __future__ import annotations

import gzip
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from climb_model.data.exam import DataError
from climb_model.intake.headers import Header, choose, collect
from climb_model.intake.pseudonym import pseudonym, site_key
from climb_model.intake.stacks import (
    Geometry,
    SeriesError,
    find_geometry,
    read_voxels,
)

OTHER_SERIES = "another series"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import read, left out and wrote. For the site's own screen."""

    exam_id: str
    sequence: str
    path: Path
    """The written NIfTI file."""

    num_files: int
    """Files of the series, one slice each."""

    size: tuple[int, int, int]
    """slice, row, column."""

    spacing_mm: tuple[float, float, float]
    """slice, row, column."""

    spacing_from: str
    """`positions`, or for a single slice the tag that gave its spacing."""

    skipped: tuple[tuple[Path, str], ...] = field(repr=False)
    """Files that are not in the volume, with the reason."""

    @property
    def skipped_counts(self) -> dict[str, int]:
        """Reason to number of files, most frequent first."""
        return dict(Counter(reason for _, reason in self.skipped).most_common())

    def __str__(self) -> str:
        """Two lines for a terminal: what was written, what was left out."""
        size, spacing = "x".join(map(str, self.size)), " x ".join(f"{step:.3f}" for step in self.spacing_mm)
        skipped = ", ".join(f"{count} x {reason}" for reason, count in self.skipped_counts.items())
        return (
            f"{self.sequence} of exam {self.exam_id}: {self.num_files} files, "
            f"slices x rows x columns {size}, {spacing} mm (slice spacing from {self.spacing_from}), "
            f"written to {self.path}\n"
            f"left out: {skipped or 'nothing'}"
        )


def import_series(
    dicom_dir: Path, site_dir: Path, *, sequence: str, series: str | None, exam_id: str | None
) -> ImportReport:
    """Write one classic MR series as `site_dir/data/<ID>/<sequence>.nii.gz`, on its native grid.

    `<ID>` is `exam_id`, or a keyed pseudonym of the accession number; of the patient and study numbers
    where the accession number is empty, so that two studies of a patient never share a folder. No text of
    the DICOM files is written. The file appears whole or not at all; the same import again changes nothing.

    Args:
        dicom_dir: folder searched through, whatever its files are called.
        site_dir: the site's folder; `private/pseudonym.key` is made in it on first use.
        sequence: name of the result, such as `Pre`.
        series: description or SeriesInstanceUID; needed where the folder holds several MR series.
        exam_id: `<ID>`, if it shall not be a pseudonym.

    Raises:
        DataError: one line saying why nothing was imported.
    """
    _check_name("sequence", sequence)
    if exam_id is not None:
        _check_name("exam id", exam_id)
    found, skipped = collect(dicom_dir)
    chosen = choose(found, series, skipped)
    try:
        _check_one_study(chosen.headers)
        geometry = find_geometry(chosen.headers)
        voxels = read_voxels(geometry)
    except SeriesError as error:
        detail = f" '{chosen.description}'" if chosen.description else ""
        raise DataError(
            f"DICOM series{detail} ({len(chosen.headers)} files): {error}", public=f"DICOM series: {error}"
        ) from None
    name = _exam_name(chosen.headers[0], site_dir) if exam_id is None else exam_id
    path = site_dir / "data" / name / f"{sequence}.nii.gz"
    _write(path, nifti_bytes(voxels, geometry))
    others = [(header.path, OTHER_SERIES) for one in found if one.uid != chosen.uid for header in one.headers]
    return ImportReport(
        exam_id=name,
        sequence=sequence,
        path=path,
        num_files=len(chosen.headers),
        size=geometry.shape,
        spacing_mm=geometry.spacing_mm,
        spacing_from=geometry.spacing_from,
        skipped=(*skipped, *others),
    )


def nifti_bytes(voxels: np.ndarray, geometry: Geometry) -> bytes:
    """A gzipped NIfTI-1 file of voxels (column, row, slice): the same voxels give the same bytes."""
    image = nib.Nifti1Image(voxels, geometry.affine, dtype=voxels.dtype)
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.affine, code="scanner")
    image.set_qform(geometry.affine, code="scanner")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)


def _check_one_study(headers: Sequence[Header]) -> None:
    for tag in ("StudyInstanceUID", "AccessionNumber", "PatientID"):
        values = {header.text(tag) for header in headers}
        if len(values) > 1:
            raise SeriesError(f"files of one series with {len(values)} different values of {tag}")


def _exam_name(header: Header, site_dir: Path) -> str:
    accession, patient, study = (
        header.text(tag) for tag in ("AccessionNumber", "PatientID", "StudyInstanceUID")
    )
    if accession:
        return pseudonym(site_key(site_dir), "accession", accession)
    if patient and study:
        return pseudonym(site_key(site_dir), "patient", patient, study)
    fact = "the DICOM files have neither an accession number nor a patient number; give an exam id"
    raise DataError(fact, public=fact)


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        fact = f"{kind} must be 1 to 64 letters, digits, '_' or '-'"
        raise DataError(f"{fact}, got '{name}'", public=fact)


def _write(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; one that is there already must be the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        if path.read_bytes() == content:
            return
        fact = "the exam already has another volume of that name; remove it first"
        raise DataError(f"{fact} ({path})", public=fact)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
