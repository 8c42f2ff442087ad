"""The admin's pause: a file that is there while the site works on no message."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, cast

from client.node.settings import NodeError
from climb_model.atomic import write_text_atomic

MAX_REASON = 120


def pause(path: Path, reason: str, *, now: bool) -> None:
    """Refuse all messages from now on.

    Args:
        path: `NodePaths.paused`.
        reason: one line that the coordinator is told; may be empty.
        now: whether the training that runs is ended too.

    Raises:
        NodeError: if the reason is long or holds control characters.
    """
    if len(reason) > MAX_REASON or not (reason or "-").isprintable():
        raise NodeError(f"a reason is one line of at most {MAX_REASON} characters, got {len(reason)}")
    values = {"reason": reason, "now": now, "since": time.time()}
    write_text_atomic(path, json.dumps(values, ensure_ascii=False) + "\n")


def resume(path: Path) -> bool:
    """Work on messages again; whether the site was paused."""
    was = path.exists()
    path.unlink(missing_ok=True)
    return was


def paused_line(path: Path) -> str | None:
    """What a message is answered while the site is paused; None while it is not."""
    if not path.exists():
        return None
    reason = str(_read(path).get("reason") or "")
    return f"is paused by its admin: {reason}" if reason else "is paused by its admin"


def paused_since(path: Path) -> float | None:
    """Seconds of the epoch; None while the site is not paused."""
    return float(_read(path).get("since") or 0.0) if path.exists() else None


def stops_now(path: Path) -> bool:
    """Whether the training that runs is to end too."""
    return path.exists() and bool(_read(path).get("now"))


def _read(path: Path) -> dict[str, Any]:
    """A file that is damaged, or made by hand, pauses as well."""
    try:
        values: object = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError):
        return {}
    return cast(dict[str, Any], values) if isinstance(values, dict) else {}
