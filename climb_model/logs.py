"""Logs that do not grow without end."""

from __future__ import annotations

from pathlib import Path

LOG_BYTES = 10_000_000
"""A log of this size is moved to `NAME.1`, which it replaces."""


def is_full(log: Path) -> bool:
    """Whether a log has reached the size at which it is moved."""
    return log.is_file() and log.stat().st_size >= LOG_BYTES


def rotate(log: Path) -> None:
    """Move a full log away; for a log that nobody keeps open."""
    if is_full(log):
        log.replace(log.with_name(f"{log.name}.1"))
