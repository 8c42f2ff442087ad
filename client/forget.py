"""`climb-site forget`: an exam and everything made of it go; what was learned from it is marked."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.audit import append, read_log
from client.traces import COUNTED, NATIVE, TOKENS, Asked, Traces, exam_folders, find_traces
from client.trained_exams import mark_forgotten
from climb_model.data.tables import read_table
from climb_model.intake.forgotten import SITE_LOCK, is_forgotten, remember_forgotten, whole_exam
from climb_model.intake.pseudonym import KEY_FILE, patient_id, pseudonym, site_key
from climb_model.intake.reports.site_tables import FOLDER
from climb_model.intake.sequences.native import PATIENT, read_provenance
from climb_model.lock import only_process
from climb_model.results import printable
from configs.errors import UserError

BEGUN, DONE = "forget-begun", "forget-done"
"""Kinds of audit entries. A removal that was killed has the first without the second."""

_MOST_NAMES = 5
"""Of exams in one line."""

NOT_UNLEARNED = (
    "Weights that were shared before are not unlearned: they stay as they are wherever they went.",
    "Backups, exports and the PACS keep what they have.",
    "The study's coordinator and server were told nothing: a person has to.",
)


class ForgetError(UserError):
    """An exam that cannot be forgotten; for the site's own screen, since the line names exams."""


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What was removed, or would be."""

    asked: Asked
    traces: Traces
    """Empty: nothing was left of it."""

    dry_run: bool


def exam_of_accession(number: str, site_dir: Path) -> str:
    """The name that an import gave to the exam of an accession number; nothing is kept of the number.

    Raises:
        ForgetError: no number, or no key to compute the name by.
        DataError: a key that cannot be used.
    """
    return pseudonym(_key(number, site_dir), "accession", number)


def exams_of_patient(number: str, site_dir: Path, say: Callable[[str], None] = print) -> list[str]:
    """The names of all exams that annotation.csv or a provenance tells to be a patient's.

    Nothing is kept of the number. A patient that was named without a key, as in public data, is found by
    the number itself.

    Args:
        say: is told of exams that may be hers as well, since nothing names their patient.

    Raises:
        ForgetError: no number, no key, or no exam of hers; the line does not repeat the number.
        DataError: a key or a table that cannot be used.
    """
    wanted = {patient_id(number, _key(number, site_dir)), number}
    patients = _patients(site_dir)
    exams = sorted(exam for exam, named in patients.items() if named & wanted)
    unknown = sorted(exam for exam, named in patients.items() if not named - {exam} and not named & wanted)
    names = [*map(printable, unknown[:_MOST_NAMES]), *(["..."] if len(unknown) > _MOST_NAMES else [])]
    told = f"exams that name no patient, to be looked at by UID: {len(unknown)} ({', '.join(names)})"
    if exams and unknown:
        say(told)
    if exams:
        return exams
    site = site_dir.resolve().name
    if unknown:
        raise ForgetError(f"site '{site}' names no exam of that patient number, but has {told}")
    raise ForgetError(f"site '{site}' has no exam of that patient number")


def _patients(site_dir: Path) -> dict[str, set[str]]:
    """Every exam that has a row in annotation.csv or a folder, to the patients named there.

    An exam that came without a patient number has its own name for its patient's.
    """
    patients: dict[str, set[str]] = {}
    table = site_dir / FOLDER / "annotation.csv"
    rows = ()
    if table.is_file():
        rows = read_table(table, ("UID", "PatientID"), site=site_dir.resolve().name).rows
    for row in rows:
        patients.setdefault(whole_exam(row["UID"]), set()).add(row["PatientID"])
    for exam, folder in exam_folders(site_dir):
        told = (read_provenance(folder) or {}).get(PATIENT, "")
        patients.setdefault(exam, set()).add(str(told))
    return {exam: named - {""} for exam, named in patients.items()}


def _key(number: str, site_dir: Path) -> bytes:
    if not number:
        raise ForgetError("wanted a number, got an empty one")
    if not (site_dir / KEY_FILE).exists():
        site = site_dir.resolve().name
        raise ForgetError(f"site '{site}' has no {KEY_FILE}: name its exams by their UID")
    return site_key(site_dir)


def forget(name: str, site_dir: Path, private: Sequence[Path] = (), *, dry_run: bool = False) -> Forgotten:
    """Remove an exam, or one breast of it, and everything derived from it.

    It may be killed at any moment and asked for again: the exam is on the list that imports keep to
    before anything goes, and what is gone first is what makes the rest usable.

    Args:
        name: `<ID>_left`, `<ID>_right`, or `<ID>` for both breasts. The native volumes hold both
            breasts: they go in each case.
        site_dir: the site's data folder. Its `private` is searched too.
        private: further private folders and run folders that trained on this site.
        dry_run: only find; nothing is changed.

    Raises:
        ForgetError: if there is no trace of it, naming the nearest; nothing is changed.
        LockedError: if an import or a training works in one of the folders; nothing is changed.
        DataError, StateError, AuditError: if a table, a list or the log is damaged; nothing is changed.
    """
    asked = Asked.named(name)
    traces = _found(site_dir, private, asked)
    if dry_run:
        return Forgotten(asked=asked, traces=traces, dry_run=True)
    with _nobody_works_in(site_dir, private):
        traces = _found(site_dir, private, asked)
        log = read_log(site_dir / "private")
        hashes = remember_forgotten(site_dir, asked.names if asked.name == asked.exam else asked.uids)
        told = [entry.kind for entry in log if entry.fields.get("exam") == hashes[asked.name]]
        _carry_out(site_dir, traces, hashes, hashes[asked.name], begun=told[-1:] == [BEGUN])
    return Forgotten(asked=asked, traces=traces, dry_run=False)


def to_lines(found: Forgotten) -> list[str]:
    """What the admin reads. Names of exams and folders: for the site's own screen only."""
    asked, traces = found.asked, found.traces
    name = printable(asked.name)
    if not (traces.removable or traces.trained):
        return [f"nothing left of {name}: it was forgotten before", *_by_hand(traces)]
    lines = [f"would be removed of {name}:" if found.dry_run else f"removed of {name}:"]
    lines += [
        f"  {trace.what}{f' ({trace.number})' if trace.what in COUNTED else ''}: {printable(str(trace.path))}"
        for trace in traces.removable
    ]
    if asked.name != asked.exam and any(trace.what == NATIVE for trace in traces.removable):
        lines.append("the native volumes hold both breasts; the other breast keeps its own volumes and rows")
    if any(trace.what == TOKENS for trace in traces.removable):
        lines.append("the other exams' tokens are made again when they are next needed")
    for folder, uids in traces.trained.items():
        lines.append(
            f"private weights trained with it since round {min(uids.values())}, "
            f"{'would be marked' if found.dry_run else 'marked'}: {printable(str(folder))}"
        )
    lines += _by_hand(traces)
    return [*lines, "nothing was changed (dry run)"] if found.dry_run else [*lines, *NOT_UNLEARNED]


