"""The import of one exam: native volumes, then both breasts; whole or not at all."""

from __future__ import annotations

import errno
import filecmp
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from climb_model.atomic import write_atomic, write_text_atomic
from climb_model.data.exam import DataError
from climb_model.intake.breasts.unilateral import split_exam, write_side
from climb_model.intake.dicom.stacks import all_stacks, find_stacks
from climb_model.intake.drafts import draft_of, remove, show
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.nifti.source import NiftiExam, write_native_copy
from climb_model.intake.sequences.native import PATIENT, PROVENANCE, read_provenance, write_native
from climb_model.intake.sequences.patterns import matches
from climb_model.intake.sequences.recognise import name_stacks
from climb_model.intake.study import LeftOut, NamingError, Series, SeriesError, Stack, Study

NATIVE, UNILATERAL = "data", "data_unilateral"
MADE = ("source", "recipe")
"""What the provenance of an exam and of its breasts must share."""
FOREIGN = "its folder holds something that no import made and that a new version would displace; move it away"
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class ExamJob:
    """Everything a worker needs to import one exam."""

    exam: str
    """Its pseudonym."""

    patient: str
    """Pseudonym of its patient, as in annotation.csv."""

    source: Study | NiftiExam = field(repr=False)
    site_dir: Path = field(repr=False)
    mapping: SeriesMapping
    motion: str
    key: bytes = field(repr=False)
    recipe: str
    """Hash of all that decides the result beside the files."""

    digest: str
    """Keyed digest of the files."""


