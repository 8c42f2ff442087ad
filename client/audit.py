"""A site's audit log: lines that nobody changes, takes out or moves without it being seen."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from climb_model.atomic import write_atomic
from climb_model.lock import only_process
from climb_model.plain_file import open_plain
from configs.errors import UserError

AUDIT_FILE = "audit.jsonl"
END_FILE = "audit-end.json"
"""In a node's `state/`: number and digest of the last entry that the node wrote."""

END_ACCEPTED = "end-accepted"
"""Kind of the entry by which an admin lets a log go on that does not hold the end that was noted."""

CUT_SHORT = "cut-short"
"""Kind of the entry that follows a line whose writing was cut off; that line is taken out."""

_LOCK = "audit.lock"
_LOCK_WAIT_S = 10.0
_BEFORE_FIRST = "0" * 64
_BLOCK = 1 << 16
_MODE = 0o600
_PREVIOUS = re.compile(rb'"previous": "([0-9a-f]{64})", "time": "[^"]*"\}')
_MAX_END = 1_000


class AuditError(UserError):
    """An audit log that is not as it was written, or cannot be written; one line that says where."""


@dataclass(frozen=True)
class AuditEntry:
    """One line of the log."""

    number: int
    """From 1."""

    time: str
    """UTC, to the second, ISO 8601."""

    kind: str
    fields: Mapping[str, object]
    digest: str = field(repr=False)
    """Of the line. Whoever notes the last one elsewhere can tell later that the log still holds it."""


def append(folder: Path, kind: str, fields: Mapping[str, object]) -> None:
    """Add an entry to `audit.jsonl` of a private folder; on disk when this returns.

    Each line holds its number, a digest of itself and the SHA-256 of the line before. This shows faults
    and careless hands, not an owner of the folder who writes the whole log anew or cuts off its end:
    against these, keep the last line's digest somewhere else. The time it takes does not grow with the log.

    Args:
        fields: JSON values. No report text, and no exam but as a keyed hash.

    Raises:
        AuditError: if the last line is not as it was written, or the entry cannot be written.
        LockedError: if another process keeps writing to the log.
    """
    with writing(folder) as log:
        log.append(kind, fields)


@contextmanager
def writing(folder: Path, end: Path | None = None) -> Generator[AuditLog]:
    """The log of a private folder, for this process alone: what is read in it stays true until appended to.

    Args:
        end: file outside the folder in which the last entry's number and digest are noted (`END_FILE`).

    Raises:
        AuditError: if the folder cannot be written to, or the log does not hold the entry that was noted.
        LockedError: if another process keeps writing to the log.
    """
    with _locked(folder):
        log = AuditLog(folder, end)
        log.check_end()
        yield log


