"""Files that are whole or absent, whenever the process dies."""

from __future__ import annotations

import os
from pathlib import Path

_UNFINISHED = ".unfinished"


def write_atomic(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file that readers see as a whole or not at all, also across a power cut.

    A temporary neighbour is written and synced, then renamed over `path`, then the folder is synced.
    The neighbour is a new file: what bears its name, left behind or put there, is taken away unread.

    Args:
        mode: of a new file, less the process's umask; 0o600 for its owner alone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
    unfinished.unlink(missing_ok=True)
    created = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(created, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(unfinished, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_atomic` of UTF-8 text."""
    write_atomic(path, text.encode("utf-8"))
