"""`climb-site forget`: an exam and everything made of it go; what was learned from it is marked."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.audit import append, read_log
from client.traces import COUNTED, NATIVE, TOKENS, Asked, Traces, find_traces
from client.trained_exams import mark_forgotten
from climb_model.data.tables import read_table
from climb_model.intake.forgotten import SITE_LOCK, is_forgotten, remember_forgotten, whole_exam
from climb_model.intake.pseudonym import KEY_FILE, patient_id, pseudonym, site_key
from climb_model.intake.reports.site_tables import FOLDER
from climb_model.lock import only_process
from climb_model.results import printable
from configs.errors import UserError

BEGUN, DONE = "forget-begun", "forget-done"
"""Kinds of audit entries. A removal that was killed has the first without the second."""

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


def exams_of_patient(number: str, site_dir: Path) -> list[str]:
    """The names of all exams whose row in annotation.csv is a patient's; nothing is kept of the number.

    A patient that was named without a key, as in public data, is found by the number itself.

    Raises:
        ForgetError: no number, no key, or no exam of hers; the line does not repeat the number.
        DataError: a key or a table that cannot be used.
    """
    patients = {patient_id(number, _key(number, site_dir)), number}
    path = site_dir / FOLDER / "annotation.csv"
    rows = ()
    if path.is_file():
        rows = read_table(path, ("UID", "PatientID"), site=site_dir.resolve().name).rows
    exams = sorted({whole_exam(row["UID"]) for row in rows if row["PatientID"] in patients})
    if not exams:
        site = site_dir.resolve().name
        raise ForgetError(f"annotation.csv of site '{site}' has no exam of that patient number")
    return exams


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