def accept_end(folder: Path, end: Path) -> AuditEntry | None:
    """Let a log go on that does not hold the end that was noted; the log says so from now on.

    Args:
        end: as of `writing`.

    Returns:
        The entry that was added; None if there was nothing to accept.

    Raises:
        AuditError: if what the log does hold was changed: it has to be put aside first.
        LockedError: if another process keeps writing to the log.
    """
    path = folder / AUDIT_FILE
    with _locked(folder):
        last = next(iter(deque(entries(folder), maxlen=1)), None)
        try:
            AuditLog(folder, end).check_end()
        except AuditError:
            noted = _noted(end)
        else:
            return None
        held = {"number": 0 if last is None else last.number, "digest": "" if last is None else last.digest}
        with _told(path):
            end.unlink(missing_ok=True)
        log = AuditLog(folder, end)
        log.append(END_ACCEPTED, {"noted": noted or {}, "held": held})
        return next(log.newest_first())


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    path = folder / AUDIT_FILE
    with ExitStack() as held:
        with _told(path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            held.enter_context(only_process(folder / _LOCK, what=f"writes to {path}", wait_s=_LOCK_WAIT_S))
        yield


class AuditLog:
    """The audit log of a private folder; `writing` gives one that nobody else writes to meanwhile."""

    def __init__(self, folder: Path, end: Path | None = None) -> None:
        """
        Args:
            end: as of `writing`.
        """
        self._path, self._end = folder / AUDIT_FILE, end

    def check_end(self) -> None:
        """Check that the log still holds the entry that was noted as its last; others may follow it.

        Raises:
            AuditError: otherwise. A log without a note, as of a node that has just joined, is taken as it is.
        """
        noted = None if self._end is None else _noted(self._end)
        if noted is None:
            return
        newest = 0
        for values in self._backwards():
            newest = newest or values["number"]
            if values["number"] <= noted["number"]:
                if (values["number"], values["digest"]) == (noted["number"], noted["digest"]):
                    return
                break
        raise AuditError(
            f"{self._path} ends with entry {newest} and does not hold entry {noted['number']}, which this "
            "node wrote last: its end was cut off, or it was removed or written anew. Nothing leaves until "
            "the site's admin has looked: climb-site audit log, then --accept-end"
        )

    def append(self, kind: str, fields: Mapping[str, object]) -> None:
        """As the function `append`; notes the end too, if there is a place for it."""
        with _told(self._path):
            last, place, size = _end(self._path)
            number = 0 if last is None else _checked(last, self._path)["number"]
            added = [(kind, fields)]
            if place < size:
                added.insert(0, (CUT_SHORT, {"num_bytes": size - place}))
            lines: list[bytes] = []
            for each in added:
                number += 1
                last = _line(number, *each, previous=_BEFORE_FIRST if last is None else _sha256(last))
                lines.append(last + b"\n")
            _write_at(self._path, place, b"".join(lines))
            if self._end is not None:
                written = _checked(lines[-1][:-1], self._path)
                note = {"number": written["number"], "digest": written["digest"]}
                write_atomic(self._end, _dumps(note) + b"\n", mode=_MODE)

    def newest_first(self, *, holding: bytes = b"") -> Iterator[AuditEntry]:
        """Entries from the last to the first, read only as far as they are asked for.

        Args:
            holding: entries whose line does not hold these bytes are passed over, unread.

        Raises:
            AuditError: at a line that was changed, or between two where one was taken out or moved.
        """
        for values in self._backwards(holding):
            yield _entry(values)

    def _backwards(self, holding: bytes = b"") -> Iterator[dict[str, Any]]:
        """What the lines hold; of every line, whether it is the one that the next was written behind."""
        with _told(self._path):
            wanted = None
            for line in _lines_backwards(self._path):
                if wanted is not None and _sha256(line) != wanted:
                    raise AuditError(f"{self._path}: a line was changed or damaged, or one was taken out")
                if wanted is None or holding in line:
                    values = _checked(line, self._path, "the last line" if wanted is None else "a line")
                    if holding in line:
                        yield values
                found = _PREVIOUS.search(line, max(0, len(line) - 200))
                if found is None:
                    raise AuditError(f"{self._path}: a line was changed or damaged")
                wanted = found[1].decode()
            if wanted not in (None, _BEFORE_FIRST):
                raise AuditError(f"{self._path}: lines were taken out at its beginning")


def entries(folder: Path) -> Iterator[AuditEntry]:
    """Entries of a private folder's log from the first on, each verified as it is read.

    Raises:
        AuditError: naming the line that was changed, or where lines were taken out or moved.
    """
    path = folder / AUDIT_FILE
    previous = _BEFORE_FIRST
    with _told(path), _opened(path) as file:
        for number, ended in enumerate(file, start=1):
            if not ended.endswith(b"\n"):
                raise AuditError(f"{path} line {number} was cut off; the next entry will say so")
            line = ended[:-1]
            values = _checked(line, path, f"line {number}")
            if values["number"] != number:
                raise AuditError(
                    f"{path} line {number} holds entry {values['number']}: entries were taken out or moved"
                )
            if values["previous"] != previous:
                raise AuditError(
                    f"{path} line {number} does not follow from what stands before it: that was changed"
                )
            yield _entry(values)
            previous = _sha256(line)


def read_log(folder: Path) -> tuple[AuditEntry, ...]:
    """All entries of a private folder's log, verified; none where there is no log.

    Raises:
        AuditError: as `entries`.
    """
    return tuple(entries(folder))


def _entry(values: Mapping[str, Any]) -> AuditEntry:
    return AuditEntry(values["number"], values["time"], values["kind"], values["fields"], values["digest"])


def _line(number: int, kind: str, fields: Mapping[str, object], *, previous: str) -> bytes:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time()))
    values = {"number": number, "time": moment, "kind": kind, "fields": dict(fields), "previous": previous}
    return _dumps(values | {"digest": _sha256(_dumps(values))})


