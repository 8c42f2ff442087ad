"""The import of a whole export: many exams, several workers, resumable, the same however often it runs."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from climb_model.atomic import write_atomic
from climb_model.data.exam import DataError
from climb_model.data.table_rows import change_rows
from climb_model.intake.candidates import (
    Candidate,
    Sources,
    find_dicom,
    find_nifti,
    named_candidates,
    nothing_found,
)
from climb_model.intake.drafts import tidy
from climb_model.intake.exam_import import (
    NATIVE,
    UNILATERAL,
    Earlier,
    ExamJob,
    ExamOutcome,
    earlier_exam,
    import_exam,
    note_patient,
)
from climb_model.intake.exam_texts import ExamTexts, Shares
from climb_model.intake.forgotten import REASON, SITE_LOCK, is_forgotten
from climb_model.intake.import_report import ImportResult, write_report
from climb_model.intake.mapping import SiteMapping
from climb_model.intake.pseudonym import site_key
from climb_model.intake.reports.site_tables import FOLDER, ExamRow, exams_of_patients, write_tables
from climb_model.intake.reports.table import ReportTable, read_report_table
from climb_model.intake.sequences.recognise import RULES_VERSION
from climb_model.intake.site_records import known_splits, read_reports
from climb_model.intake.study import LeftOut
from climb_model.lock import only_process

VERSION = 1
"""Grows when the same files would give other volumes."""

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
        site_dir: the site's folder, made if missing, and not left behind by an import that fails before it
            wrote anything; the key of its pseudonyms lies in `private/`.
        on_progress: called while headers are read and exams are made.

    Raises:
        DataError: a fault of the whole import. A fault of one exam only leaves that exam out.
        LockedError: if another import works in the folder.
    """
    tell = on_progress or _silent
    check_folders(source, site_dir)
    with _held(site_dir):
        for part in (NATIVE, UNILATERAL):
            tidy(site_dir / part)
        table = _report_table(options, site_dir)
        sources, left_out = _sources(source, options, nifti=nifti, tell=tell)
        if not sources:
            raise nothing_found(source, left_out)
        key = site_key(site_dir)
        found, unnamed = named_candidates(sources, key, earlier=exams_of_patients(site_dir))
        present, jobs, stays = _plan(found, site_dir, options, key)
        made = _work(jobs, options.workers, tell)
        _drop_rows(site_dir, made, present)
        outcomes = present | {outcome.exam: outcome for outcome in made if outcome.sides}
        texts = _texts(table, found, site_dir, key, options.shares)
        rows = [row for each in found if each.exam in outcomes for row in _rows(texts, each, outcomes)]
        written = write_tables(site_dir, rows)
        failed = [outcome for outcome in made if not outcome.sides]
        entries = (
            *(*left_out, *unnamed, *stays),
            *(*_entries(failed), *_kept(made, present), *_entries(outcomes.values())),
            *(*texts.left_out, *written.left_out),
        )
        write_report(site_dir, entries)
        reports = read_reports(site_dir)
    num_imported = len(made) - len(failed)
    unmatched = texts.unmatched([each.study for each in found if each.exam in outcomes])
    return ImportResult(
        num_imported=num_imported,
        num_present=len(outcomes) - num_imported,
        num_left_out=len({each.exam for each in found} - set(outcomes)),
        num_breasts=len(rows),
        num_reports=sum(bool(reports.get(row.uid)) for row in rows),
        redacted=dict(texts.redacted),
        entries=entries,
        notices=(*unmatched, *written.notices),
    )


@contextmanager
def _held(site_dir: Path) -> Generator[None]:
    """Hold the lock of a site's folder, made if missing; after an error what was made and is empty goes."""
    lock = site_dir / SITE_LOCK
    missing = [path for path in (lock.parent, *lock.parent.parents) if not path.exists()]
    lock.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with only_process(lock, what="works in this site's folder"):
        try:
            yield
        except BaseException:
            if missing and [*lock.parent.iterdir()] == [lock]:
                lock.unlink()
            with suppress(OSError):  # not empty: something is worth keeping
                for folder in missing:
                    folder.rmdir()
            raise


def _texts(
    table: ReportTable | None, found: Sequence[Candidate], site_dir: Path, key: bytes, shares: Shares
) -> ExamTexts:
    """The table's texts, told of all studies and of what the site holds already."""
    texts = ExamTexts(
        table,
        [each.study for each in found],
        key=key,
        shares=shares,
        earlier=exams_of_patients(site_dir),
        splits=known_splits(site_dir),
    )
    for each in found:
        texts.learn_split(each.study, each.patient)
    return texts


