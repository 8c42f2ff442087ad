"""Import of a DICOM series on its native grid: collect, choose, geometry, voxels, write."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.atomic import write_atomic
from climb_model.data.exam import DataError
from climb_model.intake.dicom.headers import Scan, collect
from climb_model.intake.dicom.stacks import all_stacks, read_voxels
from climb_model.intake.forgotten import REASON, SITE_LOCK, is_forgotten
from climb_model.intake.pseudonym import exam_id as pseudonym_of
from climb_model.intake.pseudonym import require_number, site_key
from climb_model.intake.sequences.native import nifti_bytes
from climb_model.intake.study import Series, SeriesError, Stack, Study
from climb_model.lock import only_process

OTHER_SERIES = "another series"


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import read, left out and wrote. For the site's own screen."""

    exam_id: str
    sequence: str
    path: Path
    """The written NIfTI file."""

    num_files: int
    """Files of the series."""

    size: tuple[int, int, int]
    """slice, row, column."""

    spacing_mm: tuple[float, float, float]
    """slice, row, column."""

    spacing_from: str
    """`positions`, or for a single slice the tag that gave its spacing."""

    notices: tuple[str, ...]
    """What was mended or is unusual, in counts."""

    skipped: tuple[tuple[Path, str], ...] = field(repr=False)
    """Files that are not in the volume, with the reason."""

    @property
    def skipped_counts(self) -> dict[str, int]:
        """Reason to number of files, most frequent first."""
        return dict(Counter(reason for _, reason in self.skipped).most_common())

    def __str__(self) -> str:
        """Lines for a terminal: what was written, what was left out, what to note."""
        size, spacing = "x".join(map(str, self.size)), " x ".join(f"{step:.3f}" for step in self.spacing_mm)
        skipped = ", ".join(f"{count} x {reason}" for reason, count in self.skipped_counts.items())
        return (
            f"{self.sequence} of exam {self.exam_id}: {self.num_files} files, "
            f"slices x rows x columns {size}, {spacing} mm (slice spacing from {self.spacing_from}), "
            f"written to {self.path}\n"
            f"left out: {skipped or 'nothing'}" + "".join(f"\nnote: {notice}" for notice in self.notices)
        )


def import_series(
    dicom_dir: Path, site_dir: Path, *, sequence: str, series: str | None, exam_id: str | None
) -> ImportReport:
    """Write one MR series as `site_dir/data/<ID>/<sequence>.nii.gz`, on its native grid.

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
        LockedError: if another process works in the site's folder.
    """
    from climb_model.intake.importer import check_folders

    _check_name("sequence", sequence)
    if exam_id is not None:
        _check_name("exam id", exam_id)
    check_folders(dicom_dir, site_dir)
    found = collect(dicom_dir)
    study, chosen = _choose(found, series)
    num_files = len({frame.path for frame in chosen.frames})
    try:
        stack = _only_stack(chosen)
        voxels = read_voxels(stack)
    except SeriesError as error:
        detail = f" '{chosen.description}'" if chosen.description else ""
        raise DataError(
            f"DICOM series{detail} ({num_files} files): {error}", public=f"DICOM series: {error}"
        ) from None
    if exam_id is None:
        require_number(study)
    (site_dir / SITE_LOCK).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_process(site_dir / SITE_LOCK, what="works in this site's folder"):
        name = exam_id or pseudonym_of(study, site_key(site_dir))
        if is_forgotten(site_dir, name):
            raise DataError(f"exam '{name}' was {REASON}", public=f"the exam was {REASON}")
        path = site_dir / "data" / name / f"{sequence}.nii.gz"
        _write(path, nifti_bytes(voxels, stack.geometry.affine))
    return ImportReport(
        exam_id=name,
        sequence=sequence,
        path=path,
        num_files=num_files,
        size=stack.geometry.shape,
        spacing_mm=stack.geometry.spacing_mm,
        spacing_from=stack.geometry.spacing_from,
        notices=stack.notices,
        skipped=tuple(_skipped(found, chosen)),
    )


def _choose(found: Scan, wanted: str | None) -> tuple[Study, Series]:
    """The series with this UID or description (in any case); without one, the only MR series there is."""
    pairs = [(study, series) for study in found.studies for series in study.series]
    if not pairs:
        counts = Counter(one.reason for one in found.left_out)
        others = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common()) or "no files"
        raise DataError(f"no DICOM series found: {others}", public=f"no DICOM series found: {others}")
    if wanted is None:
        matches = [pair for pair in pairs if pair[1].modality == "MR"] or pairs
    else:
        named = wanted.strip().casefold()
        matches = [pair for pair in pairs if pair[1].uid == wanted]
        matches = matches or [pair for pair in pairs if pair[1].description.casefold() == named]
    if len(matches) == 1:
        return matches[0]
    if matches:
        fact = f"{len(matches)} series to choose from, name one by description or UID"
        if wanted is not None:
            fact = f"{len(matches)} series of that description, name one by its UID"
    else:
        fact = f"none of {len(pairs)} series has that description or UID"
    there = "; ".join(
        f"'{series.description}' {series.uid} ({series.modality}, {len(series.frames)} images)"
        for _, series in matches or pairs
    )
    raise DataError(f"{fact}: {there}", public=fact)


def _only_stack(series: Series) -> Stack:
    """The one volume that holds every slice of the series but copies."""
    stacks, left_out = all_stacks(series)
    if left_out:
        raise SeriesError(left_out[0].reason)
    if len(stacks) != 1:
        raise SeriesError(f"{len(stacks)} volumes in one series (phases, echoes or orientations), wanted one")
    return stacks[0]


def _skipped(found: Scan, chosen: Series) -> Iterator[tuple[Path, str]]:
    for one in found.left_out:
        yield from [(one.path, one.reason)] * one.num_files if one.path else ()
    for study in found.studies:
        for series in study.series:
            if series.uid != chosen.uid:
                yield from ((path, OTHER_SERIES) for path in sorted({frame.path for frame in series.frames}))


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
    write_atomic(path, content)
