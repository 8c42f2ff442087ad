"""The last thing before a message leaves: the site's policy, and a line in its audit log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from client.audit import AuditEntry, AuditLog, writing
from client.egress.forms import without_free_text
from client.egress.policy import MAX_LINE, REFUSED, Policy, PolicyFileError, read_policy
from client.egress.records import MAX_DIMENSIONS, Reading, agreed_shapes, read_reply, unread
from client.egress.rules import BEHIND, Broken, Leaving, broken_rule, spent_rule
from configs.load import settings_hash

__all__ = ["REFUSED_KIND", "SENT_KIND", "Egress", "agreed_shapes"]

SENT_KIND, REFUSED_KIND = "sent", "refused"
"""Kinds of audit entries: the reply left as it was, or a refusal left in its place."""

_DAY_S = 86_400
_MAX_LISTED = 1_000
_MAX_NAME = 100
_MAX_OVERRIDES = 4_000
_UNREADABLE = Broken(rule="records", line="wants a reply that can be read", detail="it cannot be read")


class Egress:
    """What leaves a site goes through here.

    Guarantees:
        - What the policy does not name does not leave: a refusal in one line without content does.
        - The entry of the audit log is on disk before the reply is given back.
        - If it cannot be written, nothing is given back at all.
        - Bytes of a run, updates and messages of a day are counted in the log, under its lock: a restart
          forgets nothing, and two processes do not send more together than one may.
        - A log that does not hold what this node wrote last lets nothing leave.
    """

    def __init__(self, private: Path, policy: Policy | Path, site: str, *, end: Path | None = None) -> None:
        """Of one site.

        Args:
            private: folder of the audit log.
            policy: a policy, or its file, which is then read anew for each message; while it is missing
                or faulty everything is refused.
            site: this site's name.
            end: file outside the private folder where the log's end is noted (`client.audit.END_FILE`).
        """
        self._private, self._policy, self._site, self._end = private, policy, site, end

    def check(self, asked: Leaving, content: RecordDict) -> RecordDict:
        """What leaves in the place of a reply: itself, or a refusal without content.

        Of the reply itself only sentences that are not this program's are replaced, by their number.

        Args:
            asked: for whom; its reading is not looked at.

        Raises:
            AuditError: if the audit log was changed or cannot be written. Then nothing may leave.
            LockedError: if another process keeps writing to it.
        """
        try:
            leaving, content, num_withheld = self.plainly(asked, content)
            policy, broken = self._judge(leaving)
        except Exception:  # whatever is wrong with it: it is refused, and the log says so
            leaving, num_withheld = replace(asked, reading=unread()), 0
            policy, broken = self._policy_now()
            broken = broken or _UNREADABLE
        with writing(self._private, self._end) as log:
            spent = _run_bytes(log, leaving)
            if policy is not None and broken is None:
                broken = self._spent(log, policy, leaving, spent)
            left = content if broken is None else _refusal(policy, self._site, broken)
            num_bytes = leaving.reading.num_bytes if broken is None else read_reply(left).num_bytes
            fields = _of_request(leaving) | {
                "withheld": num_withheld,
                "bytes": num_bytes,
                "run_bytes": spent + num_bytes,
                **_held(leaving.reading, sent=broken is None),
            }
            if broken is not None:
                fields |= {"rule": broken.rule, "detail": broken.detail, "line": _line(self._site, broken)}
            log.append(SENT_KIND if broken is None else REFUSED_KIND, fields)
        return left

    def plainly(self, asked: Leaving, content: RecordDict) -> tuple[Leaving, RecordDict, int]:
        """A reply without sentences that are not this program's.

        Args:
            asked: for whom; its reading is not looked at.

        Returns:
            What is leaving, as records too, and how many sentences were withheld.
        """
        num_withheld = 0
        if not asked.own_line:
            line = asked.settings if isinstance(asked.settings, str) else None
            content, num_withheld = without_free_text(content, self._site, asked.sent, line)
        return replace(asked, reading=read_reply(content)), content, num_withheld

    def foresee(self, leaving: Leaving) -> Broken | None:
        """The rule that `check` would name, with what the log says now; nothing is written.

        Raises:
            AuditError: if the audit log was changed or cannot be read.
        """
        policy, broken = self._judge(leaving)
        if policy is None or broken is not None:
            return broken
        log = AuditLog(self._private, self._end)
        log.check_end()
        return self._spent(log, policy, leaving, _run_bytes(log, leaving))

    def _spent(self, log: AuditLog, policy: Policy, leaving: Leaving, spent: int) -> Broken | None:
        most = max(policy.rounds_per_day, policy.messages_per_day)
        num_rounds, num_messages = counted_in_a_day(log, most)
        return spent_rule(policy, leaving, run_bytes=spent, num_rounds=num_rounds, num_messages=num_messages)

    def _judge(self, leaving: Leaving) -> tuple[Policy | None, Broken | None]:
        policy, broken = self._policy_now()
        return policy, broken if policy is None else broken_rule(policy, self._site, leaving)

    def _policy_now(self) -> tuple[Policy | None, Broken | None]:
        """The policy, or why there is none."""
        try:
            return read_policy(self._policy) if isinstance(self._policy, Path) else self._policy, None
        except PolicyFileError as error:
            line = "cannot be read; its own log says more"
            return None, Broken(rule="policy", line=line, detail=str(error))


def _run_bytes(log: AuditLog, leaving: Leaving) -> int:
    """Bytes that have left in a run, by the log; 0 of a run that has not begun."""
    return 0 if leaving.run_id is None else run_bytes(log, leaving.run_id)


def run_bytes(log: AuditLog, run_id: int) -> int:
    """Bytes that have left in a run, by the log."""
    for entry in log.newest_first(holding=b'"run": "%d"' % run_id):
        if entry.kind in (SENT_KIND, REFUSED_KIND) and entry.fields["run"] == str(run_id):
            return _number(entry, "run_bytes")
    return 0


def counted_in_a_day(log: AuditLog, most: int) -> tuple[int, int]:
    """Updates that have left in the last 24 hours, and messages that the study's program made in them.

    Args:
        most: as far as they are counted.
    """
    begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - _DAY_S))
    num_rounds = num_messages = 0
    for entry in log.newest_first(holding=b'"message": '):
        if entry.time <= begin or min(num_rounds, num_messages) >= most:
            break
        if entry.kind in (SENT_KIND, REFUSED_KIND):
            num_rounds += entry.kind == SENT_KIND and entry.fields.get("update") is True
            num_messages += entry.fields.get("own_line") is not True
    return num_rounds, num_messages


def _number(entry: AuditEntry, key: str) -> int:
    value = entry.fields.get(key)
    return value if isinstance(value, int) else 0


def _line(site: str, broken: Broken) -> str:
    return f"site '{site}': its policy {broken.line}"[:MAX_LINE]


def _refusal(policy: Policy | None, site: str, broken: Broken) -> RecordDict:
    """What leaves instead: the words that the policy lets a refusal have, cut to their length."""
    words = {"site": site, REFUSED: _line(site, broken)}
    if policy is not None:
        allowed = policy.words[REFUSED]
        words = {key: word[: allowed[key]] for key, word in words.items() if key in allowed}
    return RecordDict({REFUSED: ConfigRecord(dict(words))})


def _of_request(leaving: Leaving) -> dict[str, object]:
    """For the log: what was asked, by whom, and what worked on it."""
    settings = leaving.settings
    return {
        "study": _short(leaving.study),
        "run": str(leaving.run_id),
        "round": leaving.round,
        "message": _short(leaving.message),
        "preset": _short(leaving.preset),
        "overrides": _short(leaving.overrides, _MAX_OVERRIDES),
        "settings": "" if isinstance(settings, str) else settings_hash(settings),
        "bundle": _short(leaving.bundle),
        "coordinator": _short(leaving.coordinator),
        "behind": _told_behind(leaving.behind),
        "update": leaving.is_update,
        "own_line": leaving.own_line,
    }


def _held(reading: Reading, *, sent: bool) -> dict[str, object]:
    """For the log: what left; of what was stopped the names alone, not what may be wrong in it."""
    tensors = [
        {
            "name": _short(tensor.name),
            "shape": list(tensor.shape[: MAX_DIMENSIONS + 1]),
            "dtype": _short(tensor.dtype),
            "norm": None if tensor.norm is None or not math.isfinite(tensor.norm) else round(tensor.norm, 6),
            "sha256": tensor.sha256,
        }
        for tensor in reading.tensors[:_MAX_LISTED]
    ]
    numbers, words = dict(reading.numbers), dict(reading.words)
    return {
        "tensors": tensors,
        "num_tensors": len(reading.tensors),
        "numbers": numbers if sent else [_short(name) for name in list(numbers)[:_MAX_LISTED]],
        "words": words if sent else [_short(key) for key in list(words)[:_MAX_LISTED]],
        "wanted_bytes": reading.num_bytes,
    }


def _told_behind(behind: Mapping[str, int] | None) -> dict[str, int]:
    return {name: number for name in BEHIND if isinstance(number := (behind or {}).get(name), int)}


def _short(text: str, most: int = _MAX_NAME) -> str:
    """A peer's text in plain signs."""
    return ascii(text)[1:-1][:most]
