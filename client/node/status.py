"""How a running node is: `state/status.json`, which the node writes and `climb-site status` shows."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from client.node.server_check import ServerCheck
from climb_model.atomic import write_text_atomic
from climb_model.supervisor import ServiceState

_CONNECTED = "SuperNode ID:"
_STARTED = "Starting Flower SuperNode"
_PROCESS = "Started server process ["
_ENDED_WELL = "SuperNode terminated gracefully"
_NOT_ACTIVATED = "[code: 2004]"
_NO_TRUST = ("SSL/TLS handshake error", "CERTIFICATE_VERIFY_FAILED")
_TRIES, _TRIED = "Connection attempt failed, retrying", "Connection successful after"
_REASON = re.compile(
    r"Exit Code: (\d+)\s+(?:Failed to initialize the connection to the SuperLink\.\s+)?([^\n]*)"
)
_MAX_REASON = 150
_LOG_TAIL = 200_000

_REVOKED = (
    "the server no longer accepts this site's key: the coordinator revoked it, or its server has lost it; "
    "ask the coordinator"
)
_NOT_ADMITTED = (
    "the server does not know this site's key: not admitted yet, or revoked; send the request of "
    "climb-site join to the coordinator, or ask"
)
_STILL_KNOWN = (
    "the server holds this site for connected still: for about 60 s after a SuperNode ended without a word "
    "this is normal; later, ask the coordinator whether this site is admitted"
)
_NO_SIGNATURE = (
    "the server refused this site's signature: its clock differs from the server's, or node.key is not the "
    "key that was admitted; compare the fingerprint with the coordinator"
)
_NOT_TRUSTED = (
    "the SuperNode does not trust the server's certificate: this site trusts its ca.crt alone; ask the "
    "coordinator, or a proxy in between opens the connection"
)


@dataclass(frozen=True)
class Answered:
    """One message and its answer, for the site's own status."""

    time: float
    """Seconds of the epoch."""

    study: str
    kind: str
    round: int
    refused: str
    """The line of a refusal; '' if the reply left."""

    num_bytes: int
    """Tensors that left."""


@dataclass(frozen=True, kw_only=True)
class NodeStatus:
    """What `status.json` holds; times in seconds of the epoch."""

    site: str
    server: str
    version: str
    bundle: str
    """Digest of this image's own bundle."""

    pid: int
    started: float
    updated: float
    connected_since: float | None = None
    problem: str = ""
    """Why the site is not connected, in words; '' while it is."""

    clock_offset_s: float | None = None
    restarts: int = 0
    """Of the SuperNode since the start."""

    last_exit: int | None = None
    num_messages: int = 0
    num_refused: int = 0
    last_message: float | None = None
    last_study: str = ""
    last_kind: str = ""
    last_round: int = 0
    last_refused: str = ""
    """The line of the newest refusal."""

    last_bytes: int = 0
    """Of the tensors that left with the newest reply that held some."""

    bytes_left: int = 0
    """Of all tensors that left since the start."""


class StatusFile:
    """Keeps `status.json` as the node is; safe to use from several threads."""

    def __init__(self, path: Path, first: NodeStatus) -> None:
        self._path, self._now = path, first
        self._let_in: int | None = None
        self._lock = threading.Lock()
        self._update()

    def answered(self, message: Answered) -> None:
        """A message was answered."""
        with self._lock:
            now = self._now
            self._now = replace(
                now,
                num_messages=now.num_messages + 1,
                num_refused=now.num_refused + bool(message.refused),
                last_message=message.time,
                last_study=message.study,
                last_kind=message.kind,
                last_round=message.round,
                last_refused=message.refused or now.last_refused,
                last_bytes=message.num_bytes or now.last_bytes,
                bytes_left=now.bytes_left + message.num_bytes,
            )
        self._update()

    def supernode(self, state: ServiceState, log: Path, check: ServerCheck | None) -> None:
        """How the SuperNode is, by its process and its log, and what the last look at the server found."""
        sessions = _sessions(log)
        present = _present(sessions, state.pid)
        with self._lock:
            if state.pid is None or (present is not None and _CONNECTED in present):
                self._let_in = state.pid  # remembered: its first lines may be gone from a long log
            connected = state.pid is not None and self._let_in == state.pid and not _retries(sessions)
            now = self._now
            since = now.connected_since or time.time()
            self._now = replace(
                now,
                connected_since=since if connected else None,
                problem="" if connected else _problem(state, sessions, check),
                clock_offset_s=now.clock_offset_s if check is None else check.offset_s,
                restarts=state.restarts,
                last_exit=state.last_exit,
            )
        self._update()

    def now(self) -> NodeStatus:
        """As it is."""
        with self._lock:
            return self._now

    def _update(self) -> None:
        with self._lock:
            self._now = replace(self._now, updated=time.time())
            values = dataclasses.asdict(self._now)
            write_text_atomic(self._path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def read_status(path: Path) -> NodeStatus | None:
    """What the node wrote last; None if it never did, or another version of it did."""
    try:
        values = cast(dict[str, Any], json.loads(path.read_text("utf-8")))
        return NodeStatus(**values)
    except (OSError, ValueError, TypeError):
        return None


def _sessions(log: Path) -> list[str]:
    """What each SuperNode wrote that the log's end still holds, the newest last."""
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    return [each for each in text.split(_STARTED) if each.strip()]


def _present(sessions: list[str], pid: int | None) -> str | None:
    """What the SuperNode of this process wrote; None if it wrote nothing yet."""
    return sessions[-1] if pid is not None and sessions and f"{_PROCESS}{pid}]" in sessions[-1] else None


def _retries(sessions: list[str]) -> bool:
    """Whether the newest SuperNode tries to reach the server in vain."""
    return bool(sessions) and sessions[-1].rfind(_TRIES) > sessions[-1].rfind(_TRIED)


def _problem(state: ServiceState, sessions: list[str], check: ServerCheck | None) -> str:
    """Why there is no connection, the likeliest cause first."""
    if check is not None and check.problem:
        return check.problem
    if state.pid is not None and _retries(sessions):
        return "the connection to the server is lost; the SuperNode tries again"
    if state.last_exit is None:
        return ""
    just_started = state.pid is not None and bool(sessions) and _PROCESS not in sessions[-1]
    ended = sessions[:-1] if just_started or _present(sessions, state.pid) else sessions
    return _why_ended(ended) or (
        f"the SuperNode ended with exit code {state.last_exit}; supernode.log of the node's state says more"
    )


def _why_ended(sessions: list[str]) -> str:
    """Why the newest of some SuperNodes ended, by its own words; '' if they tell nothing."""
    if not sessions:
        return ""
    *before, last = sessions
    if any(words in last for words in _NO_TRUST):
        return _NOT_TRUSTED
    if _NOT_ACTIVATED in last:  # of an unknown key, and of a site that is held for connected
        earlier = next((each for each in reversed(before) if _CONNECTED in each), None)
        if earlier is None:
            return _NOT_ADMITTED
        return _REVOKED if _ENDED_WELL in earlier else _STILL_KNOWN
    if _ENDED_WELL in last:  # Flower ends so at once when a signature is not accepted
        return _REVOKED if _CONNECTED in last else _NO_SIGNATURE
    if reason := _REASON.search(last):
        text = "".join(sign if sign.isprintable() else " " for sign in reason[2])[:_MAX_REASON]
        return f"the SuperNode ended with Flower's exit code {reason[1]}: {text or 'no reason given'}"
    return ""
