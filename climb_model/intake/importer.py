"""The import of a whole export: many exams, several workers, resumable, the same however often it runs."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from climb_model.data.exam import DataError
from climb_model.intake.dicom.headers import scan
from climb_model.intake.exam_import import (
    NATIVE,
    UNFINISHED,
    UNILATERAL,
    ExamJob,
    ExamOutcome,
    import_exam,
    present_sides,
)
from climb_model.intake.exam_texts import ExamTexts, Shares
from climb_model.intake.forgotten import REASON, SITE_LOCK, is_forgotten
from climb_model.intake.import_report import ImportResult, write_report
from climb_model.intake.mapping import SiteMapping
from climb_model.intake.nifti.source import NiftiExam, as_study, files_digest, find_exams
from climb_model.intake.pseudonym import exam_id, patient_id, site_key
from climb_model.intake.reports.site_tables import ExamRow, write_tables
from climb_model.intake.reports.table import ReportTable, read_report_table
from climb_model.intake.sequences.native import source_digest
from climb_model.intake.sequences.recognise import RULES_VERSION
from climb_model.intake.study import LeftOut, SeriesError, Study
from climb_model.lock import only_process

VERSION = 1
"""Grows when the same files would give other volumes."""

NO_PATIENT = (
    "no patient number: it counts as a patient of its own; another exam of hers may be in another split"
)

Progress = Callable[[str, int, int], None]
"""Called with a stage (`reading headers`, `importing exams`), how many are done, and of how many."""


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What an admin chooses."""

    mapping: SiteMapping = field(default_factory=SiteMapping)
    reports: Path | None = field(default=None, repr=False)
    """Table of reports, CSV or Excel."""

    motion: str = "none"
    """Correction of the phases before subtraction: none, rigid, deformable or convexadam."""

    workers: int = 1
    replace: bool = False
    """Whether exams that are there are made again."""

    shares: Shares = (0.7, 0.1, 0.2)
    """Share of patients in train, val and test, where the report table does not say."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """One examination of the export, under its pseudonyms; raw numbers stay in memory."""

    exam: str
    patient: str
    digest: str
    study: Study = field(repr=False)
    volumes: NiftiExam | None = field(default=None, repr=False)
    """Where the exam comes as NIfTI files."""


def import_site(
    source: Path,
    site_dir: Path,
    options: ImportOptions,
    *,
    nifti: bool = False,
    on_progress: Progress | None = None,
) -> ImportResult:
    """Import an export into a site's folder: volumes, tables, `import-report.csv`.

    Exams that an earlier import finished are left as they are, so that an interrupted import goes on and
    a repeated one changes nothing. Nothing outside `site_dir` is written.

    Args:
        source: folder of DICOM files in any order, or with `nifti` of NIfTI volumes.
        site_dir: the site's folder, made if missing; the key of its pseudonyms lies in `private/`.
        on_progress: called while headers are read and exams are made.

    Raises:
        DataError: a fault of the whole import. A fault of one exam only leaves that exam out.
        LockedError: if another import works in the folder.
    """
    tell = on_progress or _silent
    _check_folders(source, site_dir)
    (site_dir / SITE_LOCK).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_process(site_dir / SITE_LOCK, what="works in this site's folder"):
        key = site_key(site_dir)
        _remove_drafts(site_dir)
        table = _report_table(options, site_dir)
        found, left_out = _find(source, options, key, nifti=nifti, tell=tell)
        present, jobs, refused = _plan(found, site_dir, options, key)
        made = _work(jobs, options.workers, tell)
        outcomes = {outcome.exam: outcome for outcome in (*present, *made) if outcome.sides}
        texts = ExamTexts(table, [each.study for each in found], key=key, shares=options.shares)
        for each in found:
            texts.learn_split(each.study, each.patient)
        rows = [row for each in found if each.exam in outcomes for row in _rows(texts, each, outcomes)]
        written = write_tables(site_dir, rows)
        entries = (*left_out, *refused, *_entries(made), *texts.left_out, *written.left_out)
        write_report(site_dir, entries)
    unmatched = () if table is None else table.unmatched([each.study for each in found]).notices
    return ImportResult(
        num_imported=sum(bool(outcome.sides) for outcome in made),
        num_present=len(present),
        num_breasts=len(rows),
        num_reports=sum(bool(row.report) for row in rows),
        redacted=dict(texts.redacted),
        entries=entries,
        notices=(*unmatched, *written.notices),
    )


def _report_table(options: ImportOptions, site_dir: Path) -> ReportTable | None:
    if options.reports is None:
        return None
    return read_report_table(options.reports, options.mapping.reports, site=site_dir.resolve().name)


def _rows(texts: ExamTexts, found: _Candidate, outcomes: Mapping[str, ExamOutcome]) -> list[ExamRow]:
    sides = outcomes[found.exam].sides
    if found.volumes is None:
        return texts.rows(found.study, found.exam, found.patient, sides)
    told, split = found.volumes.lesions, found.volumes.split
    return texts.rows(found.study, found.exam, found.patient, sides, told=told, split=split)


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


def _check_folders(source: Path, site_dir: Path) -> None:
    """Refuse folders one inside the other, and a site's folder that leads elsewhere."""
    if not source.is_dir():
        raise DataError(f"import: there is no folder {source}", "the folder to import is missing")
    here, there = source.resolve(), site_dir.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DataError(
            f"import: {source} and {site_dir} lie one inside the other; keep the export apart",
            "the export and the site's folder lie one inside the other",
        )
    for part in (NATIVE, UNILATERAL, "metadata_unilateral", "private"):
        if (site_dir / part).is_symlink():
            fact = f"{part} of the site's folder is a symbolic link; wanted a folder"
            raise DataError(f"import: {fact} ({site_dir / part})", fact)


