"""Opening a file where somebody else may have put a link, a pipe or a device."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def open_plain(path: Path, flags: int, mode: int = 0o600) -> int:
    """A descriptor of a plain file that has this one name; never of what a link leads to.

    Args:
        flags: as of `os.open`. `O_TRUNC` would empty the file before it is looked at: use `os.ftruncate`.
        mode: of a new file, less the process's umask.

    Raises:
        OSError: if it is a link, a folder, a pipe, a device or a socket, or a file with a second name.
    """
    assert not flags & os.O_TRUNC
    try:
        file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise _not_plain(path) from None
        raise
    found = os.fstat(file)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(file)
        raise _not_plain(path)
    return file


def _not_plain(path: Path) -> OSError:
    return OSError(errno.EINVAL, "is no plain file with one name, but a link or the like", str(path))
