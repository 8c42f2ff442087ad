"""One process at a time: a lock that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from climb_model.plain_file import open_plain
from configs.errors import UserError


class LockedError(UserError):
    """A folder that another process works in."""


@contextmanager
def only_process(path: Path, *, what: str, wait_s: float = 0.0) -> Generator[None]:
    """Hold the lock of a file while the block runs.

    Args:
        path: the lock's file; it stays, with the number of its last holder.
        what: for the error: what another process is doing.
        wait_s: seconds to wait for a holder that is just ending.

    Raises:
        LockedError: if another process holds it.
        OSError: if it is no plain file: what a link leads to is not locked, nor changed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open_plain(path, os.O_RDWR | os.O_CREAT, 0o644)
    end = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    holder = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
                    raise LockedError(f"another process ({holder}) {what}") from None
                time.sleep(0.2)
        os.ftruncate(file, 0)
        os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(file)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of a file now; that of a file that is not there is free."""
    try:
        file = open_plain(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False