@dataclass(frozen=True, kw_only=True)
class ExamOutcome:
    """What became of one exam."""

    exam: str
    sides: tuple[str, ...] = ()
    """`left`, `right`: the breasts that are there now; empty if the exam could not be imported."""

    left_out: tuple[LeftOut, ...] = ()
    notices: tuple[str, ...] = ()
    """What was mended or chosen, in words without identifiers."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """An exam that an earlier import finished."""

    outcome: ExamOutcome
    patient: str
    """Empty: made by a version that did not note it."""

    digest: str
    recipe: str


def earlier_exam(site_dir: Path, exam: str) -> Earlier | None:
    """What an earlier import made of an exam; None if there is none, or one that a kill left in pieces."""
    provenance = read_provenance(site_dir / NATIVE / exam)
    if provenance is None:
        return None
    made = {key: provenance.get(key) for key in MADE}
    sides = tuple(str(side) for side in provenance.get("sides", ()))
    records = [read_provenance(side_folder(site_dir, exam, side)) or {} for side in sides]
    if not sides or any({key: record.get(key) for key in MADE} != made for record in records):
        return None
    left_out = tuple(
        LeftOut(what=str(each[0]), reason=str(each[1]), study=exam, num_files=int(each[2]))
        for each in provenance.get("left_out", ())
    )
    notices = tuple(map(str, provenance.get("notices", ())))
    outcome = ExamOutcome(exam=exam, sides=sides, left_out=left_out, notices=notices)
    return Earlier(
        outcome=outcome,
        patient=str(provenance.get(PATIENT, "")),
        digest=str(made["source"]),
        recipe=str(made["recipe"]),
    )


def note_patient(site_dir: Path, earlier: Earlier, patient: str) -> None:
    """Write into the provenance of an exam that is there whose it is; its volumes stay as they are."""
    exam = earlier.outcome.exam
    sides = [side_folder(site_dir, exam, side) for side in earlier.outcome.sides]
    for folder in (*sides, site_dir / NATIVE / exam):  # last what `earlier_exam` reads it from
        _write_json(folder / PROVENANCE, (read_provenance(folder) or {}) | {PATIENT: patient})


def side_folder(site_dir: Path, exam: str, side: str) -> Path:
    """The folder of one breast."""
    return site_dir / UNILATERAL / f"{exam}_{side}"


def import_exam(job: ExamJob) -> ExamOutcome:
    """Import one exam into folders that nobody reads yet, and show them when all is written.

    The native folder is shown last: with its provenance, equal to that of its breasts, the exam is whole. A
    fault of its data or files becomes a reason; an earlier version of the exam then stays as it is. What lies
    in the folders and no import made is carried over; where it cannot be, that too is a fault.

    Raises:
        OSError: the disk of the site is full or cannot be written.
    """
    left_out: list[LeftOut] = []
    try:
        return _import(job, left_out)
    except (SeriesError, DataError) as error:
        reason = error.public if isinstance(error, DataError) else str(error)
    except OSError as error:
        if error.errno in _DISK_ERRORS:
            raise
        reason = f"a file could not be read: {error.strerror}"
    files = _files(job.source)
    first = min(files, default=None)
    fault = LeftOut(what="exam", reason=reason, study=job.exam, path=first, num_files=len(files))
    return ExamOutcome(exam=job.exam, left_out=(*left_out, fault))


def _import(job: ExamJob, left_out: list[LeftOut]) -> ExamOutcome:
    with ExitStack() as drafts:
        native = drafts.enter_context(draft_of(job.site_dir / NATIVE / job.exam))
        written = _write_native(job, native, left_out)
        _carry_over(job.site_dir / NATIVE / job.exam, native)
        split = split_exam(written.files, laterality=written.laterality, motion=job.motion)
        sides = tuple(sorted(split.sides))
        made = {"source": job.digest, "recipe": job.recipe, PATIENT: job.patient}
        gone = [side_folder(job.site_dir, job.exam, side) for side in {"left", "right"} - set(sides)]
        if any(map(_foreign, gone)):
            raise SeriesError(FOREIGN)
        breasts: dict[Path, Path] = {}
        for side, breast in split.sides.items():
            folder = side_folder(job.site_dir, job.exam, side)
            breasts[folder] = drafts.enter_context(draft_of(folder))
            record = {"files": write_side(breast, breasts[folder]), "made": split.provenance}
            _write_json(breasts[folder] / PROVENANCE, record | made)
            _carry_over(folder, breasts[folder])
        notices = (*written.notices, *split.notices)
        told = {
            "sides": sides,
            "notices": notices,
            "left_out": [(each.what, each.reason, each.num_files) for each in left_out],
        }
        _write_json(native / PROVENANCE, written.provenance | made | told)
        for folder, draft in breasts.items():
            show(draft, folder)
        for folder in gone:
            remove(folder)
        show(native, job.site_dir / NATIVE / job.exam)
    return ExamOutcome(exam=job.exam, sides=sides, left_out=tuple(left_out), notices=notices)


def _carry_over(folder: Path, draft: Path) -> None:
    """Copy into a draft what the folder in whose place it comes holds and no import made.

    Raises:
        SeriesError: something else than a file, or another file under a name that the draft has.
    """
    for path in _foreign(folder):
        copy = draft / path.name
        plain = path.is_file() and not path.is_symlink()
        if not plain or (copy.exists() and not filecmp.cmp(path, copy, shallow=False)):
            raise SeriesError(FOREIGN)
        write_atomic(copy, path.read_bytes())


def _foreign(folder: Path) -> list[Path]:
    """What lies in a folder of an exam and is not among the files that its import noted."""
    noted = (read_provenance(folder) or {}).get("files", ())
    made = {PROVENANCE, *(f"{name}.nii.gz" for name in noted)}
    return [path for path in sorted(folder.iterdir()) if path.name not in made] if folder.is_dir() else []


@dataclass(frozen=True, kw_only=True)
class _Native:
    """The native volumes of an exam."""

    files: Mapping[str, Path]
    laterality: str
    provenance: dict[str, Any]
    notices: tuple[str, ...]


def _write_native(job: ExamJob, folder: Path, left_out: list[LeftOut]) -> _Native:
    """Write the native volumes; what is left out is added to the list, also where it ends in an error.

    The draft tells whose it is before it holds voxels: a kill may leave it at any moment.
    """
    _write_json(folder / PROVENANCE, {PATIENT: job.patient})
    if isinstance(job.source, NiftiExam):
        provenance = write_native_copy(job.source, folder)
        notices, laterality = (), job.source.laterality
    else:
        stacks: list[Stack] = []
        for series in job.source.series:
            # some archives mark all that they export as derived: what the site names is taken all the same
            found, faults = all_stacks(series) if _is_named(series, job.mapping) else find_stacks(series)
            stacks += found
            left_out += [replace(each, study=job.exam) for each in faults]
        try:
            named = name_stacks(job.source, stacks, job.mapping)
        except NamingError as error:
            left_out += [replace(each, study=job.exam) for each in error.left_out]
            raise
        left_out += [replace(each, study=job.exam) for each in named.left_out]
        provenance = write_native(job.source, named, folder, key=job.key)
        notices = tuple(
            f"{name}: {note}" for name, stack in named.sequences.items() for note in stack.notices
        )
        laterality = named.laterality
    _write_json(folder / PROVENANCE, provenance | {PATIENT: job.patient})
    left_out += [
        LeftOut(what="series", reason=f"{name}: {reason}", study=job.exam, num_files=0)
        for name, reason in provenance.get("without", {}).items()
    ]
    files = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.glob("*.nii.gz"))}
    return _Native(files=files, laterality=laterality, provenance=provenance, notices=notices)


def _is_named(series: Series, mapping: SeriesMapping) -> bool:
    return matches(series, (*mapping.dynamic, *mapping.Pre, *mapping.Post, *mapping.T2))


def _files(source: Study | NiftiExam) -> set[Path]:
    if isinstance(source, NiftiExam):
        return {volume.path for volume in source.files.values()}
    return {frame.path for series in source.series for frame in series.frames}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