def _by_hand(traces: Traces) -> list[str]:
    return [
        *(
            f"nobody noted which exams trained these private weights: {printable(str(folder))}"
            for folder in traces.unknown
        ),
        *(f"names the exam, to be looked at by hand: {printable(str(path))}" for path in traces.others),
    ]


def _found(site_dir: Path, private: Sequence[Path], asked: Asked) -> Traces:
    traces = find_traces(site_dir, private, asked)
    if traces.removable or traces.trained or is_forgotten(site_dir, asked.name):
        return traces
    there = {
        path.name
        for folder in ("data_unilateral", "data")
        if (site_dir / folder).is_dir()
        for path in (site_dir / folder).iterdir()
        if not path.name.startswith(".")
    }
    close = difflib.get_close_matches(asked.name, sorted({*there, *map(whole_exam, there)}), n=3)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else f"it has {len(there)} folders"
    raise ForgetError(f"site '{site_dir.resolve().name}' has no trace of exam '{asked.name}'; {hint}")


def _carry_out(site_dir: Path, traces: Traces, hashes: Mapping[str, str], exam: str, *, begun: bool) -> None:
    """Remove what was found, between two entries of the audit log."""
    private = site_dir / "private"
    some = bool(traces.removable or traces.trained)
    if some and not begun:
        append(private, BEGUN, {"exam": exam})
    for folder in traces.trained:
        mark_forgotten(folder, hashes)
    for trace in traces.removable:
        trace.remove()
    if some or begun:
        removed: Counter[str] = Counter()
        for trace in traces.removable:
            removed[trace.what] += trace.number
        append(private, DONE, {"exam": exam, "removed": dict(removed), "marked": len(traces.trained)})


@contextmanager
def _nobody_works_in(site_dir: Path, private: Sequence[Path]) -> Generator[None]:
    """Hold the locks of an import into the site's folder and of trainings in the private ones."""
    (site_dir / "private").mkdir(mode=0o700, exist_ok=True)
    locks = [site_dir / SITE_LOCK]
    for folder in (site_dir / "private", *private):
        whole = folder.resolve()
        locks += [
            parent / "lock" for parent in (whole, *whole.parents[:2]) if (parent / "run.json").is_file()
        ]
        locks += sorted(path for path in whole.rglob("lock") if path.is_file())
    with ExitStack() as held:
        for path in dict.fromkeys(lock.resolve() for lock in locks):
            held.enter_context(only_process(path, what=f"works in {path.parent}: nothing was removed"))
        yield
