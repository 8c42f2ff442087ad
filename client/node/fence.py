"""What the app's process may reach, by Landlock: a process that fences itself in, and for good.

Of the standard library alone: it is loaded before the chosen code is on the path.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

_CREATE, _ADD_RULE, _RESTRICT = 444, 445, 446
_NO_NEW_PRIVILEGES = 38
_ASK_VERSION = 1
_BENEATH = 1

_WRITE_FILE, _READ_FILE = 1 << 1, 1 << 2
_REMOVE_AND_MAKE = sum(1 << bit for bit in range(4, 13))
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_OF_FILES = _WRITE_FILE | _READ_FILE | _TRUNCATE
_TCP = 0b11
"""Binding and connecting."""

_SCOPES = 0b11
"""Abstract sockets of, and signals to, processes outside."""


def version() -> int:
    """Landlock's version in this kernel; 0 where there is none."""
    return max(0, _call(_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(_ASK_VERSION)))


def gaps() -> str:
    """What this kernel does not keep the app from, as the end of a sentence; '' if nothing that matters.

    Connections are refused by the filter of system calls too, so that it does not matter what is there.
    """
    known = version()
    if known < 2:
        return "has no Landlock: the training process can read and change what this user can"
    if known < 3:
        return "is older than 6.2: the training process can empty files of this user, the audit log too"
    return ""


def fence_in(
    hidden: Iterable[Path], *, readable: Iterable[Path], writable: Iterable[Path], connects: bool = False
) -> bool:
    """From now on this process writes in a few places only, reads nothing hidden, and opens no connection.

    Args:
        hidden: folders whose files are not to be read: the node's, with key, secret and policy, and others.
        readable: what may be read even within one of them; what is hidden in it stays so.
        writable: folders and files that may be read and changed; a folder that holds one is not.
        connects: leaves TCP as it is.

    Returns:
        Whether the kernel can; to keep from TCP it needs Linux 6.7, from signals 6.12, the rest 5.19.

    Raises:
        OSError: if the kernel can and did not.
    """
    known = version()
    if known < 2:
        return False
    changes = _WRITE_FILE | _REMOVE_AND_MAKE | _REFER | (_TRUNCATE if known >= 3 else 0)
    tcp = _TCP if known >= 4 and not connects else 0
    handled = (changes | _READ_FILE, tcp, _SCOPES if known >= 6 else 0)
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    rules = _checked(_call(_CREATE, struct.pack("=QQQ", *handled), ctypes.c_size_t(size), ctypes.c_uint32(0)))
    closed = [path.resolve() for path in hidden]
    for place in (Path("/"), *readable):
        for path in _without(place.resolve(), closed):
            _allow(rules, path, _READ_FILE)
    for path in (*writable, Path("/dev")):
        _allow(rules, path, handled[0])
    _checked(ctypes.CDLL(None, use_errno=True).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    _checked(_call(_RESTRICT, ctypes.c_int(rules), ctypes.c_uint32(0)))
    os.close(rules)
    return True


def _without(place: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """The place, or all in it but what is hidden: rules can allow a place, not take one out."""
    if not any(one.is_relative_to(place) for one in hidden):
        yield place
    elif place not in hidden:
        with suppress(OSError):  # one that this user cannot list
            for entry in place.iterdir():
                if not entry.is_symlink():
                    yield from _without(entry, hidden)
                elif not _touches(Path(os.path.realpath(entry)), hidden):
                    yield entry


def _touches(place: Path, hidden: Sequence[Path]) -> bool:
    return any(one.is_relative_to(place) or place.is_relative_to(one) for one in hidden)


def _allow(rules: int, path: Path, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it went, or leads nowhere
        return
    try:
        allowed = access if path.is_dir() else access & _OF_FILES
        rule = struct.pack("=Qi", allowed, place)
        _checked(_call(_ADD_RULE, ctypes.c_int(rules), ctypes.c_int(_BENEATH), rule, ctypes.c_uint32(0)))
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    return int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "Landlock refused a rule")
    return result
