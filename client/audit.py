"""A site's audit log: lines that nobody changes, takes out or moves without it being seen."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from climb_model.lock import only_process
from configs.errors import UserError

AUDIT_FILE = "audit.jsonl"
CUT_SHORT = "cut-short"
"""Kind of the entry that follows a line whose writing was cut off; that line is taken out."""

_LOCK = "audit.lock"
_LOCK_WAIT_S = 10.0
_BEFORE_FIRST = "0" * 64


class AuditError(UserError):
    """An audit log that is not as it was written; one line that says where."""


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log."""

    number: int
    """From 1."""

    time: str
    """UTC, to the second, ISO 8601."""

    kind: str
    fields: Mapping[str, object]


def append(folder: Path, kind: str, fields: Mapping[str, object]) -> None:
    """Add an entry to `audit.jsonl` of a private folder; on disk when this returns.

    Each line holds its number, a digest of itself and the SHA-256 of the line before. This shows faults
    and careless hands, not an owner of the folder who writes the whole log anew or cuts off its end:
    against these, keep the last line somewhere else.

    Args:
        fields: JSON values. No report text, and no exam but as a keyed hash.

    Raises:
        AuditError: if the last line is not as it was written.
        LockedError: if another process keeps writing to the log.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / AUDIT_FILE
    with only_process(folder / _LOCK, what=f"writes to {path}", wait_s=_LOCK_WAIT_S):
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        last = whole.splitlines()[-1] if whole else b""
        number = _checked(last, path)["number"] if last else 0
        added = [(kind, fields)]
        if len(whole) < len(content):
            added.insert(0, (CUT_SHORT, {"num_bytes": len(content) - len(whole)}))
        lines: list[bytes] = []
        for each in added:
            number += 1
            last = _line(number, *each, previous=_sha256(last) if last else _BEFORE_FIRST)
            lines.append(last + b"\n")
        _write_at(path, len(whole), b"".join(lines))


def read_log(folder: Path) -> tuple[AuditEntry, ...]:
    """All entries of a private folder's log, verified; none where there is no log.

    Raises:
        AuditError: naming the line that was changed, or where lines were taken out or moved.
    """
    path = folder / AUDIT_FILE
    if not path.exists():
        return ()
    entries: list[AuditEntry] = []
    previous = _BEFORE_FIRST
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        values = _checked(line, path, number)
        if values["number"] != number:
            raise AuditError(
                f"{path} line {number} holds entry {values['number']}: entries were taken out or moved"
            )
        if values["previous"] != previous:
            raise AuditError(
                f"{path} line {number} does not follow from what stands before it: that was changed"
            )
        entries.append(AuditEntry(number, values["time"], values["kind"], values["fields"]))
        previous = _sha256(line)
    return tuple(entries)


def _line(number: int, kind: str, fields: Mapping[str, object], *, previous: str) -> bytes:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    values = {"number": number, "time": moment, "kind": kind, "fields": dict(fields), "previous": previous}
    return _dumps(values | {"digest": _sha256(_dumps(values))})


def _checked(line: bytes, path: Path, number: int | None = None) -> dict[str, Any]:
    """What a line holds, if it is as it was written."""
    try:
        values = cast(dict[str, Any], json.loads(line))
        digest = values.pop("digest")
        sound = digest == _sha256(_dumps(values)) and isinstance(values["number"], int)
    except (ValueError, TypeError, KeyError, AttributeError):
        sound, values = False, {}
    if not sound:
        where = "the last line" if number is None else f"line {number}"
        raise AuditError(f"{path} {where} was changed or damaged")
    return values


def _dumps(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_at(path: Path, place: int, content: bytes) -> None:
    """Write at the end of what is whole; a line that was cut off is behind `place`."""
    new = not path.exists()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.ftruncate(file, place)
        os.write(file, content)
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
