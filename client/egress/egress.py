"""The last thing before a message leaves: the site's policy, and a line in its audit log."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path

from flwr.app import ConfigRecord, RecordDict

from client.audit import AuditEntry, AuditLog, writing
from client.egress.policy import MAX_LINE, REFUSED, Policy, PolicyFileError, read_policy
from client.egress.records import Reading, agreed_shapes, read_reply
from client.egress.rules import BEHIND, TRAIN_MESSAGE, Broken, Leaving, broken_rule, spent_rule

__all__ = ["REFUSED_KIND", "SENT_KIND", "Egress", "agreed_shapes"]

SENT_KIND, REFUSED_KIND = "sent", "refused"
"""Kinds of audit entries: the reply left as it was, or a refusal left in its place."""

_DAY_S = 86_400
_MAX_LISTED = 1_000
_MAX_NAME = 100


class Egress:
    """What leaves a site goes through here.

    Guarantees:
        - What the policy does not name does not leave: a refusal in one line without content does.
        - The entry of the audit log is on disk before the reply is given back.
        - If it cannot be written, nothing is given back at all.
        - Bytes of a run and updates of a day are counted in the log, under its lock: a restart forgets
          nothing, and two processes do not send more together than one may.
    """

    def __init__(self, private: Path, policy: Policy | Path, site: str) -> None:
        """Of one site.

        Args:
            private: folder of the audit log.
            policy: a policy, or its file, which is then read anew for each message; while it is missing
                or faulty everything is refused.
            site: this site's name.
        """
        self._private, self._policy, self._site = private, policy, site

    def check(
        self,
        kind: str,
        study: str,
        run_id: int,
        round: int,
        content: RecordDict,
        behind: Mapping[str, int] | None,
        preset: str,
        coordinator: str,
        agreed: Mapping[str, tuple[int, ...]] | None = None,
    ) -> RecordDict:
        """What leaves in the place of a reply: itself, unchanged, or a refusal without content.

        Args:
            kind: `query.hello` or `train`.
            round: from 1; 0 for the first exchange.
            behind: `num-exams`, `num-tokens` and `num-steps` of an update.
            coordinator: SHA-256 of its authority's certificate.
            agreed: name to shape of each tensor that came with the request (`agreed_shapes`); without it,
                tensors whose shape the policy leaves to the agreement stay.

        Raises:
            AuditError: if the audit log was changed or cannot be written. Then nothing may leave.
            LockedError: if another process keeps writing to it.
        """
        leaving = Leaving(
            message=kind,
            study=study,
            preset=preset,
            coordinator=coordinator,
            reading=read_reply(content),
            behind=behind,
            agreed=agreed,
        )
        policy, broken = self._judge(leaving)
        with writing(self._private) as log:
            spent = run_bytes(log, run_id)
            if policy is not None and broken is None:
                num_rounds = rounds_in_a_day(log, policy.rounds_per_day) if leaving.is_update else 0
                broken = spent_rule(policy, leaving, run_bytes=spent, num_rounds=num_rounds)
            left = content if broken is None else _refusal(policy, self._site, broken)
            num_bytes = leaving.reading.num_bytes if broken is None else read_reply(left).num_bytes
            fields = {
                "study": _short(study),
                "run": str(run_id),
                "round": round,
                "message": _short(kind),
                "preset": _short(preset),
                "coordinator": _short(coordinator),
                "behind": _told_behind(behind),
                "update": leaving.is_update,
                "bytes": num_bytes,
                "run_bytes": spent + num_bytes,
                **_held(leaving.reading, sent=broken is None),
            }
            if broken is not None:
                fields |= {"rule": broken.rule, "detail": broken.detail, "line": _line(self._site, broken)}
            log.append(SENT_KIND if broken is None else REFUSED_KIND, fields)
        return left

    def foresee(self, leaving: Leaving, run_id: int | None = None) -> Broken | None:
        """The rule that `check` would name, with what the log says now; nothing is written.

        Args:
            run_id: None for a run that has not begun.

        Raises:
            AuditError: if the audit log was changed or cannot be read.
        """
        policy, broken = self._judge(leaving)
        if policy is None or broken is not None:
            return broken
        log = AuditLog(self._private)
        spent = 0 if run_id is None else run_bytes(log, run_id)
        return spent_rule(
            policy, leaving, run_bytes=spent, num_rounds=rounds_in_a_day(log, policy.rounds_per_day)
        )

    def _judge(self, leaving: Leaving) -> tuple[Policy | None, Broken | None]:
        try:
            policy = read_policy(self._policy) if isinstance(self._policy, Path) else self._policy
        except PolicyFileError as error:
            line = "cannot be read; its own log says more"
            return None, Broken(rule="policy", line=line, detail=str(error))
        return policy, broken_rule(policy, self._site, leaving)


def run_bytes(log: AuditLog, run_id: int) -> int:
    """Bytes that have left in a run, by the log."""
    for entry in log.newest_first(holding=b'"run": "%d"' % run_id):
        if entry.kind in (SENT_KIND, REFUSED_KIND) and entry.fields["run"] == str(run_id):
            return _number(entry, "run_bytes")
    return 0


def rounds_in_a_day(log: AuditLog, most: int) -> int:
    """Updates that have left in the last 24 hours, by the log; counted up to `most`."""
    begin = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - _DAY_S))
    number = 0
    for entry in log.newest_first(holding=b'"message": "%s"' % TRAIN_MESSAGE.encode()):
        if entry.time <= begin or number >= most:
            break
        number += entry.kind == SENT_KIND and entry.fields.get("update") is True
    return number


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


def _held(reading: Reading, *, sent: bool) -> dict[str, object]:
    """For the log: what left; of what was stopped the names alone, not what may be wrong in it."""
    tensors = [
        {
            "name": _short(tensor.name),
            "shape": list(tensor.shape),
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


def _short(text: str) -> str:
    """A peer's text in plain signs."""
    return ascii(text)[1:-1][:_MAX_NAME]