def _remove_drafts(site_dir: Path) -> None:
    """Remove what an import left that was killed; under the lock there is no other."""
    for part in (NATIVE, UNILATERAL):
        for ending in (UNFINISHED, ".old"):
            for draft in (site_dir / part).glob(f".*{ending}"):
                shutil.rmtree(draft)


def _find(
    source: Path, options: ImportOptions, key: bytes, *, nifti: bool, tell: Progress
) -> tuple[list[_Candidate], list[LeftOut]]:
    """Everything that could become an exam, sorted by its pseudonym."""
    if nifti:
        volumes = find_exams(source, options.mapping.series)
        left_out = list(volumes.left_out)
        sources = [(as_study(exam), exam) for exam in volumes.exams]
    else:
        export = scan(source, workers=options.workers, on_file=partial(tell, "reading headers"))
        left_out = list(export.left_out)
        sources = [(study, None) for study in export.studies]
    candidates: list[_Candidate] = []
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
    unique = [each for each in candidates if times[each.exam] == 1]
    return sorted(unique, key=lambda each: each.exam), left_out


def _candidate(study: Study, volumes: NiftiExam | None, key: bytes) -> _Candidate:
    """An examination under its pseudonyms; without a patient number it counts as a patient of its own."""
    exam = exam_id(study, key)
    patient = patient_id(study.patient, key) if study.patient else exam
    digest = source_digest(study, key) if volumes is None else files_digest(volumes, key)
    return _Candidate(exam=exam, patient=patient, digest=digest, study=study, volumes=volumes)


def _recipe(options: ImportOptions) -> str:
    """Hash of all that decides the volumes of an exam beside its files."""
    content = {
        "version": VERSION,
        "rules": RULES_VERSION,
        "motion": options.motion,
        "series": asdict(options.mapping.series),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _plan(
    found: Sequence[_Candidate], site_dir: Path, options: ImportOptions, key: bytes
) -> tuple[list[ExamOutcome], list[ExamJob], list[LeftOut]]:
    """What is there already, what is to be made, and what is refused."""
    recipe = _recipe(options)
    present: list[ExamOutcome] = []
    jobs: list[ExamJob] = []
    refused: list[LeftOut] = []
    for each in found:
        if is_forgotten(site_dir, each.exam):
            refused.append(LeftOut(what="exam", reason=REASON, num_files=0))
            continue
        job = ExamJob(
            exam=each.exam,
            source=each.volumes or each.study,
            site_dir=site_dir,
            mapping=options.mapping.series,
            motion=options.motion,
            key=key,
            recipe=recipe,
            digest=each.digest,
        )
        try:
            sides = None if options.replace else present_sides(site_dir, each.exam, each.digest, recipe)
        except SeriesError as error:
            refused.append(LeftOut(what="exam", reason=str(error), study=each.exam, num_files=0))
            continue
        if sides is None:
            jobs.append(job)
        else:
            present.append(ExamOutcome(exam=each.exam, sides=sides))
    return present, jobs, refused


def _work(jobs: Sequence[ExamJob], workers: int, tell: Progress) -> list[ExamOutcome]:
    """Import exams in some processes; the outcomes in the order of the jobs."""
    if workers == 1 or len(jobs) < 2:
        made: list[ExamOutcome] = []
        for job in jobs:
            made.append(import_exam(job))
            tell("importing exams", len(made), len(jobs))
        return made
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker) as pool:
        pending = [pool.submit(import_exam, job) for job in jobs]
        try:
            for done, _ in enumerate(as_completed(pending), start=1):
                tell("importing exams", done, len(jobs))
            return [future.result() for future in pending]
        except BrokenProcessPool:
            raise DataError(
                "import: a worker process died, most likely for lack of memory; what is finished stays: "
                "run the command again, with fewer --workers",
                "a worker process of the import died",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Ctrl-C is for the parent: a worker finishes its exam."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _entries(outcomes: Iterable[ExamOutcome]) -> list[LeftOut]:
    entries: list[LeftOut] = []
    for outcome in outcomes:
        entries += outcome.left_out
        entries += [
            LeftOut(what="notice", reason=note, study=outcome.exam, num_files=0) for note in outcome.notices
        ]
    return entries