def _checked(line: bytes, path: Path, where: str = "the last line") -> dict[str, Any]:
    """What a line holds, if it is as it was written."""
    try:
        values = cast(dict[str, Any], json.loads(line))
        digest = values.pop("digest")
        sound = digest == _sha256(_dumps(values)) and isinstance(values["number"], int)
        values["digest"] = digest
    except (ValueError, TypeError, KeyError, AttributeError):
        sound, values = False, {}
    if not sound:
        raise AuditError(f"{path} {where} was changed or damaged")
    return values


def _dumps(values: Mapping[str, object]) -> bytes:
    return json.dumps(values, ensure_ascii=False, allow_nan=False, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _end(path: Path) -> tuple[bytes | None, int, int]:
    """The last whole line if there is one, where it ends, and where the file ends; in bytes."""
    with _opened(path) as file:
        return next(_lines_backwards(path), None), _end_of_whole(file), file.seek(0, os.SEEK_END)


def _lines_backwards(path: Path) -> Iterator[bytes]:
    """Whole lines from the last to the first; what was cut off behind them is passed over."""
    with _opened(path) as file:
        end = _end_of_whole(file) - 1  # before the last line's own end
        if end < 0:
            return
        rest = b""
        while end > 0:
            begin = max(0, end - _BLOCK)
            file.seek(begin)
            rest, *lines = (file.read(end - begin) + rest).split(b"\n")
            yield from reversed(lines)
            end = begin
        yield rest


@contextmanager
def _opened(path: Path) -> Generator[io.BufferedIOBase]:
    """The log's file; an empty one where there is none."""
    try:
        file: io.BufferedIOBase = os.fdopen(open_plain(path, os.O_RDONLY), "rb")
    except FileNotFoundError:
        file = io.BytesIO()
    with file:
        yield file


def _noted(end: Path) -> dict[str, Any] | None:
    """Number and digest in a note; None where there is none.

    Raises:
        AuditError: if it cannot be read.
    """
    with _told(end):
        try:
            with os.fdopen(open_plain(end, os.O_RDONLY), "rb") as file:
                content = file.read(_MAX_END)
        except FileNotFoundError:
            return None
    try:
        noted = cast(dict[str, Any], json.loads(content))
        sound = isinstance(noted["number"], int) and isinstance(noted["digest"], str)
    except (ValueError, TypeError, KeyError):
        sound, noted = False, {}
    if not sound:
        raise AuditError(
            f"{end} is damaged: climb-site audit log tells whether the log is whole; delete it then"
        )
    return noted


def _end_of_whole(file: io.BufferedIOBase) -> int:
    """The place behind the last line's end; 0 where no line is whole."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        begin = max(0, end - _BLOCK)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0


@contextmanager
def _told(path: Path) -> Generator[None]:
    """Errors of the disk as one line."""
    try:
        yield
    except OSError as error:
        raise AuditError(f"{path} cannot be written or read: {error.strerror}") from None


def _write_at(path: Path, place: int, content: bytes) -> None:
    """Write at the end of what is whole; a line that was cut off is behind `place`."""
    new = not path.exists()
    file = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _MODE)
    try:
        os.fchmod(file, _MODE)
        os.ftruncate(file, place)
        while content:  # a full disk takes a part, and only then says so
            content = content[os.write(file, content) :]
        os.fsync(file)
    finally:
        os.close(file)
    if new:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
