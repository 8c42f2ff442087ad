"""Which exams a study's private weights were trained with, and which of them were forgotten since."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from client.state import StateError
from climb_model.atomic import write_atomic
from climb_model.prepare import ExamSet
from climb_model.training.batches import trainable

EXAMS_FILE = "exams.json"
"""UID to the first round that trained with it; never leaves the private folder."""

MARKS_FILE = "forgotten.json"
"""Keyed hash of a forgotten exam to the first round that trained with it."""


def record_exams(folder: Path, exams: ExamSet, round: int) -> None:
    """Note, before a round's state is kept, with which exams it was trained.

    Args:
        folder: the study's, below the site's private folder.

    Raises:
        StateError: if the record is damaged.
    """
    known = trained_exams(folder)
    wanted = known | {uid: round for uid in sorted(_uids(exams)) if uid not in known}
    if wanted != known:
        _write(folder / EXAMS_FILE, wanted)


def trained_exams(folder: Path) -> dict[str, int]:
    """UID to the first round of the study that trained with it.

    Raises:
        StateError: if the record is damaged.
    """
    return _read(folder / EXAMS_FILE)


def mark_forgotten(folder: Path, hashes: Mapping[str, str]) -> None:
    """Put marks in the place of exams: their keyed hashes stay with the weights, their UIDs do not.

    Args:
        hashes: UID to keyed hash.
    """
    known = trained_exams(folder)
    gone = {hashes[uid]: round for uid, round in known.items() if uid in hashes}
    _write(folder / MARKS_FILE, gone | _read(folder / MARKS_FILE))
    _write(folder / EXAMS_FILE, {uid: round for uid, round in known.items() if uid not in hashes})


def forgotten_notice(folder: Path) -> str | None:
    """What a site is told before it goes on with weights that saw exams which it forgot since.

    Raises:
        StateError: if the marks are damaged.
    """
    number = len(_read(folder / MARKS_FILE))
    if not number:
        return None
    some = "1 exam that was" if number == 1 else f"{number} exams that were"
    return f"private weights were trained with {some} forgotten since"


def _uids(exams: ExamSet) -> Iterable[str]:
    return (exams.uids[row] for row in trainable(exams))


def _read(path: Path) -> dict[str, int]:
    if not path.exists():
        return {}
    try:
        return {str(name): int(round) for name, round in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, TypeError, AttributeError):
        raise StateError(f"{path} is damaged: take it from a backup") from None


def _write(path: Path, rounds: Mapping[str, int]) -> None:
    write_atomic(path, (json.dumps(rounds, indent=1, ensure_ascii=False) + "\n").encode(), mode=0o600)
