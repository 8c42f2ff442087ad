"""What an export holds that could become exams, under pseudonyms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.intake.dicom.headers import scan
from climb_model.intake.mapping import SeriesMapping
from climb_model.intake.nifti.source import NiftiExam, as_study, files_digest, find_exams
from climb_model.intake.pseudonym import exam_id, keyed_digest, patient_id
from climb_model.intake.sequences.native import source_digest
from climb_model.intake.study import LeftOut, Study

NO_PATIENT = (
    "no patient number: it counts as a patient of its own; another exam of hers may be in another split"
)
LEADING_ZEROS = (
    "its patient number differs from another one only in leading zeros: two patients here, perhaps in two "
    "splits; if she is one, correct the number, or give both the same split in the report table"
)
_LONGEST_NUMBER = 64
"""Characters of a PatientID (DICOM PS3.5, table 6.2-1: LO)."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One examination of the export, under its pseudonyms; raw numbers stay in memory."""

    exam: str
    patient: str
    digest: str
    study: Study = field(repr=False)
    volumes: NiftiExam | None = field(default=None, repr=False)
    """Where the exam comes as NIfTI files."""


Sources = list[tuple[Study, NiftiExam | None]]
"""Raw numbers of each examination, and its volumes where it comes as NIfTI files."""


def find_dicom(
    source: Path, *, workers: int, on_file: Callable[[int, int], None]
) -> tuple[Sources, list[LeftOut]]:
    """The studies among the DICOM files of a folder."""
    export = scan(source, workers=workers, on_file=on_file)
    return [(study, None) for study in export.studies], list(export.left_out)


def find_nifti(source: Path, mapping: SeriesMapping) -> tuple[Sources, list[LeftOut]]:
    """The exams among the NIfTI files of a folder."""
    volumes = find_exams(source, mapping)
    return [(as_study(exam), exam) for exam in volumes.exams], list(volumes.left_out)


def named_candidates(
    sources: Sources, key: bytes, *, earlier: Collection[str] = ()
) -> tuple[list[Candidate], list[LeftOut]]:
    """Everything that could become an exam, sorted by its pseudonym; what is not, and what looks wrong.

    Args:
        sources: of the import.
        key: the site's key.
        earlier: pseudonyms of the patients that the site holds.
    """
    left_out: list[LeftOut] = []
    candidates: list[Candidate] = []
    for study, exam in sources:
        try:
            candidates.append(_candidate(study, exam, key))
        except DataError as error:
            left_out.append(LeftOut(what="study", reason=error.public))
    times = Counter(each.exam for each in candidates)
    left_out += [
        LeftOut(what="study", reason=f"{number} studies under one accession number", study=exam)
        for exam, number in times.items()
        if number > 1
    ]
    left_out += [
        LeftOut(what="notice", reason=NO_PATIENT, study=each.exam, num_files=0)
        for each in candidates
        if not each.study.patient
    ]
    patients = {each.patient for each in candidates}.union(earlier)
    left_out += [
        LeftOut(what="notice", reason=LEADING_ZEROS, study=each.exam, num_files=0)
        for each in candidates
        if not patients.isdisjoint(_with_other_zeros(each.study.patient, key))
    ]
    unique = [each for each in candidates if times[each.exam] == 1]
    return sorted(unique, key=lambda each: each.exam), left_out


def _with_other_zeros(number: str, key: bytes) -> set[str]:
    """Pseudonyms of the patient numbers that differ from one only in leading zeros.

    They are made from the number, since those that an earlier import met are known by their pseudonym only.
    """
    core = number.lstrip("0")
    others = {"0" * zeros + core for zeros in range(_LONGEST_NUMBER - len(core) + 1)} - {number, ""}
    return {patient_id(other, key) for other in others} if number else set()


def _candidate(study: Study, volumes: NiftiExam | None, key: bytes) -> Candidate:
    """An examination under its pseudonyms; without a patient number it counts as a patient of its own."""
    exam = exam_id(study, key)
    patient = patient_id(study.patient, key) if study.patient else exam
    digest = _digest(study, key) if volumes is None else files_digest(volumes, key)
    return Candidate(exam=exam, patient=patient, digest=digest, study=study, volumes=volumes)


def _digest(study: Study, key: bytes) -> str:
    """Keyed digest of which images a study holds and how long their files are: a repaired file counts."""
    files = {frame.path: frame.instance for series in study.series for frame in series.frames}
    lengths = sorted(f"{instance} {_length(path)}" for path, instance in files.items())
    return keyed_digest(key, "files", source_digest(study, key), *lengths)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # gone since its header was read: the import of its exam says so
        return -1


def nothing_found(source: Path, left_out: Sequence[LeftOut]) -> DataError:
    """Why there is nothing to import, and what may have been meant."""
    counts: Counter[str] = Counter()
    for each in left_out:
        counts[each.reason] += each.num_files
    fact = ", ".join(f"{count} x {reason}" for reason, count in counts.most_common(4)) or "it is empty"
    hint = "; NIfTI volumes: --nifti" if next(source.rglob("*.nii*"), None) else ""
    return DataError(f"import: no exam below {source}: {fact}{hint}", f"no exam to import: {fact}")
