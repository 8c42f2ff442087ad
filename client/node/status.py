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
_EXIT = re.compile(r"Exit Code: (\d+)")
_UNKNOWN_KEY = ("Invalid SuperNode authentication", "No SuperNode found", "401 Unauthorized")
_LOG_TAIL = 200_000


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
        connected = state.pid is not None and is_connected(log)
        with self._lock:
            now = self._now
            since = now.connected_since or time.time()
            self._now = replace(
                now,
                connected_since=since if connected else None,
                problem="" if connected else _problem(state, log, check),
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


def is_connected(log: Path) -> bool:
    """Whether the newest SuperNode in this log has been let in by the server."""
    return _CONNECTED in _newest(log)


def _newest(log: Path) -> str:
    """What the newest SuperNode wrote."""
    if not log.is_file():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_TAIL))
        text = file.read().decode("utf-8", "replace")
    return text[text.rfind(_STARTED) :] if _STARTED in text else text


def _problem(state: ServiceState, log: Path, check: ServerCheck | None) -> str:
    """Why there is no connection, the likeliest cause first."""
    if check is not None and check.problem:
        return check.problem
    if state.last_exit is None:
        return ""
    code = _EXIT.search(text := _newest(log))
    if any(words in text for words in _UNKNOWN_KEY):
        return "the server does not know this site's key: not admitted yet, or revoked; ask the coordinator"
    if code is not None and code[1] == "305":
        return (
            "the server did not let the SuperNode in: for about 60 s after one ended without a word this is "
            "normal; later, ask the coordinator whether this site is admitted"
        )
    return f"the SuperNode ended with exit code {state.last_exit}; its log says more: {log}"