def _report_table(options: ImportOptions, site_dir: Path) -> ReportTable | None:
    if options.reports is None:
        return None
    return read_report_table(options.reports, options.mapping.reports, site=site_dir.resolve().name)


def _rows(texts: ExamTexts, found: Candidate, outcomes: Mapping[str, ExamOutcome]) -> list[ExamRow]:
    sides = outcomes[found.exam].sides
    if found.volumes is None:
        return texts.rows(found.study, found.exam, found.patient, sides)
    told, split = found.volumes.lesions, found.volumes.split
    return texts.rows(found.study, found.exam, found.patient, sides, told=told, split=split)


def _silent(stage: str, done: int, total: int) -> None:
    """Nobody watches."""


def check_folders(source: Path, site_dir: Path) -> None:
    """Refuse folders one inside the other, and a site's folder that leads elsewhere."""
    if not source.is_dir():
        raise DataError(f"import: there is no folder {source}", "the folder to import is missing")
    here, there = source.resolve(), site_dir.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise DataError(
            f"import: {source} and {site_dir} lie one inside the other; keep the export apart",
            "the export and the site's folder lie one inside the other",
        )
    for part in (NATIVE, UNILATERAL, FOLDER, "private"):
        if (site_dir / part).is_symlink():
            fact = f"{part} of the site's folder is a symbolic link; wanted a folder"
            raise DataError(f"import: {fact} ({site_dir / part})", fact)
        existing = next(path for path in (site_dir / part, site_dir, *site_dir.parents) if path.exists())
        if not os.access(existing, os.W_OK | os.X_OK):
            raise DataError(f"import: cannot write in {existing}", "the site's folder cannot be written")


def _sources(
    source: Path, options: ImportOptions, *, nifti: bool, tell: Progress
) -> tuple[Sources, list[LeftOut]]:
    if nifti:
        return find_nifti(source, options.mapping.series)
    return find_dicom(source, workers=options.workers, on_file=partial(tell, "reading headers"))


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
    found: Sequence[Candidate], site_dir: Path, options: ImportOptions, key: bytes
) -> tuple[dict[str, ExamOutcome], list[ExamJob], list[LeftOut]]:
    """What is there already, what is to be made, and what must stay out."""
    recipe = _recipe(options)
    present: dict[str, ExamOutcome] = {}
    jobs: list[ExamJob] = []
    entries: list[LeftOut] = []
    for each in found:
        if is_forgotten(site_dir, each.exam):
            entries.append(LeftOut(what="exam", reason=REASON, num_files=0))
            continue
        earlier = earlier_exam(site_dir, each.exam)
        if earlier is not None:
            present[each.exam] = earlier.outcome
            if earlier.patient != each.patient:
                note_patient(site_dir, earlier, each.patient)
            differs = _difference(earlier, each.digest, recipe)
            if differs and not options.replace:
                entries.append(LeftOut(what="exam", reason=differs, study=each.exam, num_files=0))
        if earlier is None or options.replace:
            jobs.append(
                ExamJob(
                    exam=each.exam,
                    patient=each.patient,
                    source=each.volumes or each.study,
                    site_dir=site_dir,
                    mapping=options.mapping.series,
                    motion=options.motion,
                    key=key,
                    recipe=recipe,
                    digest=each.digest,
                )
            )
    return present, jobs, entries


def _difference(earlier: Earlier, digest: str, recipe: str) -> str:
    if earlier.digest != digest:
        return "made of other files by an earlier import, and left as it is; --replace imports it anew"
    if earlier.recipe != recipe:
        return "made by other rules in an earlier import, and left as it is; --replace imports it anew"
    return ""


def _kept(made: Iterable[ExamOutcome], present: Mapping[str, ExamOutcome]) -> list[LeftOut]:
    """Exams that could not be made anew, of which the earlier version stays."""
    reason = "the version of an earlier import stays"
    return [
        LeftOut(what="exam", reason=reason, study=outcome.exam, num_files=0)
        for outcome in made
        if not outcome.sides and outcome.exam in present
    ]


def _drop_rows(site_dir: Path, made: Iterable[ExamOutcome], present: Mapping[str, ExamOutcome]) -> None:
    """Take breasts out of the tables that an exam had before and has no more."""
    gone = {
        f"{outcome.exam}_{side}"
        for outcome in made
        if outcome.sides and outcome.exam in present
        for side in set(present[outcome.exam].sides) - set(outcome.sides)
    }
    for path in sorted((site_dir / FOLDER).glob("*.csv")) if gone else ():
        content, number = change_rows(path, lambda row: None if row.get("uid") in gone else row)
        if number:
            write_atomic(path, content)


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
