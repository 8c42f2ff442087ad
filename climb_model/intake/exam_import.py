"""The import of one exam: native volumes, then both breasts; whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from climb_model.atomic import write_text_atomic
from climb_model.data.exam import DataError
from climb_model.intake.breasts.unilateral import split_exam, write_side
from climb_model.intake.dicom.stacks import all_stacks, find_stacks
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.nifti.source import NiftiExam, write_native_copy
from climb_model.intake.sequences.native import read_provenance, write_native
from climb_model.intake.sequences.patterns import matches
from climb_model.intake.sequences.recognise import name_stacks
from climb_model.intake.study import LeftOut, Series, SeriesError, Stack, Study

NATIVE, UNILATERAL = "data", "data_unilateral"
PROVENANCE = "provenance.json"
UNFINISHED = ".unfinished"
"""Ending of folders and files that are being written."""


@dataclass(frozen=True, kw_only=True)
class ExamJob:
    """Everything a worker needs to import one exam."""

    exam: str
    """Its pseudonym."""

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


def present_sides(site_dir: Path, exam: str, digest: str, recipe: str) -> tuple[str, ...] | None:
    """The breasts of an exam that an earlier import finished; None if there is no such exam.

    Raises:
        SeriesError: if it was made of other files or by other rules.
    """
    provenance = read_provenance(site_dir / NATIVE / exam)
    if provenance is None:
        return None
    sides = tuple(str(side) for side in provenance.get("sides", ()))
    if not sides or any(not (side_folder(site_dir, exam, side) / PROVENANCE).is_file() for side in sides):
        return None
    if provenance.get("source") != digest:
        raise SeriesError("the exam is there already, made of other files; --replace imports it anew")
    if provenance.get("recipe") != recipe:
        raise SeriesError("the exam is there already, made by other rules; --replace imports it anew")
    return sides


def side_folder(site_dir: Path, exam: str, side: str) -> Path:
    """The folder of one breast."""
    return site_dir / UNILATERAL / f"{exam}_{side}"


def import_exam(job: ExamJob) -> ExamOutcome:
    """Import one exam into folders that nobody reads yet, and show them when all is written.

    The native folder is shown last: with its provenance the exam is whole. A data fault becomes a reason.
    """
    with ExitStack() as drafts:
        native = drafts.enter_context(_draft(job.site_dir / NATIVE / job.exam))
        left_out: list[LeftOut] = []
        try:
            written = _write_native(job, native, left_out)
            split = split_exam(written.files, laterality=written.laterality, motion=job.motion)
        except (SeriesError, DataError) as error:
            reason = error.public if isinstance(error, DataError) else str(error)
            fault = LeftOut(what="exam", reason=reason, study=job.exam, num_files=_num_files(job.source))
            return ExamOutcome(exam=job.exam, left_out=(*left_out, fault))
        breasts: dict[Path, Path] = {}
        for side, breast in split.sides.items():
            folder = side_folder(job.site_dir, job.exam, side)
            breasts[folder] = drafts.enter_context(_draft(folder))
            record = {"files": write_side(breast, breasts[folder]), "made": split.provenance}
            _write_json(breasts[folder] / PROVENANCE, record)
        sides = tuple(sorted(split.sides))
        made = {"source": job.digest, "recipe": job.recipe, "sides": sides}
        _write_json(native / PROVENANCE, written.provenance | made)
        for folder, draft in breasts.items():
            _show(draft, folder)
        _show(native, job.site_dir / NATIVE / job.exam)
    return ExamOutcome(
        exam=job.exam,
        sides=sides,
        left_out=tuple(left_out),
        notices=(*written.notices, *split.notices),
    )


@dataclass(frozen=True, kw_only=True)
class _Native:
    """The native volumes of an exam."""

    files: Mapping[str, Path]
    laterality: str
    provenance: dict[str, Any]
    notices: tuple[str, ...]


def _write_native(job: ExamJob, folder: Path, left_out: list[LeftOut]) -> _Native:
    """Write the native volumes; what is left out is added to the list, also where it ends in an error."""
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
        named = name_stacks(job.source, stacks, job.mapping)
        left_out += [replace(each, study=job.exam) for each in named.left_out]
        provenance = write_native(job.source, named, folder, key=job.key)
        left_out += [
            LeftOut(what="series", reason=f"{name}: {reason}", study=job.exam, num_files=0)
            for name, reason in provenance["without"].items()
        ]
        notices = tuple(
            f"{name}: {note}" for name, stack in named.sequences.items() for note in stack.notices
        )
        laterality = named.laterality
    files = {path.name.removesuffix(".nii.gz"): path for path in sorted(folder.glob("*.nii.gz"))}
    return _Native(files=files, laterality=laterality, provenance=provenance, notices=notices)


def _is_named(series: Series, mapping: SeriesMapping) -> bool:
    return matches(series, (*mapping.dynamic, *mapping.Pre, *mapping.Post, *mapping.T2))


def _num_files(source: Study | NiftiExam) -> int:
    if isinstance(source, NiftiExam):
        return len(source.files)
    return len({frame.path for series in source.series for frame in series.frames})


@contextmanager
def _draft(folder: Path) -> Generator[Path]:
    """A fresh folder beside `folder` that no reader takes for an exam; removed unless it was shown."""
    draft = folder.with_name(f".{folder.name}{UNFINISHED}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _show(draft: Path, folder: Path) -> None:
    """Put a finished draft in its place; an older folder steps aside first."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    draft.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_text_atomic(path, json.dumps(content, indent=1, sort_keys=True) + "\n")
